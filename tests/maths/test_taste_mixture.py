"""The mixture of tastes that picks point to, against numbers worked by hand."""

import math

import pytest
import torch

from studio.maths.taste_mixture import mixture


def test_one_taste_by_hand() -> None:
    """Four picks with a margin of 1: 4 (1 - sigmoid(w)) = log(w / (1 - w)) at w = 0.7787."""
    [weight] = mixture(torch.ones(4, 1)).tolist()
    assert weight == pytest.approx(0.7787, abs=1e-4)
    assert 4 / (1 + math.exp(weight)) == pytest.approx(math.log(weight / (1 - weight)), abs=1e-4)


def test_before_the_first_pick_all_weigh_alike_and_the_base_with_them() -> None:
    assert mixture(torch.zeros(0, 3)).tolist() == pytest.approx([0.25] * 3)


def test_tastes_that_the_picks_contradict_give_way_to_the_base() -> None:
    weights = mixture(-2 * torch.ones(8, 2))
    assert weights.sum() < 0.1
    assert weights[0] == pytest.approx(weights[1].item(), abs=1e-5)


def test_a_taste_that_explains_the_picks_outweighs_one_that_does_not() -> None:
    draw = torch.Generator().manual_seed(1)
    right = torch.rand(8, generator=draw) + 1
    neither = torch.randn(8, generator=draw)
    first, second = mixture(torch.stack([right, neither], 1)).tolist()
    assert first > 0.6 > 0.3 > second
    both = mixture(torch.stack([right, right], 1))
    assert both[0] == pytest.approx(both[1].item(), abs=1e-5)
