"""The preference losses against numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.maths.objectives import d3po_loss, diffusion_dpo_loss


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_d3po_by_hand() -> None:
    # log-ratios: chosen -1 - (-3) = 2, rejected -4 - (-3.5) = -0.5; margin 2.5; beta
    # 0.4: sigmoid(1)
    loss, margin = d3po_loss(of(-1), of(-4), of(-3), of(-3.5), beta=0.4)
    assert margin.item() == pytest.approx(2.5)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1))))


def test_an_untrained_adapter_loses_log_2_and_pulls_both_ways() -> None:
    chosen, rejected = of(-5).requires_grad_(), of(-7).requires_grad_()
    loss, margin = d3po_loss(chosen, rejected, of(-5), of(-7), beta=0.1)
    loss.sum().backward()
    assert margin.item() == 0.0
    assert loss.item() == pytest.approx(math.log(2))
    # d loss / d chosen = -beta · sigmoid(-margin) = -0.05
    assert chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad.item() == pytest.approx(0.05)


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_published_loss_stays_between_its_bounds(chosen: float, rejected: float) -> None:
    loss, _ = d3po_loss(of(chosen), of(rejected), of(0), of(0), beta=0.1, clip_range=0.1)
    assert 0.683 < loss.item() < 0.704


def test_a_clipped_step_has_no_gradient() -> None:
    chosen = of(3.0).requires_grad_()
    loss, _ = d3po_loss(chosen, of(0), of(0), of(0), beta=0.1, clip_range=0.1)
    loss.sum().backward()
    assert chosen.grad.item() == 0.0


def test_diffusion_dpo_by_hand() -> None:
    # chosen error fell by 0.2, rejected rose by 0.1: margin 0.5 (0.2 + 0.1) = 0.15; beta 20: 3
    loss, margin = diffusion_dpo_loss(of(0.3), of(0.6), of(0.5), of(0.5), beta=20)
    assert margin.item() == pytest.approx(0.15)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-3))))
