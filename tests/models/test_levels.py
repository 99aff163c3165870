"""Noise levels by timestep, against diffusers' schedulers and numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from studio.families import SDXL_RF
from studio.maths.schedules import step_mean
from studio.models.levels import SHIFTS, DiffusionLevels, FlowLevels
from studio.models.parts import sd_scheduler

CPU = torch.device("cpu")


@pytest.mark.parametrize("shift", [1.0, 6.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_steps_of_a_flow_are_those_of_diffusers_scheduler(shift: float, steps: int) -> None:
    """A whole chain, with a velocity that depends on the latent."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = FlowLevels(scheduler, CPU).schedule(steps)
    assert schedule.sigma[0] == 1
    assert schedule.next_sigma[-1] == 0
    ours = theirs = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for index, timestep in enumerate(scheduler.timesteps):
        assert schedule.timesteps[index] == timestep
        theirs = scheduler.step(theirs.sin(), timestep, theirs).prev_sample
        ours = step_mean(ours, ours.sin(), schedule.step(index, eta=0.0))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("places", "steps", "mu"),
    [
        (4096, 50, 2.02335),  # 1024 x 1024 px
        (1024, 50, 1.70196),
        (5000, 50, 1.30302),  # large pictures have a line of their own, whatever the steps
        (5000, 4, 1.30302),
    ],
)
def test_the_shift_of_flux2_by_hand(places: int, steps: int, mu: float) -> None:
    """sigma' = e^mu / (e^mu + 1 / sigma - 1), from FLUX.2's own code."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    schedule = FlowLevels(scheduler, CPU, SHIFTS["flux2"]).schedule(steps, places)
    even = torch.linspace(1, 1 / steps, steps)
    shift = torch.tensor(mu).exp()
    expected = shift / (shift + 1 / even - 1)
    torch.testing.assert_close(schedule.sigma, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.sigma)
    assert schedule.next_sigma[-1] == 0


def test_the_levels_of_a_flow_by_hand() -> None:
    """Of 1000 timesteps, 250 has sigma 1/4: 3/4 of the picture and 1/4 of the noise; the velocity
    is noise - picture."""
    levels = FlowLevels(FlowMatchEulerDiscreteScheduler(shift=3.0), CPU)
    one = torch.ones(2, 1, 1, 1)
    timesteps = torch.tensor([250, 1000])
    assert levels.noised(2 * one, 6 * one, timesteps).flatten().tolist() == [3, 6]
    assert levels.target(2 * one, 6 * one).flatten().tolist() == [4, 4]
    assert levels.squared_velocity(3 * one, timesteps).tolist() == [9, 9]
    assert levels.noisiest(0.3) == (701, 300)
    assert levels.noisiest(1.0) == (1, 1000)


def test_velocities_of_flow_and_diffusion_have_nearly_one_unit() -> None:
    """The same change of the picture that two networks see in one latent, at equal ratios of
    picture to noise."""
    diffusion = DiffusionLevels(sd_scheduler(), CPU)
    flow = FlowLevels(FlowMatchEulerDiscreteScheduler(), CPU)
    at = torch.tensor([800])
    alpha = diffusion.alpha_bar(at).sqrt()
    sigma = (1 - alpha.square()).sqrt()
    picture = torch.full((1, 1, 1, 1), 0.1)  # the change; x0 = (x - sigma noise) / alpha
    as_noise = -picture * alpha / sigma
    as_velocity = -picture / (sigma / (alpha + sigma))  # x0 = x - sigma velocity
    change = diffusion.squared_velocity(as_noise, at).sqrt()
    ratio = flow.squared_velocity(as_velocity, at).sqrt() / change
    torch.testing.assert_close(ratio, alpha + sigma)
    assert 1 < ratio < 2**0.5


def test_the_steps_of_a_flow_replace_less_noise_than_ddpms() -> None:
    """DDPM keeps (k' / k)² of the noise's variance, with k = sigma / alpha before and after."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SDXL_RF.flow_shift)
    schedule = FlowLevels(scheduler, CPU).schedule(25)
    step = schedule.step(slice(None), SDXL_RF.eta)
    last = schedule.next_sigma == 0
    replaced = (step.s.square() / step.next_variance)[~last]
    k, next_k = schedule.sigma / step.alpha, schedule.next_sigma / step.next_alpha
    assert (replaced < 1 - (next_k / k).square()[~last]).all()


def test_a_mark_of_zero_terminal_snr_rescales_the_schedule() -> None:
    """arXiv 2305.08891, as diffusers does it: the last timestep is noise alone."""
    plain, rescaled = (sd_scheduler("v_prediction", zero_snr) for zero_snr in (False, True))
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(plain.betas), 0)
    levels = DiffusionLevels(rescaled, CPU)
    alpha_bar = levels.alpha_bar(torch.arange(1000))
    torch.testing.assert_close(alpha_bar[:-1], expected[:-1])
    assert expected[-1] == 0
    assert 0 < alpha_bar[-1] < 1e-7  # no division by zero
    schedule = levels.schedule(4)
    assert schedule.timesteps.tolist() == [999, 749, 499, 249]
    assert levels.noised(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([999])) == 0
