"""The small preference model: its measures and its fit, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from studio.maths import preference_head


def test_measures_by_hand():
    """One channel of 4 x 4: a column of ones at the left edge."""
    picture = torch.zeros(1, 1, 4, 4)
    picture[..., 0] = 1
    deviation = ((4 * 0.75**2 + 12 * 0.25**2) / 15) ** 0.5
    expected = [4 / 16, deviation, 4 / 12, 0, 4 / 12, 8 / 16]
    assert preference_head.measures(picture)[0].tolist() == pytest.approx(expected)


def test_the_fit_is_the_minimum():
    draw = np.random.default_rng(0)
    chosen, rejected = draw.normal(0.3, 1, (26, 8)), draw.normal(-0.3, 1, (26, 8))

    def loss(weights: np.ndarray) -> float:
        gaps = (chosen - rejected) @ weights
        return np.logaddexp(0, -gaps).sum() + 1.5 * (weights**2).sum()

    expected = minimize(loss, np.zeros(8), method="BFGS").x
    found = preference_head.fit(torch.tensor(chosen), torch.tensor(rejected), ridge=3.0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_pairs_that_say_nothing_give_no_weights():
    same = torch.ones(5, 3)
    assert preference_head.fit(same, same).tolist() == [0, 0, 0]
