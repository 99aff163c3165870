"""What is common to many gradients: the arithmetic by hand, and a whole run on the starter."""

from __future__ import annotations

import json

import pytest
import torch

from studio.bench.research import gradients

pytestmark = pytest.mark.nightly


def test_the_share_by_hand() -> None:
    """Rows (3, 1) and (3, -1): products of different rows 8, own squares 10."""
    assert gradients.common_share(torch.tensor([[3.0, 1.0], [3.0, -1.0]])) == pytest.approx(0.8)
    assert gradients.common_share(torch.ones(5, 3)) == pytest.approx(1.0)


def test_chance_has_nothing_in_common_and_a_signal_its_share() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn((400, 50), generator=draw)
    assert abs(gradients.common_share(rows)) < 0.01
    assert gradients.common_share(rows + 1.0) == pytest.approx(0.5, abs=0.03)


def test_the_division_of_adam_favours_what_is_only_chance() -> None:
    """One large parameter with a signal, many small ones without."""
    draw = torch.Generator().manual_seed(0)
    found = 0.01 * torch.randn((64, gradients.BANDS, 100), generator=draw)
    found[:, :, 0] = 1.0 + 0.1 * torch.randn((64, gradients.BANDS), generator=draw)
    choices = torch.ones(64)
    choices[::2] = -1
    found[::2] = -found[::2]
    share = gradients.shares(found, choices)
    assert share["all"] > 0.9
    assert share["all_adam"] < 0.2
    assert len(share["bands"]) == gradients.BANDS


def test_who_prefers_what() -> None:
    scores = {"a": 1.0, "b": 2.0}
    pictures = [["a", "b"], ["b", "a"], ["a", "a"]]
    found = gradients.chosen(lambda image, prompt: scores[image], pictures, ["", "", ""])
    assert found.tolist() == [-1.0, 1.0, 0.0]


def test_a_whole_run(tmp_path, capsys) -> None:
    path = tmp_path / "gradients.json"
    gradients.main(
        ["--pairs", "3", "--draws", "1", "--artists", "bright", "dark", "--json", str(path)]
    )
    assert "| bright |" in capsys.readouterr().out
    bright, dark = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert bright["bands"] == dark["bands"]  # the opposite taste has as much in common
    assert all(-0.5 <= share <= 1 for share in bright["bands"])
