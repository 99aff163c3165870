"""Pairs in, adapter out: one update at a time, no files and no rows.

    training = Training(denoiser, pairs, settings, held_out)
    for metrics in training:          # one update each
        ...                           # stop, show, or save training.state() between any two

A step is an update and what is measured after it: `learn`, `scale` and `check` are its parts, each
of which may be left and begun anew.

The estimator scores pictures (`estimators`), the form turns gains into losses
(`studio.maths.objectives`), and `microbatches` decides how much goes through the network at once.
Every random number is a function of (seed, update), so a continued run equals an uninterrupted one.

With several processes, each takes a part of every update's pairs, and all make the update with the
sum of their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from studio.engine import memory, optimizers
from studio.engine.distributed import SINGLE_PROCESS, ProcessGroup, ProcessLost
from studio.engine.errors import TrainingFailed
from studio.engine.estimators import Estimator
from studio.engine.evaluation import (
    held_out_agreement,
    taste_margins,
    to_the_end,
    velocity_shift,
)
from studio.engine.microbatches import MicroBatches
from studio.engine.objective import Objective
from studio.engine.trajectory import PairBatch
from studio.maths import objectives
from studio.maths.taste_mixture import mixture
from studio.settings import TrainingSettings

if TYPE_CHECKING:
    from studio.models import Denoiser, ReadAdapter

HELD_OUT_CHECKS = 8  # measurements of held-out agreement in a round, or a few more
# A round that hardly learned, from contradictory picks for example, is not blown up further.
MOST_SCALED = 3.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Metrics:
    """The figures of one update. `margin` is beta x the margin: the implicit reward difference."""

    update: int
    updates: int
    loss: float
    margin: float
    accuracy: float
    grad_norm: float
    held_out_agreement: float | None

    def values(self) -> dict[str, float]:
        """The measured figures by name."""
        names = ("loss", "margin", "accuracy", "grad_norm", "held_out_agreement")
        pairs = ((name, getattr(self, name)) for name in names)
        return {name: value for name, value in pairs if value is not None}


class Training:
    """One round: a fresh adapter, `updates` updates over the pairs.

    Attaches the adapter to the denoiser and leaves it there. `objective` defaults to the settings'
    own. beside: the adapter of another taste that is to stay beside this one. Raises TrainingFailed
    if a loss or gradient is not finite, or if the memory is too small for the smallest preset. All
    processes make the same calls of `step`; only the main process has held-out pairs.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pairs: PairBatch,
        settings: TrainingSettings,
        held_out: PairBatch | None = None,
        preset: memory.Preset = memory.PRESETS[0],
        processes: ProcessGroup = SINGLE_PROCESS,
        objective: Objective | None = None,
        beside: ReadAdapter | None = None,
    ) -> None:
        if pairs.base_hash != denoiser.base_hash:
            raise TrainingFailed("The picks were made with another base model than the one loaded.")
        objective = objective or Objective.of(settings)
        self.denoiser = denoiser
        self.pairs = pairs
        self.settings = settings
        self.processes = processes
        self.objective = objective
        self.beside = beside
        self.estimator = objective.estimator(denoiser, pairs, settings)
        self.held_out: Estimator | None = None
        if held_out is not None:
            self.held_out = objective.estimator(denoiser, held_out, settings)
        self.updates = settings.updates(len(self.estimator.groups))
        self.update = 0
        self.checked = 0  # the last update after which the held-out pairs were asked
        self.is_scaled = settings.target_shift is None
        denoiser.adapters.new(settings)
        self.parameters = denoiser.adapters.parameters()
        self.micro_batches = MicroBatches(self.estimator, preset)
        in_8bit = settings.optimizer == "adamw" and memory.uses_8bit_optimizer(
            preset, denoiser.device
        )
        self._use_optimizer(in_8bit)

    def _use_optimizer(self, in_8bit: bool) -> None:
        self.in_8bit = in_8bit
        self.optimizer = optimizers.make(self.denoiser, self.settings, in_8bit)

    @property
    def preset(self) -> memory.Preset:
        """The preset in use: smaller than the one asked for after the memory has run out."""
        return self.micro_batches.preset

    @property
    def note(self) -> str:
        """A sentence for the artist about the memory."""
        if self.in_8bit and not self.micro_batches.note:
            return "With the 8-bit optimizer of bitsandbytes, which needs less memory."
        return self.micro_batches.note

    # --- the loop ---

    def __iter__(self) -> Iterator[Metrics]:
        while self.update < self.updates:
            yield self.step()

    def step(self) -> Metrics:
        """One update, and the measurements that are due after it."""
        metrics = self.learn()
        if self.is_scaling_due:
            self.scale()
        return replace(metrics, held_out_agreement=self.check() if self.is_check_due else None)

    def learn(self) -> Metrics:
        """One update over `batch_pairs` groups; most groups are a single pair."""
        loss, margin = self.gradient()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if not (math.isfinite(float(loss.mean())) and math.isfinite(float(grad_norm))):
            raise TrainingFailed(
                "The round was stopped, because a loss or gradient was not a number; the last good "
                "adapter is kept. Try a gentler strength or a smaller learning rate."
            )
        self._while_memory_lasts(partial(optimizers.step, self.optimizer))
        self.update += 1
        return Metrics(
            update=self.update,
            updates=self.updates,
            loss=float(loss.mean()),
            margin=self.settings.beta * float(margin.mean()),
            accuracy=float((margin > 0).float().mean()),
            grad_norm=float(grad_norm),
            held_out_agreement=None,
        )

    @property
    def has_learned(self) -> bool:
        """Whether all updates are made."""
        return self.update == self.updates

    @property
    def is_scaling_due(self) -> bool:
        return self.has_learned and not self.is_scaled

    def scale(self, go_on: Callable[[int, int], bool] = to_the_end) -> None:
        """After the last update: bring the adapter to the target shift.

        go_on: as for `velocity_shift`; the shift is then that of the pictures measured so far.
        """
        assert self.settings.target_shift is not None
        shift = self._while_memory_lasts(partial(self.shift, go_on=go_on))
        self.denoiser.adapters.scale(
            min(self.settings.target_shift / max(shift, 1e-9), MOST_SCALED)
        )
        self.is_scaled = True

    @property
    def checks_made(self) -> int:
        """How often the held-out pairs were asked; in the end `checks_of(updates)` times."""
        return math.ceil(self.checked / _check_every(self.updates))

    @property
    def is_check_due(self) -> bool:
        """Whether the held-out pairs are to be asked before the next update."""
        every = _check_every(self.updates)
        is_time = self.is_scaled if self.has_learned else self.update % every == 0
        return self.held_out is not None and self.update > self.checked and is_time

    def check(self) -> float:
        """The agreement on the held-out pairs after the latest update."""
        agreement = partial(held_out_agreement, self.held_out, self.micro_batches)
        found = self._while_memory_lasts(agreement)
        self.checked = self.update
        return found

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Put the update's gradient into the parameters; gives its losses and margins, flat.

        A process that fails tells the others, which would otherwise wait for ever.
        """
        mine: tuple[Tensor, Tensor] | None = None
        failure: Exception | None = None
        try:
            mine = self._while_memory_lasts(self._own_gradient)
        except ProcessLost:
            raise
        except Exception as error:
            failure = error
        shares = self.processes.all_gather(str(failure) if mine is None else mine)
        if failure is not None:
            raise failure
        for share in shares:
            if isinstance(share, str):
                raise TrainingFailed(f"Another of the worker's processes could not go on. {share}")
        self.processes.all_reduce([parameter.grad for parameter in self.parameters])
        loss, margin = (torch.cat(values) for values in zip(*shares, strict=True))
        return loss, margin

    def _own_gradient(self) -> tuple[Tensor, Tensor]:
        """This process's part of the gradient, and its losses and margins."""
        groups, epochs = groups_of_update(
            self.estimator.groups, self.settings.batch_pairs, self.update, self.settings.seed
        )
        # of all groups, as in every process
        draws = self.estimator.draws_of_update(epochs, self.update)
        count = sum(len(group) for group in groups) * draws.shape[1]
        mine, draws = self.processes.shard(groups), self.processes.shard(draws)
        losses, margins = [torch.zeros(0)], [torch.zeros(0)]
        self.optimizer.zero_grad()
        for part, columns in self.micro_batches.parts(
            self.estimator, mine, draws.shape[1], self.micro_batches.at_once
        ):
            some = mine[part], draws[part, columns]
            counts = self.estimator.counts(*some)
            if self.beside is not None:
                explained = self.estimator.other_gains(*some, self.beside)
                share = self.settings.beside_share
                counts = objectives.beside(counts, *explained, self.settings.beta, share)
            chosen, rejected = self.estimator.gains(*some)
            loss = self.objective.losses(chosen, rejected, self.settings.beta, counts)
            (loss.sum() / count).backward()
            losses.append(loss.detach().cpu())
            margins.append((chosen - rejected).detach().cpu())
        for parameter in self.parameters:  # if this process had no pair
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return torch.cat(losses), torch.cat(margins)

    def mixture(self, others: Sequence[ReadAdapter]) -> Tensor:
        """(K,): the weights of the mixture of other tastes that the pairs point to."""
        of_two = self.pairs.of_two
        margins = [
            self._while_memory_lasts(
                partial(taste_margins, self.estimator, self.micro_batches, other)
            )[of_two]
            for other in others
        ]
        return mixture(self.settings.beta * torch.stack(margins, 1))

    def shift(
        self, fraction: float | None = None, go_on: Callable[[int, int], bool] = to_the_end
    ) -> float:
        """How far the adapter moves the pictures, in units of `TrainingSettings.target_shift`.

        At the noisiest `fraction` of the timesteps; None takes that of the settings.
        """
        fraction = fraction or self.settings.timestep_fraction
        most = self.micro_batches.at_once_without_gradient // 2  # guidance doubles it
        # A processor gains nothing from more, and can be stopped between two pictures.
        at_once = 1 if self.denoiser.device.type == "cpu" else max(1, most)
        return velocity_shift(
            self.denoiser, self.pairs, fraction, self.settings.seed, at_once, go_on
        )

    def _while_memory_lasts(self, work: Callable[[], Result]) -> Result:
        estimators = (self.estimator,) if self.held_out is None else (self.estimator, self.held_out)
        update = min(self.update + 1, self.updates)
        return self.micro_batches.while_memory_lasts(work, update, estimators)

    # --- saving and resuming ---

    def state(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: adapter, optimizer, position.

        Also the reference's scores, which would round differently in other micro-batches.
        """
        return {
            "update": self.update,
            "checked": self.checked,
            "scaled": self.is_scaled,
            "adapter": self.denoiser.adapters.state(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_8bit": self.in_8bit,
            "reference": self.estimator.reference,
            "other": self.estimator.other,
            "held_out_reference": None if self.held_out is None else self.held_out.reference,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a `state`. Older versions' states hold no reference scores, which are then
        computed anew."""
        older = {"optimiser": "optimizer", "small_moments": "optimizer_8bit"}
        state = {older.get(name, name): value for name, value in state.items()}
        if state.get("optimizer_8bit", False) != self.in_8bit:
            self._use_optimizer(not self.in_8bit)  # a round keeps the optimizer it began with
        self.update = state["update"]
        self.checked = state.get("checked", self.update)  # an older state is between two steps
        self.is_scaled = state.get("scaled", self.is_scaled or self.has_learned)
        self.denoiser.adapters.set_state(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("reference") is not None:
            self.estimator.reference = state["reference"]
        if state.get("other") is not None:
            self.estimator.other = state["other"]
        if self.held_out is not None and state.get("held_out_reference") is not None:
            self.held_out.reference = state["held_out_reference"]


def checks_of(updates: int) -> int:
    """How often a round of so many updates asks its held-out pairs, if it has any."""
    return math.ceil(updates / _check_every(updates))


def _check_every(updates: int) -> int:
    return max(1, updates // HELD_OUT_CHECKS)


def groups_of_update(
    groups: list[list[int]], size: int, update: int, seed: int
) -> tuple[list[list[int]], list[int]]:
    """`size` of the groups, or all if there are fewer, and how many turns each had before.

    Every epoch goes through all groups in its own order, a function of (seed, epoch).
    """
    count = len(groups)
    size = min(size, count)
    positions = range(update * size, (update + 1) * size)
    epochs = [position // count for position in positions]
    orders = {
        epoch: torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        for epoch in set(epochs)
    }
    chosen = [
        groups[int(orders[epoch][position % count])]
        for epoch, position in zip(epochs, positions, strict=True)
    ]
    return chosen, epochs
