"""The preference losses against numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.maths.objectives import clipped_dpo, dpo


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_by_hand() -> None:
    # gains: chosen -1 - (-3) = 2, rejected -4 - (-3.5) = -0.5; margin 2.5; beta 0.4: sigmoid(1)
    loss = dpo(of(2), of(-0.5), beta=0.4)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1))))
    assert clipped_dpo(of(2), of(-0.5), beta=0.4).item() == loss.item()


def test_an_untrained_adapter_loses_log_2_and_pulls_both_ways() -> None:
    chosen, rejected = of(0).requires_grad_(), of(0).requires_grad_()
    loss = dpo(chosen, rejected, beta=0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    # d loss / d chosen = -beta · sigmoid(-margin) = -0.05
    assert chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad.item() == pytest.approx(0.05)


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_published_loss_stays_between_its_bounds(chosen: float, rejected: float) -> None:
    loss = clipped_dpo(of(chosen), of(rejected), beta=0.1, clip_range=0.1)
    assert 0.683 < loss.item() < 0.704


def test_a_ratio_is_kept_within_its_range() -> None:
    loss = clipped_dpo(of(3.0), of(-3.0), beta=1.0, clip_range=0.1)  # margin ln(1.1 / 0.9)
    assert loss.item() == pytest.approx(math.log(1 + 0.9 / 1.1))


def test_a_clipped_step_has_no_gradient() -> None:
    chosen = of(3.0).requires_grad_()
    clipped_dpo(chosen, of(0), beta=0.1, clip_range=0.1).sum().backward()
    assert chosen.grad.item() == 0.0
