"""Estimators of how likely the network makes a picture.

An estimator is made for one batch. There are three:

    NoisedPictures    the final latents, noised anew (Diffusion-DPO, arXiv 2311.12908)
    DenoisingSteps    the stored steps of the drawing (D3PO, arXiv 2311.13231)
    StepsGivenEnd     the same steps, without the chance in them (ours)

All give scores (higher is more likely) and gains: the score under the policy minus that under the
reference, the base with the adapter off. A picture is scored at several draws, a timestep and noise
or a step of the chain each. A `draw` is an index: the same index is always the same draw. Every
random number is a function of (seed, update) or (seed, pair, draw), never of earlier computations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.engine.errors import TrainingFailed
from studio.engine.randomness import generator, spread
from studio.engine.trajectory import ABSENT, PairBatch
from studio.maths.objectives import Counts
from studio.maths.schedules import log_prob, mean_given_end
from studio.settings import SamplingSettings, TrainingSettings

if TYPE_CHECKING:
    from studio.models import Denoiser, ReadAdapter

HELD_OUT_DRAWS = 4  # of each held-out pair
# k · GOLDEN mod 1 is spread evenly over [0, 1) for any number of terms k.
GOLDEN = (math.sqrt(5) - 1) / 2


class Estimator(ABC):
    """A batch of M pictures in N pairs, and a way to score them.

    groups: pair indices, grouped by shared pictures as in one grid.
    draws_per_group: how many draws an update takes of each group.
    reference: (M, columns) cached scores under the base; NaN where not computed yet. The base never
        changes, so each is computed once.
    other: the same under the adapter of another taste.
    only_final: whether it reads only the final latent of a trajectory.
    """

    only_final: ClassVar[bool]

    def __init__(
        self, denoiser: Denoiser, batch: PairBatch, settings: TrainingSettings, columns: int
    ) -> None:
        self.denoiser = denoiser
        self.batch = batch
        self.settings = settings
        self.groups = batch.groups()
        self.reference = torch.full((len(batch.latents), columns), math.nan)
        self.other = self.reference

    @property
    @abstractmethod
    def draws_per_group(self) -> int: ...

    @abstractmethod
    def draws_of_update(self, epochs: list[int], update: int) -> Tensor:
        """Draws (groups, draws_per_group) of an update; epochs: earlier turns of each group."""

    @abstractmethod
    def held_out_draws(self) -> Tensor:
        """(HELD_OUT_DRAWS,): always the same, evenly spread."""

    @abstractmethod
    def inputs(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, ...]:
        """The inputs of draws (groups, D), each (groups, D, ...); all pictures of a group share
        them."""

    @abstractmethod
    def scores(self, pictures: list[int], *inputs: Tensor) -> Tensor:
        """(pictures, D) under the network in its present state (adapter on or off), for inputs
        (pictures, D, ...)."""

    def gains(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        """Gains of the chosen and of the rejected sides of the groups' pairs at draws (groups, D);
        both (pairs x D,). That of a side that is absent is 0.

        Every picture goes through the network once, no matter how many pairs it is in.
        """

        def gains(pictures: list[int], draws: Tensor, *inputs: Tensor) -> Tensor:
            # first, before the policy's gradient takes up memory
            reference = self.reference_scores(pictures, draws, *inputs)
            return self.scores(pictures, *inputs) - reference

        return self._sides(groups, draws, gains)

    def other_gains(
        self, groups: list[list[int]], draws: Tensor, adapter: ReadAdapter
    ) -> tuple[Tensor, Tensor]:
        """As `gains`, with the adapter of another taste in the policy's place."""

        def gains(pictures: list[int], draws: Tensor, *inputs: Tensor) -> Tensor:
            with_it = partial(self.denoiser.adapters.using_read, [(adapter, 1.0)])
            self.other, scores = self._cached(self.other, with_it, pictures, draws, inputs)
            return scores - self.reference_scores(pictures, draws, *inputs)

        return self._sides(groups, draws, gains)

    def _sides(
        self, groups: list[list[int]], draws: Tensor, gains_of: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(chosen, rejected), both (pairs x D,), of what `gains_of` (pictures, draws, *inputs)
        gives, (pictures, D), for each picture of the groups."""
        # a group can appear twice at the turn of an epoch, with its own draws each time
        pairs = [(row, pair) for row, group in enumerate(groups) for pair in group]
        chosen = [(row, int(self.batch.chosen[pair])) for row, pair in pairs]
        rejected = [(row, int(self.batch.rejected[pair])) for row, pair in pairs]
        wanted = [key for key in dict.fromkeys(chosen + rejected) if key[1] != ABSENT]
        rows = [row for row, _ in wanted]
        pictures = [picture for _, picture in wanted]
        inputs = [values[rows] for values in self.inputs(groups, draws)]
        gains = gains_of(pictures, draws[rows], *inputs)
        gains = F.pad(gains, (0, 0, 0, 1))  # a last row of zeros, for sides that are absent
        index = {key: number for number, key in enumerate(wanted)}
        sides = torch.tensor([[index.get(key, -1) for key in side] for side in (chosen, rejected)])
        chosen_gains, rejected_gains = gains[sides].flatten(1)
        return chosen_gains, rejected_gains

    def counts(self, groups: list[list[int]], draws: Tensor) -> Counts:
        """How much the pairs of `gains` count, each (pairs x D,). Every row of groups, and every
        draw, has lists of its own."""
        count = draws.shape[1]
        pairs = torch.tensor([pair for group in groups for pair in group])
        counts = self.batch.counts.at(pairs.repeat_interleave(count), self.denoiser.device)
        if counts.lists is None:
            return counts
        rows = [row for row, group in enumerate(groups) for _ in group]
        apart = torch.tensor(rows)[:, None] * count + torch.arange(count)
        apart = apart.flatten().to(self.denoiser.device)
        return replace(counts, lists=counts.lists * len(groups) * count + apart)

    def reference_scores(self, pictures: list[int], draws: Tensor, *inputs: Tensor) -> Tensor:
        """(pictures, D) under the base, computed where the cache has none."""
        off = self.denoiser.adapters.off
        self.reference, scores = self._cached(self.reference, off, pictures, draws, inputs)
        return scores

    @torch.no_grad()
    def _cached(
        self,
        cache: Tensor,
        state: Callable[[], AbstractContextManager[None]],
        pictures: list[int],
        draws: Tensor,
        inputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """The cache, and of it (pictures, D); what is missing is computed in that state of the
        network."""
        indices = torch.tensor(pictures)[:, None], draws
        new = cache[indices].isnan().any(1)
        if new.any():
            some = [picture for picture, is_new in zip(pictures, new, strict=True) if is_new]
            with state():
                scores = self.scores(some, *(values[new] for values in inputs))
            # out of place: `MicroBatches` keeps the old tensor, to go back to it
            cache = cache.index_put((indices[0][new], draws[new]), scores.cpu())
        return cache, cache[indices].to(self.denoiser.device)

    def latents_at_once(self, groups: list[list[int]], draws: int) -> int:
        """Latents in a forward pass of the largest group."""
        return self.batch.most_pictures(groups) * draws * (2 if self.settings.guided else 1)


class NoisedPictures(Estimator):
    """Final latents with fresh noise, at timesteps of the noisiest `timestep_fraction`.

    A score is minus half of the velocity's squared error, averaged over the latent's elements: the
    log-density of a normal distribution around the predicted velocity, up to a constant. The half
    is the factor of Diffusion-DPO's published code (arXiv 2311.12908, eq. 14).
    """

    only_final = True

    def __init__(self, denoiser: Denoiser, batch: PairBatch, settings: TrainingSettings) -> None:
        columns = max(settings.noise_draws_per_pair, HELD_OUT_DRAWS)
        super().__init__(denoiser, batch, settings, columns)

    @cached_property
    def draws_per_group(self) -> int:
        """Fewer for a grid than for a pair, so that an update costs about the same."""
        wanted = self.settings.steps_per_pair
        return max(1, min(wanted, round(2 * wanted / self.batch.most_shown(self.groups))))

    def draws_of_update(self, epochs: list[int], update: int) -> Tensor:
        """Draws take turns, and begin again from the first."""
        first = torch.tensor(epochs)[:, None] * self.draws_per_group
        turn = first + torch.arange(self.draws_per_group)
        return turn % self.settings.noise_draws_per_pair

    def held_out_draws(self) -> Tensor:
        return torch.arange(HELD_OUT_DRAWS)

    def inputs(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps (groups, D) and noise (groups, D, C, h, w)."""
        least, count = self.denoiser.levels.noisiest(self.settings.timestep_fraction)
        shape, seed = self.batch.latents.shape[2:], self.settings.seed
        begins = torch.stack(
            [torch.rand(1, generator=generator(seed, group[0], 0)) for group in groups]
        )
        timesteps = least + ((begins + draws * GOLDEN) % 1 * count).long().clamp(max=count - 1)
        noise = [
            torch.randn(shape, generator=generator(seed, group[0], 1 + draw))
            for group, row in zip(groups, draws.tolist(), strict=True)
            for draw in row
        ]
        return timesteps, torch.stack(noise).view(*draws.shape, *shape)

    def scores(self, pictures: list[int], *inputs: Tensor) -> Tensor:
        timesteps, noise = inputs
        guided = self.settings.guided
        return -velocity_errors(self.denoiser, self.batch, pictures, timesteps, noise, guided) / 2


class DenoisingSteps(Estimator):
    """Steps of the stored chain; a score is the log-probability of the step that was taken.

    steps: indices of the random ones, of which it takes the noisiest `timestep_fraction`.
    Raises TrainingFailed if no step is random, and ValueError if the batch holds no chains.
    """

    only_final = False

    def __init__(self, denoiser: Denoiser, batch: PairBatch, settings: TrainingSettings) -> None:
        super().__init__(denoiser, batch, settings, columns=len(batch.timesteps))
        if batch.latents.shape[1] != len(batch.timesteps) + 1:
            raise ValueError("the batch holds final latents alone; load the trajectories whole")
        schedule = denoiser.schedule(batch.settings)
        steps = schedule.stochastic_steps(batch.settings.eta).cpu()
        self.steps = steps[: max(1, round(settings.timestep_fraction * len(steps)))]
        if not len(self.steps):
            raise TrainingFailed(
                "These pictures were made without noise in their steps (eta 0, or a single step); "
                "D3PO cannot learn from them. Learn from the finished pictures, or draw new pairs "
                "with eta 1 and more steps."
            )

    @cached_property
    def draws_per_group(self) -> int:
        return min(self.settings.steps_per_pair, len(self.steps)) or len(self.steps)

    def draws_of_update(self, epochs: list[int], update: int) -> Tensor:
        """Indices into the chain, drawn at random and spread evenly over it."""
        if self.draws_per_group == len(self.steps):
            return self.steps.expand(len(epochs), -1)
        draw = generator(self.settings.seed, update)
        return self.steps[spread(len(epochs), self.draws_per_group, len(self.steps), draw)]

    def held_out_draws(self) -> Tensor:
        positions = (torch.arange(HELD_OUT_DRAWS) + 0.5) / HELD_OUT_DRAWS * len(self.steps)
        return self.steps[positions.long()]

    def inputs(self, groups: list[list[int]], draws: Tensor) -> tuple[Tensor]:
        """The steps themselves, (groups, D)."""
        return (draws,)

    def scores(self, pictures: list[int], *inputs: Tensor) -> Tensor:
        [steps] = inputs
        wanted = [
            (picture, int(step))
            for picture, chain_steps in zip(pictures, steps, strict=True)
            for step in chain_steps
        ]
        latents = self.latents(wanted)
        prompts = [self.batch.prompts[picture] for picture, _ in wanted]
        places = self.batch.places_at([picture for picture, _ in wanted], self.denoiser.device)
        values = step_log_prob(
            self.denoiser, latents, steps.flatten(), prompts, self.batch, self.settings, places
        )
        return values.view(steps.shape)

    def latents(self, wanted: list[tuple[int, int]]) -> Tensor:
        """(B, 2, C, h, w): the latent and the next one of each (picture, step)."""
        return torch.stack([self.batch.latents[p, step : step + 2] for p, step in wanted])


class StepsGivenEnd(DenoisingSteps):
    """Steps of the stored chain with the stored `next` replaced by its expectation given the end.

    What a single step drew is mostly chance, which neither the picture nor the pick depends on.
    Policy and reference have the same spread s, so the log-ratio of a step is linear in `next`:

        log p(next) - log p_ref(next) = (next - (mean + mean_ref) / 2) · (mean - mean_ref) / s²

    Its expectation given the latent x_t and the picture x0 is therefore its value at
    E[next | x_t, x0], in every reduction (Rao-Blackwell: the same expectation, and no more
    variance). That mean is `mean_given_end` under q: x0 from what x_t leaves open, then next from
    q(next | x_t, x0). Under q it is exact; the drawn chain is q with the network's mean prediction
    x0_hat in the place of x0, and its end is known only later. With the end of the chain for x0 (a
    schedule may leave a trace of noise in it):

    - Given x_t, it is unbiased: the plain log-ratio and this one have the same mean if the ends of
      chains from x_t have the mean x0_hat. With an exact network that is affine in the latent
      (normally distributed pictures) this holds for DDIM with eta 1, whatever the number of steps.
    - Given x_t and the end, it is unbiased only in the limit of many steps, with the same network
      and eta. With few, a step of the chain has more of the way to the end in it, and this
      log-ratio is smaller: to first order by a factor that is nearly the same at all noisy steps,
      as if beta were smaller. For pictures of unit variance it is 0.79 with 20 steps of Stable
      Diffusion and 0.97 with 200; in directions in which pictures vary less, it is smaller.
    - For a smaller eta, for Flow-CPS (whose s is not that of q's own diffusion) and for real
      networks it is an approximation: the end stands for the mean of what x_t leaves open.

    A loss that is convex in the gains, as `dpo`, lies below the mean of the plain losses; at an
    untrained adapter its gradient is the mean of theirs.

    With noise or velocity as the prediction, a score in the reduction "noise" is that of
    `NoisedPictures` up to a weight of the step, at the chain's own latents instead of ones noised
    anew.
    """

    def latents(self, wanted: list[tuple[int, int]]) -> Tensor:
        pictures, steps = (torch.tensor(indices) for indices in zip(*wanted, strict=True))
        device, sampling = self.denoiser.device, self.batch.settings
        step = self.denoiser.schedule(sampling).step(steps.to(device), sampling.eta)
        latent = self.batch.latents[pictures, steps].to(device)
        end = self.batch.latents[pictures, -1].to(device)
        return torch.stack([latent, mean_given_end(latent, end, step)], 1)


# --- the network's predictions for latents ---


def step_log_prob(
    denoiser: Denoiser,
    latents: Tensor,
    steps: Tensor,
    prompts: list[str],
    batch: PairBatch,
    settings: TrainingSettings,
    places: Tensor | None = None,
) -> Tensor:
    """Log-probabilities (B,) of stored steps under the network in its present state.

    latents: (B, 2, C, h, w), a latent and the next one; steps: (B,) indices into the chain; places:
    (B, 1, h, w).
    """
    sampling = batch.settings
    schedule = denoiser.schedule(sampling)
    latents = latents.to(denoiser.device)
    steps = steps.to(denoiser.device)
    latent, next_latent = latents[:, 0], latents[:, 1]
    timesteps = schedule.timesteps[steps]
    prediction = predict(denoiser, latent, timesteps, prompts, sampling, settings.guided)
    step = schedule.step(steps, sampling.eta)
    value = log_prob(next_latent, latent, prediction, step, settings.reduction, places)
    if settings.reduction == "noise":
        return value * schedule.output_weight(steps, sampling.eta, denoiser.prediction_type)
    return value


def predict(
    denoiser: Denoiser,
    latents: Tensor,
    timesteps: Tensor,
    prompts: list[str],
    sampling: SamplingSettings,
    guided: bool,
) -> Tensor:
    """(B, C, h, w): with guidance, as the pictures were drawn, or with the prompt only."""
    text = denoiser.text.embed(prompts, sampling.clip_skip)
    if not guided:
        return denoiser.predict(latents, timesteps, text)
    empty = denoiser.text.embed_negative(sampling.negative_prompt, len(prompts), sampling.clip_skip)
    return denoiser.predict_guided(latents, timesteps, text, empty, sampling.guidance)


def velocity_errors(
    denoiser: Denoiser,
    batch: PairBatch,
    pictures: list[int],
    timesteps: Tensor,
    noise: Tensor,
    guided: bool = False,
) -> Tensor:
    """(pictures, draws): squared error of the predicted velocity of each noised final latent.

    timesteps: (pictures, draws); noise: (pictures, draws, C, h, w). The mean of
    (v - predicted v)² over the latent's elements, or over those at the picture's places, for every
    prediction type. In units of noise the noisiest timesteps, where a picture is decided, would
    have next to no weight: in diffusion, (v - predicted v)² is (noise - predicted noise)² divided
    by alpha_bar.
    """
    repeated = [picture for picture in pictures for _ in range(timesteps.shape[1])]
    final = batch.latents[repeated, -1].to(denoiser.device)
    noise = noise.flatten(0, 1).to(denoiser.device)
    at = timesteps.flatten().to(denoiser.device)
    levels = denoiser.levels
    noisy = levels.noised(final, noise, at)
    prompts = [batch.prompts[picture] for picture in repeated]
    predicted = predict(denoiser, noisy, at, prompts, batch.settings, guided)
    errors = predicted - levels.target(final, noise)
    places = batch.places_at(repeated, denoiser.device)
    return levels.squared_velocity(errors, at, places).view(timesteps.shape)
