"""ScalarAdam against Adam, and against a rotation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.maths.scalar_adam import ScalarAdam

GRADIENTS = [[3.0, -4.0], [1.0, 2.0], [0.5, 0.0]]


def moved(gradients: list[list[float]], lr: float = 0.1, scale: float = 1.0) -> torch.Tensor:
    """Where a parameter that began at 0 is after these gradients."""
    parameter = torch.nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    optimizer = ScalarAdam([parameter], lr=lr)
    for gradient in gradients:
        parameter.grad = scale * torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return parameter.detach()


def test_of_a_single_number_it_is_adam() -> None:
    mine = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adams = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizers = ScalarAdam([mine], lr=0.1), torch.optim.Adam([adams], lr=0.1, eps=0.0)
    for gradient in (3.0, -1.0, 0.25, 8.0, -2.0):
        for parameter, optimizer in zip((mine, adams), optimizers, strict=True):
            parameter.grad = torch.full((1,), gradient, dtype=torch.float64)
            optimizer.step()
        torch.testing.assert_close(mine, adams)


def test_the_first_step_by_hand() -> None:
    """The gradient (3, -4) has the mean square 12.5: a step of lr times itself / sqrt(12.5)."""
    torch.testing.assert_close(
        moved(GRADIENTS[:1]), torch.tensor([-0.3, 0.4], dtype=torch.float64) / 12.5**0.5
    )


def test_the_scale_is_of_all_tensors_together() -> None:
    together = moved(GRADIENTS)
    apart = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
    optimizer = ScalarAdam(apart, lr=0.1)
    for gradient in GRADIENTS:
        for parameter, value in zip(apart, gradient, strict=True):
            parameter.grad = torch.full((1,), value, dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(torch.cat([one.detach() for one in apart]), together)


def test_groups_with_rates_of_their_own_share_the_scale() -> None:
    """(3, -4) has the mean square 12.5, whichever groups the two are in."""
    parameters = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
    fast, slow = parameters
    optimizer = ScalarAdam([{"params": [fast]}, {"params": [slow], "lr": 0.025}], lr=0.1)
    for parameter, value in zip(parameters, (3.0, -4.0), strict=True):
        parameter.grad = torch.full((1,), value, dtype=torch.float64)
    optimizer.step()
    assert fast.item() == pytest.approx(-0.3 / 12.5**0.5)
    assert slow.item() == pytest.approx(0.1 / 12.5**0.5)


@given(st.floats(1e-6, 1e6))
def test_the_units_of_the_loss_do_not_matter(scale: float) -> None:
    torch.testing.assert_close(moved(GRADIENTS, scale=scale), moved(GRADIENTS))


@given(st.floats(-3.2, 3.2))
def test_a_turned_gradient_is_a_turned_step(angle: float) -> None:
    """What Adam does not do: no parameter is favoured for being small."""
    turn = torch.tensor(angle, dtype=torch.float64)
    rotation = torch.stack(
        [torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])]
    )
    gradients = torch.tensor(GRADIENTS, dtype=torch.float64)
    torch.testing.assert_close(
        moved((gradients @ rotation.T).tolist()), rotation @ moved(GRADIENTS)
    )


def test_it_goes_on_from_a_state_to_the_bit() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ScalarAdam([parameter], lr=0.1)
    parameter.grad = torch.tensor(GRADIENTS[0], dtype=torch.float64)
    optimizer.step()
    other = torch.nn.Parameter(parameter.detach().clone())
    continued = ScalarAdam([other], lr=0.1)
    continued.load_state_dict(optimizer.state_dict())
    for gradient in GRADIENTS[1:]:
        other.grad = torch.tensor(gradient, dtype=torch.float64)
        continued.step()
    assert torch.equal(other, moved(GRADIENTS))


@pytest.mark.parametrize("gradient", [None, [0.0, 0.0]])
def test_without_a_gradient_nothing_moves(gradient: list[float] | None) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    ScalarAdam([parameter], lr=0.1).step()
    assert torch.equal(parameter.detach(), torch.ones(2))
