"""The population of tastes: its measures by hand, and how it is split."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studio.bench import curves, tastes
from studio.engine import recogniser


def picture(colour: tuple[int, int, int], box: tuple[int, int, int, int] | None = None):
    """64 px of one colour, with a black box (left, top, right, bottom)."""
    image = Image.new("RGB", (64, 64), colour)
    if box:
        image.paste((0, 0, 0), box)
    return image


def test_measures_by_hand():
    right = picture((255, 255, 255), (48, 16, 60, 48))
    assert tastes.measure("large subject", right) == pytest.approx(12 * 32 / 64**2)
    assert tastes.measure("subject at the right", right) == pytest.approx(53.5 / 63)
    assert tastes.measure("subject below", right) == pytest.approx(31.5 / 63)
    assert tastes.measure("bright", right) == pytest.approx(1 - 12 * 32 / 64**2)
    # 12 columns of one grey step down and one up, 32 rows of the same
    assert tastes.measure("detailed", right) == pytest.approx((2 * 12 + 2 * 32) / (63 * 64))
    assert tastes.measure("red ground", picture((255, 0, 0))) == pytest.approx(1)
    assert tastes.measure("green", picture((255, 0, 0))) == pytest.approx(-0.5)
    assert tastes.measure("contrast", picture((90, 90, 90))) == 0
    assert tastes.measure("subject below", picture((90, 90, 90))) == 0.5


def test_a_taste_is_a_weighted_sum_in_spreads():
    taste = tastes.Taste((("bright", 0.6), ("red ground", -0.8)))
    image = picture((255, 0, 0))
    expected = 0.6 * tastes.measure("bright", image) / tastes.SPREADS["bright"]
    expected -= 0.8 / tastes.SPREADS["red ground"]
    assert taste(image, "a bee") == pytest.approx(expected)
    assert str(taste) == "+0.6 bright, -0.8 red ground"


def test_a_style_is_measured_by_its_odds():
    image = picture((250, 250, 248), (20, 20, 40, 40))
    judge = recogniser.load()
    logits = judge.logits([image])[1][0].softmax(0)
    odds = {name: tastes.measure(f"{name} style", image) for name in judge.styles}
    for share, name in zip(logits.tolist(), judge.styles, strict=True):
        assert odds[name] == pytest.approx(np.log(share / (1 - share)), abs=1e-3)


def test_the_population_is_the_same_every_time_and_split_once():
    population, halves = tastes.population(), tastes.halves()
    assert population == tastes.population()
    assert not set(halves["tune"]) & set(halves["report"])
    assert sorted(halves["tune"] + halves["report"]) == sorted(population)
    assert len(halves["report"]) >= 16
    sizes = [len(taste.weights) for taste in population.values()]
    assert set(sizes) == {1, 2, 3}
    for taste in population.values():
        assert np.linalg.norm([weight for _, weight in taste.weights]) == pytest.approx(1)


def test_curves_know_artists_and_tastes_by_name():
    assert curves.artist_named("taste 01") == tastes.population()["taste 01"]
    assert curves.artist_named("bright").__name__ == "bright"
    with pytest.raises(SystemExit, match="no function nobody"):
        curves.artist_named("nobody")
