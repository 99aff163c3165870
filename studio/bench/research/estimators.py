"""Estimators of the ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from studio import models
from studio.engine.estimators import NoisedPictures
from studio.engine.trajectory import PairBatch
from studio.maths.schedules import ddim_step, step_mean
from studio.settings import TrainingSettings


class Mirrored(NoisedPictures):
    """Every second draw has the negated noise of the one before (antithetic sampling)."""

    def inputs(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        timesteps, noise = super().inputs(groups, draws)
        timesteps[:, 1::2], noise[:, 1::2] = timesteps[:, ::2], -noise[:, ::2]
        return timesteps, noise


class Flipped(NoisedPictures):
    """Every second draw is of the flipped pictures, as in many fine-tuning tools."""

    def __init__(
        self, denoiser: models.Denoiser, batch: PairBatch, settings: TrainingSettings
    ) -> None:
        super().__init__(denoiser, batch, settings)
        flipped = replace(batch, latents=batch.latents.flip(-1))
        self.flipped = NoisedPictures(denoiser, flipped, settings)

    def gains(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        original = super().gains(groups, draws[:, ::2])
        flipped = self.flipped.gains(groups, draws[:, 1::2])
        chosen, rejected = (torch.cat(side) for side in zip(original, flipped, strict=True))
        return chosen, rejected


class _OfPairs(NoisedPictures):
    """The two pictures of a pair have different noise; works with pairs only, not with grids."""

    def noises(
        self, chosen: list[int], rejected: list[int], timesteps: Tensor, noise: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Timesteps (pairs, D), and the noise of both sides, each (pairs, D, C, h, w)."""
        raise NotImplementedError

    def gains(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [pair for (pair,) in groups]
        sides = self.batch.chosen[pairs].tolist(), self.batch.rejected[pairs].tolist()
        timesteps, noises = self.noises(*sides, *self.inputs(groups, draws))

        def scores() -> list[Tensor]:
            return [
                self.scores(side, timesteps, noise).flatten()
                for side, noise in zip(sides, noises, strict=True)
            ]

        chosen, rejected = scores()
        with torch.no_grad(), self.denoiser.adapters.off():
            base_chosen, base_rejected = scores()
        return chosen - base_chosen, rejected - base_rejected


class Opposed(_OfPairs):
    """The rejected picture has the negated noise of the chosen one."""

    def noises(self, chosen, rejected, timesteps, noise):
        return timesteps, (noise, -noise)


class Inverted(_OfPairs):
    """Pictures noised by DDIM inversion with the base model (DDIM-InPO, arXiv 2503.18454)."""

    @cached_property
    def inversions(self) -> tuple[Tensor, Tensor]:
        with self.denoiser.adapters.off():
            return inverted(self.denoiser, self.batch)

    def noises(self, chosen, rejected, timesteps, noise):
        known, noises = self.inversions
        nearest = (timesteps[..., None] - known).abs().argmin(-1)
        return known[nearest], tuple(
            noises[torch.tensor(side)[:, None], nearest] for side in (chosen, rejected)
        )


class MovedReference(NoisedPictures):
    """`move` replaces the reference by the present policy."""

    moved_to: list[Tensor] | None = None

    def move(self) -> None:
        self.moved_to = [value.detach().clone() for value in self.denoiser.adapters.parameters()]

    @torch.no_grad()
    def reference_scores(self, pictures: list[int], draws: Tensor, *inputs: Tensor) -> Tensor:
        if self.moved_to is None:
            return super().reference_scores(pictures, draws, *inputs)
        parameters = self.denoiser.adapters.parameters()
        now = [value.detach().clone() for value in parameters]
        try:
            _put(parameters, self.moved_to)
            return self.scores(pictures, *inputs)
        finally:
            _put(parameters, now)


@torch.no_grad()
def _put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def inverted(denoiser: models.Denoiser, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """DDIM inversion (arXiv 2010.02502) of the final latents, with the prompt and without guidance.

    The timesteps (T,) of the batch's own steps, and (M, T, C, h, w): the noise that, added to a
    picture's final latent, gives its inverted latent at that timestep.
    """
    schedule = denoiser.schedule(batch.settings)
    final = batch.latents[:, -1].to(denoiser.device)
    text = denoiser.text.embed(list(batch.prompts), batch.settings.clip_skip)
    latent, noises = final, []
    for timestep, alpha_bar, alpha_bar_prev in reversed(
        list(zip(schedule.timesteps, schedule.alpha_bar, schedule.alpha_bar_prev, strict=True))
    ):
        predicted = denoiser.predict(latent, timestep.expand(len(latent)), text)
        latent = step_mean(latent, predicted, ddim_step(alpha_bar_prev, alpha_bar, eta=0.0))
        noises.append((latent - alpha_bar.sqrt() * final) / (1 - alpha_bar).sqrt())
    return schedule.timesteps.cpu(), torch.stack(noises[::-1], 1).cpu()
