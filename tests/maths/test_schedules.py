"""The step maths against diffusers' scheduler, torch's Normal, and numbers worked by hand."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

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
        step = schedules.ddim_step(alpha_bar, alpha_bar_prev, eta)
        drawn = schedules.step_mean(latent, noise_pred, step) + step.s * noise
        torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
        clean_and_noise = schedules.prediction(
            output, latent, step.alpha, step.variance, prediction_type
        )
        drawn = schedules.mean_of(*clean_and_noise, step) + step.s * noise
        torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-4)


def test_a_step_of_a_flow_without_noise_is_diffusers_eulers() -> None:
    """From pure noise, where alpha is 0, to the picture, where sigma is 0."""
    made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made.set_timesteps(6)
    draw = torch.Generator().manual_seed(4)
    for index, timestep in enumerate(made.timesteps):
        latent, output = (torch.randn(SHAPE, generator=draw) for _ in range(2))
        expected = made.step(output, timestep, latent).prev_sample
        step = schedules.flow_step(made.sigmas[index], made.sigmas[index + 1], eta=0.0)
        clean_and_noise = schedules.prediction(
            output, latent, step.alpha, step.variance, "flow_prediction"
        )
        assert step.s == 0
        torch.testing.assert_close(schedules.mean_of(*clean_and_noise, step), expected)
        torch.testing.assert_close(schedules.step_mean(latent, output, step), expected)


def test_a_step_of_a_flow_by_hand() -> None:
    # Flow-CPS, sigma 0.8 to 0.5, eta 1/3: s = 0.5 sin(30°) = 0.25, what is left of eps_hat is
    # sqrt(0.25 - 0.0625) = sqrt(3)/4. Latent 1, velocity -0.5: x0_hat = 1 + 0.8 · 0.5 = 1.4,
    # eps_hat = 1 - 0.2 · 0.5 = 0.9
    step = schedules.flow_step(torch.tensor(0.8), torch.tensor(0.5), eta=1 / 3)
    one = torch.ones(1, 1, 1, 1)
    hats = schedules.prediction(-0.5 * one, one, step.alpha, step.variance, "flow_prediction")
    assert [hat.item() for hat in hats] == pytest.approx([1.4, 0.9])
    assert step.s.item() == pytest.approx(0.25)
    mean = schedules.mean_of(*hats, step).item()
    assert mean == pytest.approx(0.5 * 1.4 + math.sqrt(3) / 4 * 0.9)
    # collected: (0.5 + sqrt(3)/4) · latent + (sqrt(3)/4 · 0.2 - 0.5 · 0.8) · velocity
    assert step.of_latent.item() == pytest.approx(0.5 + math.sqrt(3) / 4)
    assert step.of_prediction.item() == pytest.approx(math.sqrt(3) / 20 - 0.4)
    assert schedules.step_mean(one, -0.5 * one, step).item() == pytest.approx(mean)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction", "sample"])
def test_what_a_network_predicts_is_turned_into_picture_and_noise(kind: str) -> None:
    draw = torch.Generator().manual_seed(5)
    x0, eps = torch.randn(2, *SHAPE, generator=draw, dtype=torch.float64)
    sigma = torch.tensor([0.3, 0.7], dtype=torch.float64)
    alpha = 1 - sigma if kind == "flow_prediction" else (1 - sigma.square()).sqrt()
    over = (slice(None), None, None, None)
    latent = alpha[over] * x0 + sigma[over] * eps
    output = {
        "epsilon": eps,
        "v_prediction": alpha[over] * eps - sigma[over] * x0,
        "flow_prediction": eps - x0,
        "sample": x0,
    }[kind]
    found = schedules.prediction(output, latent, alpha, sigma.square(), kind)
    torch.testing.assert_close(found, (x0, eps))
    with pytest.raises(ValueError, match="not supported"):
        schedules.prediction(output, latent, alpha, sigma.square(), "colour")


@pytest.mark.parametrize(
    "step",
    [
        schedules.ddim_step(torch.tensor([0.5, 0.3]), torch.tensor([0.6, 0.45]), 1.0),
        schedules.flow_step(torch.tensor([1.0, 0.6]), torch.tensor([0.9, 0.45]), 0.7),
    ],
    ids=["diffusion", "flow"],
)
def test_log_prob_agrees_with_torch_normal(step: schedules.Step) -> None:
    draw = torch.Generator().manual_seed(2)
    latent, prediction, next_latent = (torch.randn(SHAPE, generator=draw) for _ in range(3))
    args = (latent, prediction, step)
    mean = schedules.step_mean(*args)
    normal = torch.distributions.Normal(mean, step.s[:, None, None, None])
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
    step = schedules.ddim_step(alpha_bar, alpha_bar_prev, 1.0)
    args = (one, 0.5 * one, step)
    assert schedules.step_mean(*args).item() == pytest.approx(mean, rel=1e-5)
    assert step.of_prediction.item() == pytest.approx(coefficient, rel=1e-5)
    expected = -((2.0 - mean) ** 2) / (2 * 0.2925)
    assert schedules.log_prob(2 * one, *args, "sum").item() == pytest.approx(expected, rel=1e-4)


def test_noise_reduction_weighs_an_error_in_noise_alike_at_every_step() -> None:
    alpha_bar = torch.tensor([0.01, 0.5, 0.99])
    alpha_bar_prev = torch.tensor([0.05, 0.6, 0.999])
    draw = torch.Generator().manual_seed(3)
    latent, noise = torch.randn(3, 4, 8, 8, generator=draw), torch.randn(3, 4, 8, 8, generator=draw)
    step = schedules.ddim_step(alpha_bar, alpha_bar_prev, 1.0)
    reached = schedules.step_mean(latent, noise, step)
    wrong = noise + 0.1
    values = schedules.log_prob(reached, latent, wrong, step, "noise")
    torch.testing.assert_close(values, torch.full((3,), -0.01), rtol=1e-3, atol=1e-5)


def test_a_change_of_velocity_moves_every_log_ratio_alike() -> None:
    alpha_bar = torch.tensor([0.01, 0.5, 0.99])
    alpha_bar_prev = torch.tensor([0.05, 0.6, 0.999])
    draw = torch.Generator().manual_seed(3)
    latent, velocity = torch.randn(2, 3, 4, 8, 8, generator=draw, dtype=torch.float64)

    def value(change: float) -> torch.Tensor:
        predicted = schedules.noise_of(velocity + change, latent, alpha_bar, "v_prediction")
        step = schedules.ddim_step(alpha_bar, alpha_bar_prev, 1.0)
        exact = schedules.noise_of(velocity, latent, alpha_bar, "v_prediction")
        drawn = schedules.step_mean(latent, exact + 0.5, step)  # a draw half a noise away
        weight = schedules.output_weight(alpha_bar, "v_prediction")
        return weight * schedules.log_prob(drawn, latent, predicted, step, "noise")

    # d/dv of -(0.5 - sqrt(a) v)² / sqrt(a) at v = 0 is 2 · 0.5 = 1, whatever a is
    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    torch.testing.assert_close(slope, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert schedules.output_weight(alpha_bar, "epsilon").tolist() == [1, 1, 1]


def reference_flow_steps(
    latent: torch.Tensor, velocity: torch.Tensor, sigma: float, next_sigma: float, eta: float
) -> dict[str, tuple[torch.Tensor, float]]:
    """(mean, spread) of a stochastic flow step by the formulas of other authors' published code, as
    they stand there. eta: the spread per square root of time."""
    dt = next_sigma - sigma  # negative
    score = -(latent - (1 - sigma) * (latent - sigma * velocity)) / sigma**2
    drift = eta**2 / (2 * sigma) * dt
    return {
        # arXiv 2505.05470; eta is its std_dev_t
        "Flow-GRPO": (
            latent * (1 + drift) + velocity * (dt + drift * (1 - sigma)),
            eta * math.sqrt(-dt),
        ),
        # arXiv 2505.07818
        "DanceGRPO": (latent + velocity * dt - eta**2 / 2 * score * dt, eta * math.sqrt(-dt)),
    }


@pytest.mark.parametrize("name", ["Flow-GRPO", "DanceGRPO"])
def test_small_flow_steps_are_those_of_other_authors(name: str) -> None:
    """They discretise one stochastic differential equation: with the same spread the means differ
    in second order, so that half a step has a quarter of the difference."""
    draw = torch.Generator().manual_seed(6)
    latent, velocity = torch.randn(2, *SHAPE, generator=draw, dtype=torch.float64)

    def difference(dt: float) -> float:
        mean, spread = reference_flow_steps(latent, velocity, 0.6, 0.6 - dt, eta=0.7)[name]
        eta = math.asin(spread / (0.6 - dt)) * 2 / math.pi
        sigmas = torch.tensor([0.6, 0.6 - dt], dtype=torch.float64)
        step = schedules.flow_step(*sigmas, eta)
        assert step.s.item() == pytest.approx(spread)
        moved = (mean - latent).norm()
        return ((schedules.step_mean(latent, velocity, step) - mean).norm() / moved).item()

    assert difference(1e-3) < 2e-3
    # relative to the way of the step, which halves too
    assert difference(1e-3) / difference(5e-4) == pytest.approx(2, rel=0.02)


def test_a_change_of_a_flows_velocity_moves_every_log_ratio_alike() -> None:
    sigmas = torch.tensor([1.0, 0.98, 0.7, 0.3, 0.0], dtype=torch.float64)
    schedule = schedules.FlowSchedule(1000 * sigmas[:-1], sigmas[:-1], sigmas[1:])
    steps = schedule.stochastic_steps(0.7)
    assert steps.tolist() == [0, 1, 2]  # the last one ends without noise
    assert schedule.stochastic_steps(0.0).tolist() == []
    draw = torch.Generator().manual_seed(3)
    latent, velocity, z = torch.randn(3, 3, 4, 8, 8, generator=draw, dtype=torch.float64)
    step = schedule.step(steps, 0.7)
    drawn = schedules.step_mean(latent, velocity, step) + step.s[:, None, None, None] * z

    def value(change: float) -> torch.Tensor:
        log_prob = schedules.log_prob(drawn, latent, velocity + change, step, "noise")
        return schedule.output_weight(steps, 0.7, "flow_prediction") * log_prob

    # d/dv of -mean((s z / c - v)²) · |c| / s at v = 0 is 2 mean(z) · sign(c), and c is negative
    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    torch.testing.assert_close(slope, -2 * z.mean((1, 2, 3)), rtol=1e-6, atol=1e-9)


def test_a_schedule_of_two_lengths_is_none() -> None:
    two, three = torch.ones(2), torch.ones(3)
    with pytest.raises(ValueError, match="timesteps, sigma, next_sigma must have the same length"):
        schedules.FlowSchedule(two, two, three)


def test_a_step_without_noise_has_no_log_probability() -> None:
    one = torch.ones(1, 1, 1, 1)
    half = torch.tensor([0.5])
    with pytest.raises(ValueError, match="without noise"):
        schedules.log_prob(one, one, one, schedules.ddim_step(half, half + 0.1, 0.0), "sum")


def test_steps_without_noise_are_left_out() -> None:
    schedule = schedules.DiffusionSchedule(
        torch.tensor([900, 500, 100]),
        torch.tensor([0.1, 0.5, 0.9]),
        torch.tensor([0.5, 0.9, 1.0]),
    )
    assert schedule.stochastic_steps(1.0).tolist() == [0, 1]
    assert schedule.stochastic_steps(0.0).tolist() == []
