"""Two measures of an adapter: how far it moves the pictures, and its held-out agreement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studio.engine.estimators import Estimator, predict
from studio.engine.microbatches import MicroBatches
from studio.engine.randomness import spread
from studio.engine.trajectory import PairBatch

if TYPE_CHECKING:
    from studio.models import Denoiser, ReadAdapter

SHIFT_PICTURES = 64  # at most so many pictures of a round measure its shift


@torch.no_grad()
def held_out_agreement(estimator: Estimator, micro_batches: MicroBatches) -> float:
    """Share of an estimator's pairs in which the chosen side gained more than the rejected one,
    summed over the held-out draws."""
    groups = estimator.groups
    draws = estimator.held_out_draws().expand(len(groups), -1)
    margins = torch.zeros(len(estimator.batch))
    at_once = micro_batches.at_once_without_gradient
    for part, columns in micro_batches.parts(estimator, groups, draws.shape[1], at_once):
        chosen, rejected = estimator.gains(groups[part], draws[part, columns])
        pairs = [pair for group in groups[part] for pair in group]
        margins[pairs] += (chosen - rejected).view(len(pairs), -1).sum(1).cpu()
    return float((margins > 0).float().mean())


@torch.no_grad()
def taste_margins(
    estimator: Estimator, micro_batches: MicroBatches, adapter: ReadAdapter
) -> Tensor:
    """(pairs,): how much more another adapter raises the chosen side of each pair than the
    rejected one, on the mean of the held-out draws."""
    groups = estimator.groups
    draws = estimator.held_out_draws().expand(len(groups), -1)
    total = torch.zeros(len(estimator.batch))
    kept = estimator.other
    at_once = micro_batches.at_once_without_gradient
    for part, columns in micro_batches.parts(estimator, groups, draws.shape[1], at_once):
        chosen, rejected = estimator.other_gains(groups[part], draws[part, columns], adapter)
        pairs = [pair for group in groups[part] for pair in group]
        total[pairs] += (chosen - rejected).view(len(pairs), -1).sum(1).cpu()
    estimator.other = kept  # it is of the taste that the round is beside
    return total / draws.shape[1]


def to_the_end(done: int, total: int) -> bool:
    """The `go_on` of a measurement that nobody stops."""
    return True


def velocity_shift(
    denoiser: Denoiser,
    batch: PairBatch,
    fraction: float,
    seed: int,
    at_once: int,
    go_on: Callable[[int, int], bool] = to_the_end,
) -> float:
    """How far the adapter moves the pictures, in units of `TrainingSettings.target_shift`.

    The root mean square of `velocity_changes`. A seed fixes the pictures of the batch, the
    timesteps (of the noisiest `fraction`) and the noise. at_once: pictures per forward pass.
    go_on: called with the pictures measured and all of them, first with (0, all) and then after
    every pass; once it says no, those so far are enough. They are a random sample of all.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(batch.shown, generator=draw)
    pictures = order[:SHIFT_PICTURES].tolist()
    least, count = denoiser.levels.noisiest(fraction)
    timesteps = (least + spread(len(pictures), 1, count, draw)).squeeze(1)
    noise = torch.randn((len(pictures), *batch.latents.shape[2:]), generator=draw)
    squares: list[Tensor] = []
    go_on(0, len(pictures))
    for start in range(0, len(pictures), at_once):
        part = slice(start, start + at_once)
        squares.append(
            velocity_changes(denoiser, batch, pictures[part], timesteps[part], noise[part])
        )
        if not go_on(min(start + at_once, len(pictures)), len(pictures)):
            break
    return float(torch.cat(squares).mean().sqrt())


@torch.no_grad()
def velocity_changes(
    denoiser: Denoiser, batch: PairBatch, pictures: list[int], timesteps: Tensor, noise: Tensor
) -> Tensor:
    """(pictures,): how far the adapter moves the velocity of each noised final latent.

    timesteps: (pictures,); noise: (pictures, C, h, w). The mean square over the latent's elements,
    always with guidance, as the pictures are drawn.
    """
    final = batch.latents[pictures, -1].to(denoiser.device)
    at = timesteps.to(denoiser.device)
    noisy = denoiser.levels.noised(final, noise.to(denoiser.device), at)
    prompts = [batch.prompts[picture] for picture in pictures]
    tuned = predict(denoiser, noisy, at, prompts, batch.settings, guided=True)
    with denoiser.adapters.off():
        base = predict(denoiser, noisy, at, prompts, batch.settings, guided=True)
    return denoiser.levels.squared_velocity(tuned - base, at)
