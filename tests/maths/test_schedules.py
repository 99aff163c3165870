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


# --- a step given the end of its chain -----------------------------------------------------------


def test_a_step_given_its_end_by_hand() -> None:
    # alpha 0.6 to 0.8, eta 1: s² = (0.36 / 0.64)(1 - 0.36 / 0.64) = 63/256, and what is left of eps
    # is sqrt(0.36 - 63/256) = 0.3375. Latent 1, end 0.5: eps = (1 - 0.6 · 0.5) / 0.8 = 0.875
    one = torch.ones(1, 1, 1, 1)
    step = schedules.ddim_step(torch.tensor([0.36]), torch.tensor([0.64]), 1.0)
    expected = 0.8 * 0.5 + 0.3375 * 0.875
    assert schedules.mean_given_end(one, one / 2, step).item() == pytest.approx(expected)
    # the flow above: alpha 0.2, sigma 0.8 to 0.5, sqrt(3)/4 of eps. eps = (1 - 0.1) / 0.8 = 1.125
    step = schedules.flow_step(torch.tensor(0.8), torch.tensor(0.5), eta=1 / 3)
    expected = 0.5 * 0.5 + math.sqrt(3) / 4 * 1.125
    assert schedules.mean_given_end(one, one / 2, step).item() == pytest.approx(expected)
    # from pure noise the latent is the noise
    step = schedules.flow_step(torch.tensor(1.0), torch.tensor(0.5), eta=1 / 3)
    expected = 0.5 * 0.5 + math.sqrt(3) / 4
    assert schedules.mean_given_end(one, one / 2, step).item() == pytest.approx(expected)


def test_a_step_given_its_end_is_ddpms_posterior() -> None:
    """Ho et al., arXiv 2006.11239, eq. 7, which DDIM with eta 1 has in other letters."""
    draw = torch.Generator().manual_seed(7)
    latent, end = torch.randn(2, *SHAPE, generator=draw, dtype=torch.float64)
    a, before = torch.tensor([0.3, 0.9]).double(), torch.tensor([0.5, 0.95]).double()
    beta, kept = 1 - a / before, (a / before).sqrt()
    of_end, of_latent = before.sqrt() * beta / (1 - a), kept * (1 - before) / (1 - a)
    over = (slice(None), None, None, None)
    step = schedules.ddim_step(a, before, 1.0)
    found = schedules.mean_given_end(latent, end, step)
    torch.testing.assert_close(found, of_end[over] * end + of_latent[over] * latent)
    torch.testing.assert_close(step.s.square(), (1 - before) / (1 - a) * beta)


class NormalPictures:
    """Pictures from N(mean, variance), and the network that knows it: all is exact."""

    def __init__(self, mean: float, variance: float) -> None:
        self.mean, self.variance = mean, variance

    def of(self, latent: torch.Tensor, step: schedules.Step) -> tuple[torch.Tensor, torch.Tensor]:
        """E[x0 | latent] and E[eps | latent]."""
        total = self.variance * step.alpha.square() + step.variance
        gain = self.variance * step.alpha / total
        x0 = self.mean + gain * (latent - step.alpha * self.mean)
        return x0, (latent - step.alpha * x0) / step.variance.sqrt()


REFERENCE, POLICY = NormalPictures(0.7, 0.25), NormalPictures(1.0, 0.16)
DRAWS = 200_000


def log_ratio(
    next_latent: torch.Tensor, latent: torch.Tensor, step: schedules.Step, is_flow: bool, reduction
) -> torch.Tensor:
    policy, reference = (
        schedules.log_prob(next_latent, latent, eps - x0 if is_flow else eps, step, reduction)
        for x0, eps in (pictures.of(latent, step) for pictures in (POLICY, REFERENCE))
    )
    return policy - reference


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far their means are apart, in standard errors."""
    difference = one - other
    return (difference.mean().abs() / difference.std() * math.sqrt(len(difference))).item()


@pytest.mark.parametrize("is_flow", [False, True], ids=["diffusion", "flow"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "noise"])
def test_many_draws_of_a_step_have_the_log_ratio_of_their_mean(
    is_flow: bool, reduction: schedules.Reduction
) -> None:
    """Pictures are noised to the latent and, with a part of the same noise, to the next one. Given
    latent and end, the plain log-ratios of many draws of `next` have this one for their mean; and
    over all latents and ends they differ by what neither tells."""
    a = torch.tensor([0.2, 0.36], dtype=torch.float64)
    step = (
        schedules.flow_step(*torch.tensor([0.8, 0.6]).double(), 0.5)
        if is_flow
        else schedules.ddim_step(*a, 1.0)
    )
    draw = torch.Generator().manual_seed(8)
    shape = (DRAWS, 1, 1, 1)
    standard, noise, z = torch.randn(3, *shape, generator=draw, dtype=torch.float64)

    def ratios(end: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        latent = step.alpha * end + step.variance.sqrt() * noise
        drawn = step.next_alpha * end + step.direction * noise + step.s * z
        given = schedules.mean_given_end(latent, end, step)
        rest = (latent, step, is_flow, reduction)
        return log_ratio(drawn, *rest), log_ratio(given, *rest), latent

    plain, exact, _ = ratios(torch.full_like(z, 1.9), torch.full_like(z, -0.4))
    assert exact.std() < 1e-9
    assert apart(plain, exact) < 4 < 10 < apart(plain, 0 * plain)

    end = REFERENCE.mean + math.sqrt(REFERENCE.variance) * standard
    plain, exact, latent = ratios(end, noise)
    for known in (torch.ones_like(end), end, latent, end * latent):
        assert apart(known.flatten() * plain, known.flatten() * exact) < 4
    assert exact.var() < plain.var() / 2


def sd_chain(steps: int) -> schedules.DiffusionSchedule:
    """Stable Diffusion's, to a picture without noise."""
    alphas = scheduler("epsilon", "trailing", steps).alphas_cumprod.double()
    timesteps = torch.arange(1000, 0, -1000 // steps) - 1
    before = torch.cat([alphas[timesteps[1:]], torch.ones(1)])
    return schedules.DiffusionSchedule(timesteps, alphas[timesteps], before)


def test_chains_of_an_exact_network_have_the_same_mean_with_their_own_ends() -> None:
    """Given the latent from which they go on, with eta 1; their ends are drawn step by step."""
    schedule = sd_chain(20)
    draw = torch.Generator().manual_seed(9)
    first = 8
    latent = torch.full((DRAWS, 1, 1, 1), 0.4, dtype=torch.float64)
    chain = [latent]
    for index in range(first, 20):
        step = schedule.step(index, 1.0)
        z = torch.randn(latent.shape, generator=draw, dtype=torch.float64)
        chain.append(schedules.mean_of(*REFERENCE.of(chain[-1], step), step) + step.s * z)
    step = schedule.step(first, 1.0)
    given = schedules.mean_given_end(latent, chain[-1], step)
    plain, exact = (log_ratio(one, latent, step, False, "noise") for one in (chain[1], given))
    assert apart(plain, exact) < 4 < 10 < apart(exact, 0 * exact)
    assert exact.var() < plain.var() / 2


def given_the_end(schedule: schedules.Schedule, index: int, eta: float) -> tuple[float, float]:
    """How much of a change of the end is in E[next | latent, end]: of the chains that an exact
    network draws, and of `mean_given_end`. All is linear and normal, so it is computed exactly."""
    zero, one = torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()

    def slope(step: schedules.Step) -> float:
        at = [schedules.mean_of(*REFERENCE.of(latent, step), step) for latent in (zero, one)]
        return (at[1] - at[0]).item()

    onward, variance = 1.0, 0.0  # end = onward · next + a draw of this variance
    for later in range(len(schedule) - 1, index, -1):
        step = schedule.step(later, eta)
        variance += (onward * step.s.item()) ** 2
        onward *= slope(step)
    step = schedule.step(index, eta)
    s2 = step.s.item() ** 2
    used = schedules.mean_given_end(zero, one, step) - schedules.mean_given_end(zero, zero, step)
    return s2 * onward / (s2 * onward**2 + variance), used.item()


@pytest.mark.parametrize(("steps", "factor"), [(20, 0.667), (200, 0.931), (1000, 0.981)])
def test_chains_come_to_it_with_the_number_of_steps(steps: int, factor: float) -> None:
    """The noisy steps all alike."""
    for share in (0, 0.2, 0.35):
        of_chain, used = given_the_end(sd_chain(steps), int(share * steps), 1.0)
        assert used / of_chain == pytest.approx(factor, abs=2e-3)


def test_chains_with_less_noise_do_not_come_to_it() -> None:
    of_chain, used = given_the_end(sd_chain(1000), 0, 0.5)
    assert used / of_chain == pytest.approx(0.16, abs=0.01)
