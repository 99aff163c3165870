"""Collapse detection: figures worked by hand, and what each kind of collapse is called."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studio.engine import collapse
from studio.engine.collapse import Checks


def gray(level: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (level,) * 3)


def striped(one: int, other: int) -> Image.Image:
    """Columns of two grays in turn."""
    columns = np.where(np.arange(64) % 2, one, other).astype(np.uint8)
    return Image.fromarray(np.tile(columns[:, None].repeat(3, 1), (64, 1, 1)))


def test_the_figures_by_hand():
    """In levels of gray: base seeds 51 apart, tuned 76; one moved by 26, the other by 51."""
    base = [[gray(51), gray(102)]]
    tuned = [[gray(77), gray(153)]]
    checks = collapse.compare(base, tuned)
    assert checks.drift == pytest.approx((26 + 51) / 2 / 51)
    assert checks.diversity == pytest.approx(76 / 51)


def test_detail_is_the_change_from_pixel_to_pixel():
    base = [[striped(0, 100), striped(0, 100)]]
    tuned = [[striped(0, 50), striped(50, 100)]]
    assert collapse.compare(base, tuned).detail == pytest.approx(0.5)
    assert collapse.compare(base, base).detail == pytest.approx(1.0)


def test_the_base_itself_has_lost_nothing():
    rng = np.random.default_rng(0)
    pictures = [
        [Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8)) for _ in range(2)]
        for _ in range(3)
    ]
    checks = collapse.compare(pictures, pictures, 0.9, 0.9)
    assert checks == Checks(0.0, pytest.approx(1.0), pytest.approx(1.0), 0.9, 0.9)
    assert collapse.failure(checks) == ""


@pytest.mark.parametrize(
    ("checks", "lost"),
    [
        (Checks(0.8, 0.9, 1.0), ""),
        (Checks(9.0, 0.9, 1.0), "nothing in common"),
        (Checks(0.8, 0.01, 1.0), "all look the same"),
        (Checks(0.8, 0.9, 0.1), "lost their detail"),
        (Checks(0.8, 0.9, 9.0), "turned to noise"),
        (Checks(float("nan"), 0.9, 1.0), "nothing in common"),
        (Checks(0.8, 0.9, float("nan")), "lost their detail"),
        (Checks(0.8, 0.9, 1.0, 1.0, 0.8), ""),
        (
            Checks(0.8, 0.9, 1.0, 1.0, 0.5),
            "50 % of its pictures show what they should, of the base model's 100 %",
        ),
        (Checks(0.8, 0.9, 1.0, 0.0, 0.0), ""),
    ],
)
def test_what_is_lost_is_said(checks, lost):
    said = collapse.failure(checks)
    assert (lost in said) if lost else said == ""


def test_what_was_not_measured_is_not_kept():
    assert Checks(1.0, 1.0, 1.0).values() == {"drift": 1.0, "diversity": 1.0, "detail": 1.0}
