"""Prompts and an adapter in, trajectories and images out: batches of rollouts, whose latents all
are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from studio.engine.trajectory import Trajectory
from studio.maths.schedules import step_mean
from studio.settings import SamplingSettings

if TYPE_CHECKING:
    from studio.models import Denoiser

COUPLE_APART = 0x9E3779B9  # odd: torch's CPU generator uses 32 bits of a seed
STREAM_PRIME = 2_654_435_761  # separates the noise of the steps from the starting noise of a seed


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)


def sample(
    denoiser: Denoiser,
    prompts: list[str],
    seeds: list[int],
    settings: SamplingSettings,
    noise_seeds: list[int] | None = None,
) -> list[Trajectory]:
    """One chain per prompt.

    `seeds` draw the starting noise and `noise_seeds` (default: the same) the noise of the steps,
    both on the CPU, so that a seed gives the same picture on every device.
    """
    shape = denoiser.latent_shape(settings)
    starts = [_generator(seed) for seed in seeds]
    latents = torch.stack([torch.randn(shape, generator=start) for start in starts])
    steps_of = noise_seeds if noise_seeds is not None else seeds
    walks = [_generator((seed + 1) * STREAM_PRIME) for seed in steps_of]
    schedule = denoiser.schedule(settings)
    text = denoiser.text.embed(prompts, settings.clip_skip)
    empty = denoiser.text.embed_negative(settings.negative_prompt, len(prompts), settings.clip_skip)
    latents = latents.to(denoiser.device)
    # All noise before the first step: a copy within the loop would wait for the GPU at each step.
    noises = torch.stack(
        [
            torch.stack([torch.randn(shape, generator=walk) for walk in walks])
            for _ in schedule.timesteps
        ]
    ).to(denoiser.device)
    chain = [latents]
    for index, (timestep, noise) in enumerate(zip(schedule.timesteps, noises, strict=True)):
        with torch.no_grad():
            prediction = denoiser.predict_guided(
                latents, timestep.expand(len(prompts)), text, empty, settings.guidance
            )
        step = schedule.step(index, settings.eta)
        latents = step_mean(latents, prediction, step) + step.s * noise
        chain.append(latents)
    chains = torch.stack(chain, 1).cpu()
    return [
        Trajectory(latents, schedule.timesteps.cpu(), prompt, seed, settings, denoiser.base_hash)
        for latents, prompt, seed in zip(chains, prompts, seeds, strict=True)
    ]


def sample_pairs(
    denoiser: Denoiser, prompts: list[str], seeds: list[int], settings: SamplingSettings
) -> list[tuple[Trajectory, Trajectory]]:
    """Two chains per prompt, from the same starting noise if the settings ask for it."""
    groups = sample_groups(denoiser, prompts, seeds, settings, 2)
    return [(left, right) for left, right in groups]


def sample_groups(
    denoiser: Denoiser,
    prompts: list[str],
    seeds: list[int],
    settings: SamplingSettings,
    size: int,
) -> list[list[Trajectory]]:
    """`size` chains per prompt, from the same starting noise if the settings ask for it. The first
    two are the same for every `size`.

    A single step adds hardly any noise of its own: with the same start all pictures would be alike,
    so that each has its own.
    """
    is_shared = settings.shared_noise and settings.steps > 1
    starts, walks = [], []
    for seed in seeds:
        for index in range(size):
            couple, one = divmod(index, 2)
            apart = couple * COUPLE_APART
            starts.append(seed if is_shared else seed + one * 2**31 + apart)
            walks.append(2 * seed + one + apart)
    repeated = [prompt for prompt in prompts for _ in range(size)]
    chains = sample(denoiser, repeated, starts, settings, walks)
    return [chains[first : first + size] for first in range(0, len(chains), size)]


def images(denoiser: Denoiser, trajectories: list[Trajectory]) -> list[Image.Image]:
    """The pictures (PIL) at the end of the chains."""
    final = torch.stack([trajectory.latents[-1].float() for trajectory in trajectories])
    return denoiser.decode(final.to(denoiser.device))
