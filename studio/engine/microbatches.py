"""Micro-batches: how many latents go through the network at once, fewer if the memory runs out."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

from studio.engine import memory
from studio.engine.errors import TrainingFailed
from studio.engine.estimators import Estimator

MORE_WITHOUT_GRADIENT = 4  # times as many latents per forward pass without gradients

Result = TypeVar("Result")


class MicroBatches:
    """Splits an update of an estimator into parts that fit the memory.

    preset: the one in use. at_once: latents per forward pass with gradient. note: a sentence for
    the artist after the memory has run out. Except for rounding, none of it changes the result.
    """

    def __init__(self, estimator: Estimator, preset: memory.Preset) -> None:
        """Set the denoiser's gradient checkpointing, which needs an adapter, and its offloading."""
        settings = estimator.settings
        self.estimator = estimator
        self.at_once = settings.micro_batch_pairs * estimator.latents_at_once(
            estimator.groups, estimator.draws_per_group
        )
        self.checkpointing = settings.gradient_checkpointing
        self.note = ""
        self._use(preset)

    @property
    def at_once_without_gradient(self) -> int:
        return self.at_once * MORE_WITHOUT_GRADIENT

    def parts(
        self, estimator: Estimator, groups: list[list[int]], draws: int, at_once: int
    ) -> Iterator[tuple[slice, slice]]:
        """Slices of the groups, and of the columns of their draws (groups, draws), that go
        through the network together."""
        if not groups:
            return
        per_draw = estimator.latents_at_once(groups, 1)
        count = max(1, at_once // (per_draw * draws))
        columns = min(draws, max(1, at_once // per_draw))
        for start in range(0, len(groups), count):
            for first in range(0, draws, columns):
                yield slice(start, start + count), slice(first, first + columns)

    def while_memory_lasts(
        self, work: Callable[[], Result], update: int, estimators: tuple[Estimator, ...]
    ) -> Result:
        """Do `work` of an update; if the memory runs out, repeat it with a smaller preset.

        The estimators' cached scores of a failed attempt are dropped, so that the repetition
        computes all of them anew. Raises TrainingFailed if there is no smaller preset.
        """
        while True:
            known = [(estimator.reference, estimator.other) for estimator in estimators]
            try:
                return work()
            except Exception as error:
                if not memory.has_run_out(error):
                    raise
            # after the clause above: its exception keeps the failed attempt's tensors alive
            for estimator, scores in zip(estimators, known, strict=True):
                estimator.reference, estimator.other = scores
            self._step_down(update)

    def _step_down(self, update: int) -> None:
        least = self.estimator.latents_at_once(self.estimator.groups, 1)
        if self.preset == memory.PRESETS[-1] and self.checkpointing and self.at_once <= least:
            raise TrainingFailed(
                "There is not enough memory for this round, even with the settings for "
                f"{self.preset.gb} GB. Close other programs that use the device, or draw smaller "
                "pictures; the last good adapter is kept."
            )
        self.checkpointing = True  # from now on keep as little as possible
        self.at_once = max(least, self.at_once // 2)
        self._use(memory.smaller(self.preset))
        self.note = (
            f"The memory ran out at update {update}, which was repeated with the "
            f"settings for {self.preset.gb} GB: fewer pictures at a time, and slower. The result "
            "is the same."
        )

    def _use(self, preset: memory.Preset) -> None:
        self.preset = preset
        denoiser, latents = self.estimator.denoiser, self.estimator.batch.latents
        places = math.prod(latents.shape[-2:]) * denoiser.memory_of_a_place
        cost = memory.cost(1, places, denoiser.dtype.itemsize)
        if self.at_once * cost > preset.latents_kept:
            self.checkpointing = True
        self.at_once = min(self.at_once, max(1, int(preset.latents / cost)))
        denoiser.set_gradient_checkpointing(self.checkpointing)
        denoiser.save_memory(preset.model_cpu_offload, preset.vae_tiling)
        gc.collect()
        memory.give_back(denoiser.device)
