"""The command, on small models: the true size is for those who run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from studio import models
from studio.bench import full_size
from studio.bench.families import make_unet
from studio.settings import OBJECTIVES


def test_a_family_goes_the_whole_way(tmp_path: Path, capsys):
    figures = tmp_path / "figures.json"
    asked = ["--family", "sdxl", "--narrow", "--px", "64", "--updates", "2"]
    assert full_size.main([*asked, "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["folder_and_file_draw_the_same"]
    assert len(found["updates"]) == 2
    assert set(found["diffusers"]) == {"base", "tuned", "tuned-diffusers"}
    assert found["kept_mb_512_px"]["plain"] >= found["kept_mb_512_px"]["checkpointing"]
    assert "in diffusers, tuned-diffusers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folder_and_file_draw_the_same": False}, "the folder and the file"),
        ({"diffusers": {"tuned": {"levels_to_ours": 2.0, "levels_to_the_other": 9.0}}}, "tuned"),
        ({"diffusers": {"tuned": {"levels_to_ours": 0.2, "levels_to_the_other": 0.1}}}, "tuned"),
    ],
)
def test_what_comes_out_wrong_is_said(changes, said):
    right = {"levels_to_ours": 0.0, "levels_to_the_other": 3.0}
    figures = {
        "folder_and_file_draw_the_same": True,
        "dtype": "float32",
        "diffusers": {"tuned": right},
    }
    assert full_size.complaints(figures) == []
    [complaint] = full_size.complaints(figures | changes)
    assert said in complaint


def test_what_is_kept_is_counted(tiny_model: Path):
    """Twice the latents are twice as much; the weights are not among it."""
    denoiser = models.load(str(tiny_model), "cpu")
    assert full_size.saved_mb(denoiser, 64, checkpointing=False) == 0  # nothing is to be learned
    denoiser.adapters.new(OBJECTIVES["diffusion_dpo"])
    plain, large = (full_size.saved_mb(denoiser, px, checkpointing=False) for px in (64, 128))
    assert 2 * plain < large < 8 * plain
    assert full_size.saved_mb(denoiser, 64, checkpointing=True) < plain


def test_the_true_sizes_are_the_true_sizes():
    with torch.device("meta"):
        sizes = {
            family: sum(p.numel() for p in make_unet(family, narrow=False).parameters())
            for family in ("sd1", "sd2", "sdxl")
        }
    assert sizes == {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}
