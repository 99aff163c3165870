"""Presets for the memory that is free, and how running out of it is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio import memory, models, sampling
from studio.settings import SamplingSettings


@pytest.mark.parametrize(
    ("gb", "preset"),
    [(None, 24), (80.0, 24), (25.3, 24), (23.9, 16), (12.1, 12), (8.2, 8), (6.0, 6), (1.0, 6)],
)
def test_the_largest_preset_that_fits_is_taken(gb, preset):
    assert memory.preset_for(gb).gb == preset


def test_every_step_down_needs_less_and_there_is_a_last():
    for larger, smaller in zip(memory.PRESETS, memory.PRESETS[1:], strict=False):
        assert memory.smaller(larger) == smaller
        assert smaller.gb < larger.gb
        assert smaller.latents < larger.latents
        assert smaller.latents_kept < larger.latents_kept
        assert smaller.parts_away >= larger.parts_away
        assert smaller.tiled_vae >= larger.tiled_vae
    assert memory.smaller(memory.PRESETS[-1]) == memory.PRESETS[-1]


def test_an_allocation_that_is_too_large_is_known_for_what_it_is():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    assert memory.has_run_out(failure.value)
    assert memory.has_run_out(MemoryError())
    assert memory.has_run_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert not memory.has_run_out(RuntimeError("shapes do not match"))


def test_what_is_available_is_read_from_the_system(tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n", "ascii")
    assert memory._available_gb(meminfo) == pytest.approx(8.192)
    meminfo.write_text("nothing of the kind", "ascii")
    assert memory._available_gb(meminfo) is None
    assert memory._available_gb(tmp_path / "none") is None


def test_saving_memory_changes_no_picture(tiny_model: Path):
    denoiser = models.load(str(tiny_model), "cpu")
    settings = replace(SamplingSettings(), steps=2)
    drawn = []
    for parts_away in (False, True):
        denoiser.save_memory(parts_away, tiled_vae=parts_away)
        chains = sampling.sample(denoiser, ["a cat", "a dog"], [1, 2], settings)
        drawn.append([picture.tobytes() for picture in sampling.images(denoiser, chains)])
    assert drawn[0] == drawn[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_parts_that_are_away_come_to_the_device_for_their_work_alone(tiny_model: Path):
    denoiser = models.load(str(tiny_model), "cuda")
    denoiser.save_memory(parts_away=True, tiled_vae=False)
    chains = sampling.sample(denoiser, ["a cat"], [1], replace(SamplingSettings(), steps=2))
    sampling.images(denoiser, chains)
    assert {p.device.type for p in denoiser.vae.parameters()} == {"cpu"}
    assert {p.device.type for p in denoiser.text_encoders[0].parameters()} == {"cpu"}
