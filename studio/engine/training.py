"""Pairs in, adapter out: one update at a time, no files and no rows.

    training = Training(denoiser, pairs, settings, held_out)
    for metrics in training:          # one update each
        ...                           # stop, show, or save training.state() between any two

Every random draw belongs to (seed, update), so a run continued from a state is the run itself.

With a crew of several processes each takes a part of the pairs of every update, and all make the
update with the sum of their gradients. Where the memory runs out, the same update is made again
with a smaller preset (`studio.engine.memory`).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from studio.engine import memory
from studio.engine.distributed import SINGLE_PROCESS, ProcessGroup, ProcessLost
from studio.engine.trajectory import PairBatch
from studio.maths.objectives import d3po_loss, diffusion_dpo_loss
from studio.maths.scalar_adam import ScalarAdam
from studio.maths.schedules import log_prob, output_weight
from studio.settings import SamplingSettings, TrainingSettings

if TYPE_CHECKING:
    from studio.models import Denoiser

HELD_OUT_CHECKS = 8  # times in a round that agreement with the held-out picks is measured
# Multiples of it, without their whole parts, lie evenly in [0, 1) however many they are.
GOLDEN = (math.sqrt(5) - 1) / 2
HELD_OUT_STEPS = 4  # looks that a held-out pair is judged at
SHIFT_PICTURES = 64  # pictures of a round that its reach is measured on
# What was hardly learned, because the picks contradict each other, say, is not blown up further.
MOST_SCALED = 3.0
MORE_WITHOUT_GRADIENT = 4  # times as many latents go through the network at once without it

Done = TypeVar("Done")


class TrainingFailed(Exception):
    """A round that cannot go on; the message is a sentence and the adapter must not be used."""


@dataclass(frozen=True)
class Metrics:
    """What one update showed. `margin` is beta x the margin: the implicit reward's difference."""

    update: int
    updates: int
    loss: float
    margin: float
    accuracy: float
    grad_norm: float
    held_out_agreement: float | None

    def values(self) -> dict[str, float]:
        """The measured numbers by name, without those that were not measured."""
        names = ("loss", "margin", "accuracy", "grad_norm", "held_out_agreement")
        pairs = ((name, getattr(self, name)) for name in names)
        return {name: value for name, value in pairs if value is not None}


def step_log_prob(
    denoiser: Denoiser,
    latents: Tensor,
    steps: Tensor,
    prompts: list[str],
    batch: PairBatch,
    settings: TrainingSettings,
) -> Tensor:
    """Log-probabilities (B,) of stored steps under the network as it is switched now.

    latents: (B, 2, C, h, w), a latent and the next one; steps: (B,) indices into the chain.
    """
    sampling = batch.settings
    schedule = denoiser.schedule(sampling.steps)
    latents = latents.to(denoiser.device)
    steps = steps.to(denoiser.device)
    latent, next_latent = latents[:, 0], latents[:, 1]
    timesteps = schedule.timesteps[steps]
    noise_pred = _predicted_noise(denoiser, latent, timesteps, prompts, sampling, settings.guided)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar[steps], schedule.alpha_bar_prev[steps]
    value = log_prob(
        next_latent,
        latent,
        noise_pred,
        alpha_bar,
        alpha_bar_prev,
        sampling.eta,
        settings.reduction,
    )
    if settings.reduction == "noise":
        return value * output_weight(alpha_bar, denoiser.prediction_type)
    return value


def _predicted_noise(
    denoiser: Denoiser,
    latents: Tensor,
    timesteps: Tensor,
    prompts: list[str],
    sampling: SamplingSettings,
    guided: bool,
) -> Tensor:
    """As the pictures were drawn, through guidance; or by the prompted half of it alone."""
    text = denoiser.embed(prompts, sampling.clip_skip)
    if not guided:
        return denoiser.predict_noise(latents, timesteps, text)
    empty = denoiser.embed_negative(sampling.negative_prompt, len(prompts), sampling.clip_skip)
    return denoiser.predict_guided_noise(latents, timesteps, text, empty, sampling.guidance)


def velocity_errors(
    denoiser: Denoiser,
    batch: PairBatch,
    pictures: list[int],
    timesteps: Tensor,
    noise: Tensor,
    guided: bool = False,
) -> Tensor:
    """(pictures, draws): how far the network is from the velocity of each final latent, noised.

    timesteps: (pictures, draws); noise: (pictures, draws, C, h, w). The mean over the latent's
    elements of (v - predicted v)², whatever the network predicts: in units of noise the timesteps
    with most noise, where a picture is decided, would weigh next to nothing
    ((v - predicted v)² = (noise - predicted noise)² / alpha_bar).
    """
    each = [picture for picture in pictures for _ in range(timesteps.shape[1])]
    noise = noise.flatten(0, 1).to(denoiser.device)
    noisy, at = _noised(denoiser, batch, each, timesteps.flatten(), noise)
    prompts = [batch.prompts[picture] for picture in each]
    predicted = _predicted_noise(denoiser, noisy, at, prompts, batch.settings, guided)
    return _in_velocity(denoiser, predicted - noise, at).view(timesteps.shape)


@torch.no_grad()
def velocity_changes(
    denoiser: Denoiser, batch: PairBatch, pictures: list[int], timesteps: Tensor, noise: Tensor
) -> Tensor:
    """(pictures,): how far the adapter moves the velocity of each final latent, noised.

    timesteps: (pictures,); noise: (pictures, C, h, w). The mean square over the latent's elements,
    through guidance: what the pictures are drawn with, whatever they were learned with.
    """
    noisy, at = _noised(denoiser, batch, pictures, timesteps, noise)
    prompts = [batch.prompts[picture] for picture in pictures]
    tuned = _predicted_noise(denoiser, noisy, at, prompts, batch.settings, guided=True)
    with denoiser.adapter_off():
        base = _predicted_noise(denoiser, noisy, at, prompts, batch.settings, guided=True)
    return _in_velocity(denoiser, tuned - base, at)


def _noised(
    denoiser: Denoiser, batch: PairBatch, pictures: list[int], timesteps: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The final latents of pictures with noise (pictures, C, h, w), and the timesteps (pictures,);
    both where the denoiser is."""
    at = timesteps.to(denoiser.device)
    final = batch.latents[pictures, -1].to(denoiser.device)
    return denoiser.scheduler.add_noise(final, noise.to(denoiser.device), at), at


def _in_velocity(denoiser: Denoiser, difference: Tensor, timesteps: Tensor) -> Tensor:
    """(B,): the mean square of a difference in predicted noise (B, C, h, w), in units of velocity.

    A last timestep without any signal says nothing about a picture.
    """
    return difference.square().mean((1, 2, 3)) / denoiser.alpha_bar(timesteps).clamp(min=1e-4)


def _on_cpu(tree: Any) -> Any:
    """A copy of all tensors in lists and dictionaries, on the CPU, and of what else is there."""
    return tree_map(
        lambda value: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value,
        tree,
    )


def _spread(pairs: int, draws: int, count: int, draw: torch.Generator) -> Tensor:
    """Random indices (pairs, draws) below `count`, spread evenly within the update."""
    total = pairs * draws
    strata = torch.randperm(total, generator=draw) + torch.rand(total, generator=draw)
    return (strata / total * count).long().clamp(max=count - 1).view(pairs, draws)


def _generator(*key: int) -> torch.Generator:
    """The same random draws for the same whole numbers, from 0 upwards."""
    [mixed] = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed))


def _most_pictures(batch: PairBatch, groups: list[list[int]]) -> int:
    """Of the largest of the groups."""
    sides = (batch.chosen, batch.rejected)
    return max(len({int(side[pair]) for side in sides for pair in group}) for group in groups)


class Training:
    """One round: a fresh adapter, `updates` updates over the pairs.

    Attaches the adapter to the denoiser and leaves it there. Raises TrainingFailed when a loss or
    gradient is not a number, or when there is not even memory enough for the smallest preset. In a
    crew, all of its processes make the same calls of `step`; the held-out pairs are the leader's.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pairs: PairBatch,
        settings: TrainingSettings,
        held_out: PairBatch | None = None,
        preset: memory.Preset = memory.PRESETS[0],
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        if pairs.base_hash != denoiser.base_hash:
            raise TrainingFailed("The picks were made with another base model than the one loaded.")
        self.denoiser = denoiser
        self.pairs = pairs
        self.settings = settings
        self.held_out = held_out
        self.processes = processes
        self._groups = pairs.groups()
        self.updates = settings.updates(len(self._groups))
        self.update = 0
        denoiser.new_adapter(settings)
        schedule = denoiser.schedule(pairs.settings.steps)
        self._steps = schedule.stochastic_steps(pairs.settings.eta).cpu()
        if not len(self._steps) and settings.loss == "d3po":
            raise TrainingFailed(
                "These pictures were made without noise in their steps (eta 0); D3PO cannot learn "
                "from them. Learn from the finished pictures, or draw new pairs with eta 1."
            )
        self.steps_per_group = self._steps_per_group()
        of_one = self._latents_of(pairs, self._groups, self.steps_per_group)
        self._at_once = settings.micro_batch_pairs * of_one
        self._checkpointing = settings.gradient_checkpointing
        self._use(preset)
        self._references: dict[str, Tensor] = {}  # of the pairs and of the held-out ones
        self._parameters = denoiser.adapter_parameters()
        self._uses_8bit_optimizer = settings.optimizer == "adamw" and memory.uses_8bit_optimizer(
            preset, denoiser.device
        )
        self._optimizer = self._new_optimizer()

    # --- going on where it stopped ---

    def state(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: adapter, optimiser, position.

        And the references that are known: computed in other company they would differ by rounding.
        """
        return {
            "update": self.update,
            "adapter": self.denoiser.adapter_state(),
            "optimizer": self._optimizer.state_dict(),
            "optimizer_8bit": self._uses_8bit_optimizer,
            "references": dict(self._references),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        # a round that was begun before these names changed
        older = {"optimiser": "optimizer", "small_moments": "optimizer_8bit"}
        state = {older.get(name, name): value for name, value in state.items()}
        if state.get("optimizer_8bit", False) != self._uses_8bit_optimizer:
            self._uses_8bit_optimizer = not self._uses_8bit_optimizer
            self._optimizer = self._new_optimizer()  # goes on as it was begun
        self.update = state["update"]
        self.denoiser.set_adapter_state(state["adapter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._references = dict(state.get("references", {}))

    def _new_optimizer(self) -> torch.optim.Optimizer:
        self.note = ""  # what the artist should know of the memory
        groups = self._parameter_groups()
        rate = self.settings.learning_rate
        if self.settings.optimizer == "scalar_adam":
            return ScalarAdam(groups, lr=rate)
        kind = torch.optim.AdamW
        if self._uses_8bit_optimizer:
            kind = memory.eight_bit_adamw()
            self.note = "With the 8-bit optimiser of bitsandbytes, which needs less memory."
        if kind is None:
            raise TrainingFailed(
                "This round was begun with the 8-bit optimiser of bitsandbytes, which is not here "
                "any more. Install it again, or begin a new round: your picks are kept."
            )
        return kind(groups, lr=rate, weight_decay=1e-2)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """One for each learning rate; where there is only one, all are together."""
        shortcuts = set(self.denoiser.shortcut_parameters())
        rates: dict[float, list[torch.nn.Parameter]] = {}
        for parameter in self._parameters:
            share = self.settings.shortcut_rate if parameter in shortcuts else 1.0
            rates.setdefault(share * self.settings.learning_rate, []).append(parameter)
        return [{"params": parameters, "lr": rate} for rate, parameters in rates.items()]

    # --- the loop ---

    def __iter__(self) -> Iterator[Metrics]:
        while self.update < self.updates:
            yield self.step()

    def step(self) -> Metrics:
        """One update over `batch_pairs` groups of pairs, most of which are a single pair."""
        loss, margin = self._gradient_of_all()
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.max_grad_norm)
        if not (math.isfinite(float(loss.mean())) and math.isfinite(float(grad_norm))):
            raise TrainingFailed(
                "The round met a value that is not a number and was stopped; the last good adapter "
                "is kept. Try a gentler strength or a smaller learning rate."
            )
        self._while_memory_lasts(self._change_adapter)
        self.update += 1
        if self.update == self.updates and self.settings.target_shift is not None:
            factor = self.settings.target_shift / max(self._while_memory_lasts(self.change), 1e-9)
            self.denoiser.scale_adapter(min(factor, MOST_SCALED))
        return Metrics(
            update=self.update,
            updates=self.updates,
            loss=float(loss.mean()),
            margin=self.settings.beta * float(margin.mean()),
            accuracy=float((margin > 0).float().mean()),
            grad_norm=float(grad_norm),
            held_out_agreement=self._while_memory_lasts(self._held_out_agreement)
            if self._is_check()
            else None,
        )

    def _gradient_of_all(self) -> tuple[Tensor, Tensor]:
        """Leaves the update's gradient in the parameters; gives its losses and margins, flat.

        A process that fails says so to the others, which would wait for it for ever.
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
                raise TrainingFailed(f"Another of the processes could not go on. {share}")
        self.processes.all_reduce([parameter.grad for parameter in self._parameters])
        loss, margin = (torch.cat(values) for values in zip(*shares, strict=True))
        return loss, margin

    def _own_gradient(self) -> tuple[Tensor, Tensor]:
        """The part of this process: what it adds to the gradient, with its losses and margins."""
        groups, epochs = self._groups_of_update()
        looks = self._looks(epochs)  # of all at once, so that every part has the same
        count = sum(len(group) for group in groups) * looks.shape[1]
        mine, looks = self.processes.shard(groups), self.processes.shard(looks)
        losses, margins = [torch.zeros(0)], [torch.zeros(0)]
        self._optimizer.zero_grad()
        for part, columns in self._parts(self.pairs, mine, looks.shape[1], self._at_once):
            loss, margin = self._losses(mine[part], looks[part, columns])
            (loss.sum() / count).backward()
            losses.append(loss.detach().cpu())
            margins.append(margin.detach().cpu())
        for parameter in self._parameters:  # of a process that had no pair to look at
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return torch.cat(losses), torch.cat(margins)

    def change(self) -> float:
        """How far the adapter takes the pictures, in units of `TrainingSettings.reach`.

        Always measured on the same pictures of the round, with the same timesteps and noise.
        """
        draw = torch.Generator().manual_seed(self.settings.seed)
        order = torch.randperm(len(self.pairs.latents), generator=draw)
        pictures = order[:SHIFT_PICTURES].tolist()
        least, of_all = self._timesteps()
        timesteps = (least + _spread(len(pictures), 1, of_all, draw)).squeeze(1)
        noise = torch.randn((len(pictures), *self.pairs.latents.shape[2:]), generator=draw)
        at_once = max(1, self._at_once * MORE_WITHOUT_GRADIENT // 2)  # both halves of guidance
        parts = [slice(start, start + at_once) for start in range(0, len(pictures), at_once)]
        squares = [
            velocity_changes(
                self.denoiser, self.pairs, pictures[part], timesteps[part], noise[part]
            )
            for part in parts
        ]
        return float(torch.cat(squares).mean().sqrt())

    def _change_adapter(self) -> None:
        """The optimiser's step: as a whole, or as if it had never begun."""
        state = self._optimizer.state
        before = _on_cpu([(value, dict(state[value])) for value in self._parameters])
        try:
            self._optimizer.step()
        except Exception:
            # into what is there already: this is no moment to ask for memory
            with torch.no_grad():
                for parameter, (value, known) in zip(self._parameters, before, strict=True):
                    parameter.copy_(value)
                    if not known:
                        del state[parameter]
                    for name, moment in known.items():
                        if isinstance(moment, Tensor):
                            state[parameter][name].copy_(moment)
                        else:  # the 8-bit optimiser counts its steps so
                            state[parameter][name] = moment
            raise

    # --- memory ---

    def _while_memory_lasts(self, work: Callable[[], Done]) -> Done:
        """Do `work`; where the memory runs out, again with a smaller preset."""
        while True:
            known = dict(self._references)
            try:
                return work()
            except Exception as error:
                if not memory.has_run_out(error):
                    raise
            # out of the clause above, whose error holds on to all that was in use
            self._references = known  # of what is made again, all is computed again
            self._step_down()

    def _step_down(self) -> None:
        least = self._latents_of(self.pairs, self._groups, 1)
        if self.preset == memory.PRESETS[-1] and self._checkpointing and self._at_once <= least:
            raise TrainingFailed(
                "There is not enough memory for this round, even with the settings for "
                f"{self.preset.gb} GB. Close other programs that use the device, or draw smaller "
                "pictures; the last good adapter is kept."
            )
        self._checkpointing = True  # once it has run out, no more is kept than must be
        self._at_once = max(least, self._at_once // 2)
        self._use(memory.smaller(self.preset))
        self.note = (
            f"The memory ran out at update {self.update + 1}, which was made again with the "
            f"settings for {self.preset.gb} GB: fewer pictures at a time, and slower. What is "
            "learned is the same."
        )

    def _use(self, preset: memory.Preset) -> None:
        self.preset = preset
        denoiser = self.denoiser
        one = memory.cost(1, math.prod(self.pairs.latents.shape[-2:]), denoiser.dtype.itemsize)
        if self._at_once * one > preset.latents_kept:
            self._checkpointing = True
        self._at_once = min(self._at_once, max(1, int(preset.latents / one)))
        denoiser.set_gradient_checkpointing(self._checkpointing)
        denoiser.save_memory(preset.model_cpu_offload, preset.vae_tiling)
        gc.collect()
        memory.give_back(denoiser.device)

    def _steps_per_group(self) -> int:
        """At how many timesteps, or steps of the chain, an update looks at each group.

        Finished pictures of a grid are looked at with fewer than those of a pair, so that an update
        costs as much.
        """
        wanted = self.settings.steps_per_pair
        if self.settings.loss == "d3po":
            return min(wanted, len(self._steps)) or len(self._steps)
        return max(1, min(wanted, round(2 * wanted / _most_pictures(self.pairs, self._groups))))

    def _latents_of(self, batch: PairBatch, groups: list[list[int]], steps: int) -> int:
        """How many latents the largest of the groups sends through the network at once."""
        return _most_pictures(batch, groups) * steps * (2 if self.settings.guided else 1)

    def _parts(
        self, batch: PairBatch, groups: list[list[int]], steps: int, at_once: int
    ) -> Iterator[tuple[slice, slice]]:
        """Which groups, and which columns of their looks, go through the network together."""
        if not groups:
            return
        of_one = self._latents_of(batch, groups, 1)
        count = max(1, at_once // (of_one * steps))
        columns = min(steps, max(1, at_once // of_one))
        for start in range(0, len(groups), count):
            for first in range(0, steps, columns):
                yield slice(start, start + count), slice(first, first + columns)

    def _groups_of_update(self) -> tuple[list[list[int]], list[int]]:
        """The groups in shuffled order, again and again, as many as an update takes; and how often
        each has had its turn before."""
        count = len(self._groups)
        size = min(self.settings.batch_pairs, count)
        positions = range(self.update * size, (self.update + 1) * size)
        epochs = [position // count for position in positions]
        orders = {
            epoch: torch.randperm(
                count, generator=torch.Generator().manual_seed(self.settings.seed + epoch)
            )
            for epoch in set(epochs)
        }
        groups = [
            self._groups[int(orders[epoch][position % count])]
            for epoch, position in zip(epochs, positions, strict=True)
        ]
        return groups, epochs

    def _looks(self, epochs: list[int]) -> Tensor:
        """Indices (groups, steps) of what each group is looked at with.

        D3PO: steps of the chain, drawn at random. The others: the ways that a group's finished
        pictures are noised in (`_ways`), one after the other and again from the first.
        """
        wanted = self.steps_per_group
        if self.settings.loss != "d3po":
            first = torch.tensor(epochs)[:, None] * wanted
            return (first + torch.arange(wanted)) % self.settings.noise_draws_per_pair
        if wanted == len(self._steps):
            return self._steps.expand(len(epochs), -1)
        draw = _generator(self.settings.seed, self.update)
        return self._steps[_spread(len(epochs), wanted, len(self._steps), draw)]

    def _ways(self, batch: PairBatch, groups: list[list[int]], looks: Tensor) -> tuple[Tensor, ...]:
        """What the looks (groups, steps) are: the same for all pictures of a group.

        D3PO: the steps themselves. The others: timesteps (groups, steps), and the noise
        (groups, steps, C, h, w) that the pictures are noised with.
        """
        if self.settings.loss == "d3po":
            return (looks,)
        least, count = self._timesteps()
        shape, seed = batch.latents.shape[2:], self.settings.seed
        begins = torch.stack(
            [torch.rand(1, generator=_generator(seed, group[0], 0)) for group in groups]
        )
        timesteps = least + ((begins + looks * GOLDEN) % 1 * count).long().clamp(max=count - 1)
        noise = [
            torch.randn(shape, generator=_generator(seed, group[0], 1 + look))
            for group, row in zip(groups, looks.tolist(), strict=True)
            for look in row
        ]
        return timesteps, torch.stack(noise).view(*looks.shape, *shape)

    def _timesteps(self) -> tuple[int, int]:
        """The least timestep that finished pictures are noised to, and how many from there on."""
        of_all = self.denoiser.scheduler.config.num_train_timesteps
        count = max(1, round(self.settings.timestep_fraction * of_all))
        return of_all - count, count

    def _losses(self, groups: list[list[int]], looks: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and margins, flattened over pairs and steps."""
        settings = self.settings
        policy, reference = self._chosen_and_rejected(self.pairs, groups, looks)
        if settings.loss == "d3po":
            return d3po_loss(*policy, *reference, settings.beta, settings.clip_range)
        losses, margins = diffusion_dpo_loss(*policy, *reference, settings.beta)
        return (policy[0] if settings.loss == "finetune" else losses), margins

    def _chosen_and_rejected(
        self, batch: PairBatch, groups: list[list[int]], looks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the policy and of the reference (2, pairs x steps): log-probabilities, or errors.

        Every picture goes through the network once, however many pairs it stands in.
        """
        # a group may come twice, at the turn of an epoch, with looks of its own each time
        pairs = [(place, pair) for place, group in enumerate(groups) for pair in group]
        chosen = [(place, int(batch.chosen[pair])) for place, pair in pairs]
        rejected = [(place, int(batch.rejected[pair])) for place, pair in pairs]
        looked_at = list(dict.fromkeys(chosen + rejected))
        places = [place for place, _ in looked_at]
        pictures = [picture for _, picture in looked_at]
        ways = [values[places] for values in self._ways(batch, groups, looks)]
        # first, before what the policy's gradient needs takes up memory
        reference = self._reference(batch, pictures, looks[places], *ways)
        policy = self._values(batch, pictures, *ways)
        row = {key: number for number, key in enumerate(looked_at)}
        sides = torch.tensor([[row[key] for key in side] for side in (chosen, rejected)])
        return policy[sides].flatten(1), reference[sides].flatten(1)

    def _values(self, batch: PairBatch, pictures: list[int], *ways: Tensor) -> Tensor:
        """(pictures, steps) under the network as it is switched now."""
        if self.settings.loss == "d3po":
            return self._log_probs(batch, pictures, *ways)
        return velocity_errors(self.denoiser, batch, pictures, *ways, self.settings.guided)

    @torch.no_grad()
    def _reference(
        self, batch: PairBatch, pictures: list[int], looks: Tensor, *ways: Tensor
    ) -> Tensor:
        """(pictures, steps) under the base, which never changes: a look is computed only once."""
        key = "train" if batch is self.pairs else "held out"
        chain, looks_in_all = len(batch.timesteps), self.settings.noise_draws_per_pair
        width = chain if self.settings.loss == "d3po" else max(looks_in_all, HELD_OUT_STEPS)
        known = self._references.get(key, torch.full((len(batch.latents), width), math.nan))
        places = torch.tensor(pictures)[:, None], looks
        new = known[places].isnan().any(1)
        if new.any():
            some = [picture for picture, is_new in zip(pictures, new, strict=True) if is_new]
            with self.denoiser.adapter_off():
                values = self._values(batch, some, *(way[new] for way in ways))
            known = known.index_put((places[0][new], looks[new]), values.cpu())
            self._references[key] = known
        return known[places].to(self.denoiser.device)

    def _log_probs(self, batch: PairBatch, pictures: list[int], steps: Tensor) -> Tensor:
        """(pictures, steps) under the network as it is switched now, in one forward pass."""
        wanted = [
            (picture, int(step))
            for picture, chain_steps in zip(pictures, steps, strict=True)
            for step in chain_steps
        ]
        latents = torch.stack([batch.latents[p, step : step + 2] for p, step in wanted])
        prompts = [batch.prompts[picture] for picture, _ in wanted]
        values = step_log_prob(
            self.denoiser, latents, steps.flatten(), prompts, batch, self.settings
        )
        return values.view(steps.shape)

    # --- evidence ---

    def _is_check(self) -> bool:
        every = max(1, self.updates // HELD_OUT_CHECKS)
        return self.held_out is not None and (
            self.update % every == 0 or self.update == self.updates
        )

    @torch.no_grad()
    def _held_out_agreement(self) -> float:
        """Share of the held-out pairs whose chosen side the adapter has made likelier.

        Always with the same looks.
        """
        held_out, groups = self.held_out, self.held_out.groups()
        looks = torch.arange(HELD_OUT_STEPS)
        if self.settings.loss == "d3po":  # spread over the chain
            looks = self._steps[((looks + 0.5) / HELD_OUT_STEPS * len(self._steps)).long()]
        looks = looks.expand(len(groups), -1)
        margins = torch.zeros(len(held_out))
        at_once = self._at_once * MORE_WITHOUT_GRADIENT
        for part, columns in self._parts(held_out, groups, HELD_OUT_STEPS, at_once):
            policy, reference = self._chosen_and_rejected(
                held_out, groups[part], looks[part, columns]
            )
            gained = policy - reference if self.settings.loss == "d3po" else reference - policy
            pairs = [pair for group in groups[part] for pair in group]
            margins[pairs] += (gained[0] - gained[1]).view(len(pairs), -1).sum(1).cpu()
        return float((margins > 0).float().mean())
