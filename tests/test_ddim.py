"""The step maths against diffusers' scheduler, torch's Normal, and numbers worked by hand."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from studio.maths import schedules

SHAPE = (2, 4, 8, 8)


def scheduler(prediction_type: str, spacing: str, steps: int) -> DDIMScheduler:
    made = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    made.set_timesteps(steps)
    return made


def alphas(made: DDIMScheduler, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    timestep = int(made.timesteps[index])
    previous = timestep - made.config.num_train_timesteps // made.num_inference_steps
    before = made.alphas_cumprod[previous] if previous >= 0 else made.final_alpha_cumprod
    return made.alphas_cumprod[timestep], before


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_every_step_agrees_with_diffusers(prediction_type: str, spacing: str, eta: float) -> None:
    made = scheduler(prediction_type, spacing, 20)
    draw = torch.Generator().manual_seed(1)
    for index, timestep in enumerate(made.timesteps):
        latent, output, noise = (torch.randn(SHAPE, generator=draw) for _ in range(3))
        expected = made.step(output, timestep, latent, eta=eta, variance_noise=noise).prev_sample
        alpha_bar, alpha_bar_prev = alphas(made, index)
        noise_pred = schedules.noise_of(output, latent, alpha_bar, prediction_type)
        mean = schedules.step_mean(latent, noise_pred, alpha_bar, alpha_bar_prev, eta)
        deviation = schedules.sigma(alpha_bar, alpha_bar_prev, eta)
        torch.testing.assert_close(mean + deviation * noise, expected, rtol=1e-4, atol=1e-4)


def test_log_prob_agrees_with_torch_normal() -> None:
    alpha_bar, alpha_bar_prev = torch.tensor([0.5, 0.3]), torch.tensor([0.6, 0.45])
    draw = torch.Generator().manual_seed(2)
    latent, noise_pred, next_latent = (torch.randn(SHAPE, generator=draw) for _ in range(3))
    args = (latent, noise_pred, alpha_bar, alpha_bar_prev, 1.0)
    mean = schedules.step_mean(*args)
    deviation = schedules.sigma(alpha_bar, alpha_bar_prev, 1.0)
    normal = torch.distributions.Normal(mean, deviation[:, None, None, None])
    # the two differ by a constant of the step, so differences of two points must agree
    other = torch.randn(SHAPE, generator=draw)
    for reduction, reduce in (("sum", torch.sum), ("mean", torch.mean)):
        ours = schedules.log_prob(next_latent, *args, reduction) - schedules.log_prob(
            other, *args, reduction
        )
        theirs = normal.log_prob(next_latent) - normal.log_prob(other)
        torch.testing.assert_close(ours, reduce(theirs, (1, 2, 3)), rtol=1e-4, atol=1e-3)


def test_log_prob_of_one_number_by_hand() -> None:
    # a = 0.25, a_prev = 0.64, eta = 1: sigma² = (0.36 / 0.75)(1 - 0.25 / 0.64) = 0.2925;
    # latent 1, noise 0.5: mean = 0.8 / 0.5 + c · 0.5,
    # c = sqrt(0.36 - 0.2925) - 0.8 sqrt(0.75) / 0.5
    alpha_bar, alpha_bar_prev = torch.tensor([0.25]), torch.tensor([0.64])
    coefficient = math.sqrt(0.0675) - 0.8 * math.sqrt(0.75) / 0.5
    mean = 1.6 + coefficient * 0.5
    one = torch.ones(1, 1, 1, 1)
    args = (one, 0.5 * one, alpha_bar, alpha_bar_prev, 1.0)
    assert schedules.step_mean(*args).item() == pytest.approx(mean, rel=1e-5)
    assert schedules.noise_coefficient(alpha_bar, alpha_bar_prev, 1.0).item() == pytest.approx(
        coefficient, rel=1e-5
    )
    expected = -((2.0 - mean) ** 2) / (2 * 0.2925)
    assert schedules.log_prob(2 * one, *args, "sum").item() == pytest.approx(expected, rel=1e-4)


def test_noise_reduction_weighs_an_error_in_noise_alike_at_every_step() -> None:
    alpha_bar = torch.tensor([0.01, 0.5, 0.99])
    alpha_bar_prev = torch.tensor([0.05, 0.6, 0.999])
    draw = torch.Generator().manual_seed(3)
    latent, noise = torch.randn(3, 4, 8, 8, generator=draw), torch.randn(3, 4, 8, 8, generator=draw)
    reached = schedules.step_mean(latent, noise, alpha_bar, alpha_bar_prev, 1.0)
    wrong = noise + 0.1
    values = schedules.log_prob(reached, latent, wrong, alpha_bar, alpha_bar_prev, 1.0, "noise")
    torch.testing.assert_close(values, torch.full((3,), -0.01), rtol=1e-3, atol=1e-5)


def test_a_change_of_velocity_moves_every_log_ratio_alike() -> None:
    alpha_bar = torch.tensor([0.01, 0.5, 0.99])
    alpha_bar_prev = torch.tensor([0.05, 0.6, 0.999])
    draw = torch.Generator().manual_seed(3)
    latent, velocity = torch.randn(2, 3, 4, 8, 8, generator=draw, dtype=torch.float64)

    def value(change: float) -> torch.Tensor:
        predicted = schedules.noise_of(velocity + change, latent, alpha_bar, "v_prediction")
        steps = (alpha_bar, alpha_bar_prev, 1.0)
        exact = schedules.noise_of(velocity, latent, alpha_bar, "v_prediction")
        drawn = schedules.step_mean(latent, exact + 0.5, *steps)  # a draw half a noise away
        weight = schedules.output_weight(alpha_bar, "v_prediction")
        return weight * schedules.log_prob(drawn, latent, predicted, *steps, "noise")

    # d/dv of -(0.5 - sqrt(a) v)² / sqrt(a) at v = 0 is 2 · 0.5 = 1, whatever a is
    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    torch.testing.assert_close(slope, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert schedules.output_weight(alpha_bar, "epsilon").tolist() == [1, 1, 1]


def test_a_step_without_noise_has_no_log_probability() -> None:
    one = torch.ones(1, 1, 1, 1)
    half = torch.tensor([0.5])
    with pytest.raises(ValueError, match="without noise"):
        schedules.log_prob(one, one, one, half, half + 0.1, 0.0, "sum")


def test_steps_without_noise_are_left_out() -> None:
    schedule = schedules.Schedule(
        torch.tensor([900, 500, 100]),
        torch.tensor([0.1, 0.5, 0.9]),
        torch.tensor([0.5, 0.9, 1.0]),
    )
    assert schedule.stochastic_steps(1.0).tolist() == [0, 1]
    assert schedule.stochastic_steps(0.0).tolist() == []
