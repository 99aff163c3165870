"""What an adapter has learned, in two numbers: how far it went, and how often it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studio.engine.estimators import (
    Estimator,
    noised,
    noisiest_timesteps,
    predicted_noise,
    spread,
    squared_velocity,
)
from studio.engine.microbatches import MicroBatches
from studio.engine.trajectory import PairBatch

if TYPE_CHECKING:
    from studio.models import Denoiser

SHIFT_PICTURES = 64  # pictures of a round that its shift is measured on


@torch.no_grad()
def held_out_agreement(estimator: Estimator, micro_batches: MicroBatches) -> float:
    """Share of an estimator's pairs whose chosen side the adapter has made likelier, by the sum of
    its gains at the held-out draws."""
    groups = estimator.groups
    draws = estimator.held_out_draws().expand(len(groups), -1)
    margins = torch.zeros(len(estimator.batch))
    at_once = micro_batches.at_once_without_gradient
    for part, columns in micro_batches.parts(estimator, groups, draws.shape[1], at_once):
        chosen, rejected = estimator.gains(groups[part], draws[part, columns])
        pairs = [pair for group in groups[part] for pair in group]
        margins[pairs] += (chosen - rejected).view(len(pairs), -1).sum(1).cpu()
    return float((margins > 0).float().mean())


def velocity_shift(
    denoiser: Denoiser, batch: PairBatch, fraction: float, seed: int, at_once: int
) -> float:
    """How far the adapter takes the pictures, in units of `TrainingSettings.target_shift`.

    The root mean square of `velocity_changes`, always of the same pictures of the batch, with the
    same timesteps (of the noisiest `fraction`) and noise. at_once: pictures in a forward pass.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(batch.latents), generator=draw)
    pictures = order[:SHIFT_PICTURES].tolist()
    least, count = noisiest_timesteps(denoiser, fraction)
    timesteps = (least + spread(len(pictures), 1, count, draw)).squeeze(1)
    noise = torch.randn((len(pictures), *batch.latents.shape[2:]), generator=draw)
    parts = [slice(start, start + at_once) for start in range(0, len(pictures), at_once)]
    squares = [
        velocity_changes(denoiser, batch, pictures[part], timesteps[part], noise[part])
        for part in parts
    ]
    return float(torch.cat(squares).mean().sqrt())


@torch.no_grad()
def velocity_changes(
    denoiser: Denoiser, batch: PairBatch, pictures: list[int], timesteps: Tensor, noise: Tensor
) -> Tensor:
    """(pictures,): how far the adapter moves the velocity of each final latent, noised.

    timesteps: (pictures,); noise: (pictures, C, h, w). The mean square over the latent's elements,
    through guidance: what the pictures are drawn with, whatever they were learned with.
    """
    noisy, at = noised(denoiser, batch, pictures, timesteps, noise)
    prompts = [batch.prompts[picture] for picture in pictures]
    tuned = predicted_noise(denoiser, noisy, at, prompts, batch.settings, guided=True)
    with denoiser.adapters.off():
        base = predicted_noise(denoiser, noisy, at, prompts, batch.settings, guided=True)
    return squared_velocity(denoiser, tuned - base, at)
