"""Pairs in, adapter out: one update at a time, no files and no rows.

    training = Training(denoiser, pairs, settings, held_out)
    for metrics in training:          # one AdamW update each
        ...                           # stop, show, or save training.state() between any two

Every random draw belongs to (seed, update), so a run continued from a state is the run itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.ddim import log_prob, output_weight
from studio.objectives import d3po_loss, diffusion_dpo_loss
from studio.settings import TrainingSettings
from studio.trajectory import PairBatch

if TYPE_CHECKING:
    from studio.models import Denoiser

HELD_OUT_CHECKS = 8  # times in a round that agreement with the held-out picks is measured
HELD_OUT_STEPS = 4  # denoising steps a held-out pair is judged at
REFERENCE_BATCH = 64  # latents in one forward pass of the reference


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
    text = denoiser.embed(prompts)
    if settings.guided:
        empty = denoiser.embed_negative(sampling.negative_prompt, len(prompts))
        noise_pred = denoiser.predict_guided_noise(
            latent, timesteps, text, empty, sampling.guidance
        )
    else:
        noise_pred = denoiser.predict_noise(latent, timesteps, text)
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


@torch.no_grad()
def reference_log_probs(denoiser: Denoiser, batch: PairBatch, settings: TrainingSettings) -> Tensor:
    """(N, 2, T) of every stored step of chosen and rejected under the base model, adapter off.

    Steps without noise are left at 0; they are never drawn.
    """
    stochastic = denoiser.schedule(batch.settings.steps).stochastic_steps(batch.settings.eta).cpu()
    result = torch.zeros(len(batch), 2, len(batch.timesteps))
    rows = [
        (pair, side, int(step))
        for pair in range(len(batch))
        for side in range(2)
        for step in stochastic
    ]
    with denoiser.adapter_off():
        for start in range(0, len(rows), REFERENCE_BATCH):
            part = rows[start : start + REFERENCE_BATCH]
            latents = torch.stack([_step_latents(batch, *row) for row in part])
            prompts = [batch.prompts[pair] for pair, _, _ in part]
            steps = torch.tensor([step for _, _, step in part])
            values = step_log_prob(denoiser, latents, steps, prompts, batch, settings).cpu()
            for row, value in zip(part, values, strict=True):
                result[row] = value
    return result


def _step_latents(batch: PairBatch, pair: int, side: int, step: int) -> Tensor:
    chain = batch.chosen[pair] if side == 0 else batch.rejected[pair]
    return chain[step : step + 2]


def _spread(pairs: int, draws: int, count: int, draw: torch.Generator) -> Tensor:
    """Random indices (pairs, draws) below `count`, spread evenly within the update."""
    total = pairs * draws
    strata = torch.randperm(total, generator=draw) + torch.rand(total, generator=draw)
    return (strata / total * count).long().clamp(max=count - 1).view(pairs, draws)


class Training:
    """One round: a fresh adapter, `updates` updates over the pairs.

    Attaches the adapter to the denoiser and leaves it there. Raises TrainingFailed when a loss or
    gradient is not a number.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pairs: PairBatch,
        settings: TrainingSettings,
        held_out: PairBatch | None = None,
    ) -> None:
        if pairs.base_hash != denoiser.base_hash:
            raise TrainingFailed("The picks were made with another base model than the one loaded.")
        self.denoiser = denoiser
        self.pairs = pairs
        self.settings = settings
        self.held_out = held_out
        self.updates = settings.updates(len(pairs))
        self.update = 0
        denoiser.new_adapter(settings)
        denoiser.set_gradient_checkpointing(settings.gradient_checkpointing)
        schedule = denoiser.schedule(pairs.settings.steps)
        self._steps = schedule.stochastic_steps(pairs.settings.eta).cpu()
        if not len(self._steps) and settings.loss == "d3po":
            raise TrainingFailed(
                "These pictures were made without noise in their steps (eta 0); D3PO cannot learn "
                "from them. Draw new pairs with eta 1."
            )
        self._reference: Tensor | None = None
        self._held_out_reference: Tensor | None = None
        self._parameters = denoiser.adapter_parameters()
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=1e-2
        )

    # --- going on where it stopped ---

    def state(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: adapter, optimiser, position."""
        return {
            "update": self.update,
            "adapter": self.denoiser.adapter_state(),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.update = state["update"]
        self.denoiser.set_adapter_state(state["adapter"])
        self._optimiser.load_state_dict(state["optimiser"])

    # --- the loop ---

    def __iter__(self) -> Iterator[Metrics]:
        while self.update < self.updates:
            yield self.step()

    def step(self) -> Metrics:
        """One update over `batch_pairs` pairs."""
        draw = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.update)
        rows = self._pairs_of_update()
        # all at once, so that micro-batches draw the same
        draws = self._draws(len(rows), draw)
        losses, margins = [], []
        self._optimiser.zero_grad()
        for start in range(0, len(rows), self.settings.micro_batch_pairs):
            part = slice(start, start + self.settings.micro_batch_pairs)
            loss, margin = self._losses(rows[part], *(drawn[part] for drawn in draws))
            (loss.sum() / draws[0].numel()).backward()
            losses.append(loss.detach())
            margins.append(margin.detach())
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.max_grad_norm)
        loss, margin = torch.cat(losses), torch.cat(margins)
        if not (math.isfinite(float(loss.mean())) and math.isfinite(float(grad_norm))):
            raise TrainingFailed(
                "The round met a value that is not a number and was stopped; the last good adapter "
                "is kept. Try a gentler strength or a smaller learning rate."
            )
        self._optimiser.step()
        self.update += 1
        return Metrics(
            update=self.update,
            updates=self.updates,
            loss=float(loss.mean()),
            margin=self.settings.beta * float(margin.mean()),
            accuracy=float((margin > 0).float().mean()),
            grad_norm=float(grad_norm),
            held_out_agreement=self._held_out_agreement() if self._is_check() else None,
        )

    def _pairs_of_update(self) -> list[int]:
        """Indices of this update's pairs: the pairs in shuffled order, again and again."""
        size, count = min(self.settings.batch_pairs, len(self.pairs)), len(self.pairs)
        positions = range(self.update * size, (self.update + 1) * size)
        orders = {
            epoch: torch.randperm(
                count, generator=torch.Generator().manual_seed(self.settings.seed + epoch)
            )
            for epoch in {position // count for position in positions}
        }
        return [int(orders[position // count][position % count]) for position in positions]

    def _draws(self, pairs: int, draw: torch.Generator) -> tuple[Tensor, ...]:
        """What `_losses` takes beside the pairs, each with a row a pair.

        D3PO: chain indices (pairs, steps). The others: timesteps (pairs, steps), and the noise
        (pairs, steps, C, h, w) that both pictures are noised with.
        """
        wanted = self.settings.steps_per_pair
        if self.settings.loss != "d3po":
            count = self.denoiser.scheduler.config.num_train_timesteps
            timesteps = _spread(pairs, max(1, wanted), count, draw)
            noise = torch.randn((*timesteps.shape, *self.pairs.chosen.shape[2:]), generator=draw)
            return timesteps, noise
        if wanted == 0 or wanted >= len(self._steps):
            return (self._steps.expand(pairs, -1),)
        return (self._steps[_spread(pairs, wanted, len(self._steps), draw)],)

    def _losses(
        self, rows: list[int], steps: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses and margins, flattened over pairs and steps."""
        if self.settings.loss != "d3po":
            return self._image_losses(rows, steps, noise)
        if self._reference is None:
            self._reference = reference_log_probs(self.denoiser, self.pairs, self.settings)
        policy = self._log_probs(self.pairs, rows, steps)
        reference = self._reference[rows].gather(2, steps[:, None, :].expand(-1, 2, -1))
        reference = reference.to(policy.device)
        return d3po_loss(
            policy[:, 0].flatten(),
            policy[:, 1].flatten(),
            reference[:, 0].flatten(),
            reference[:, 1].flatten(),
            self.settings.beta,
            self.settings.clip_range,
        )

    def _log_probs(self, batch: PairBatch, rows: list[int], steps: Tensor) -> Tensor:
        """(pairs, 2, steps) under the adapter; both sides of all pairs in one forward pass."""
        wanted = [
            (row, side, int(step))
            for row, chain_steps in zip(rows, steps, strict=True)
            for side in range(2)
            for step in chain_steps
        ]
        latents = torch.stack([_step_latents(batch, *entry) for entry in wanted])
        prompts = [batch.prompts[row] for row, _, _ in wanted]
        indices = torch.tensor([step for _, _, step in wanted])
        values = step_log_prob(self.denoiser, latents, indices, prompts, batch, self.settings)
        return values.view(len(rows), 2, steps.shape[1])

    def _image_losses(
        self, rows: list[int], timesteps: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the final latents of both sides, noised to the same timesteps with the same noise.

        Diffusion-DPO; or fine-tuning, whose loss is the error of the chosen side alone.
        """
        rows = [row for row in rows for _ in range(timesteps.shape[1])]
        noised = rows, timesteps.flatten(), noise.flatten(0, 1)
        policy = self._velocity_errors(self.pairs, *noised)
        with torch.no_grad(), self.denoiser.adapter_off():
            reference = self._velocity_errors(self.pairs, *noised)
        losses, margins = diffusion_dpo_loss(*policy, *reference, self.settings.beta)
        return (policy[0] if self.settings.loss == "finetune" else losses), margins

    def _velocity_errors(
        self, batch: PairBatch, rows: list[int], timesteps: Tensor, noise: Tensor
    ) -> Tensor:
        """(2, B): how far the network is from the velocity of chosen and of rejected.

        The mean over the latent's elements of (v - predicted v)², whatever the network predicts: in
        units of noise the timesteps with most noise, where a picture is decided, would weigh next
        to nothing ((v - predicted v)² = (noise - predicted noise)² / alpha_bar).
        """
        final = torch.cat([batch.chosen[rows, -1], batch.rejected[rows, -1]])
        final, noise = final.to(self.denoiser.device), noise.to(self.denoiser.device)
        noise, timesteps = noise.repeat(2, 1, 1, 1), timesteps.to(self.denoiser.device).repeat(2)
        noisy = self.denoiser.scheduler.add_noise(final, noise, timesteps)
        text = self.denoiser.embed([batch.prompts[row] for row in rows] * 2)
        predicted = self.denoiser.predict_noise(noisy, timesteps, text)
        error = (predicted - noise).square().mean((1, 2, 3))
        # a last timestep without any signal says nothing about a picture
        return (error / self.denoiser.alpha_bar(timesteps).clamp(min=1e-4)).view(2, -1)

    # --- evidence ---

    def _is_check(self) -> bool:
        every = max(1, self.updates // HELD_OUT_CHECKS)
        return self.held_out is not None and (
            self.update % every == 0 or self.update == self.updates
        )

    @torch.no_grad()
    def _held_out_agreement(self) -> float:
        """Share of the held-out pairs whose chosen side the adapter has made likelier."""
        is_image_level = self.settings.loss != "d3po"
        margins = self._held_out_velocities() if is_image_level else self._held_out_steps()
        return float((margins.sum(1) > 0).float().mean())

    def _held_out_velocities(self) -> Tensor:
        """Margins (N, HELD_OUT_STEPS), at the same timesteps and noise every time."""
        count = self.denoiser.scheduler.config.num_train_timesteps
        rows = [row for row in range(len(self.held_out)) for _ in range(HELD_OUT_STEPS)]
        spread = (torch.arange(HELD_OUT_STEPS) + 0.5) / HELD_OUT_STEPS * count
        timesteps = spread.long().repeat(len(self.held_out))
        draw = torch.Generator().manual_seed(self.settings.seed)
        noise = torch.randn((len(rows), *self.held_out.chosen.shape[2:]), generator=draw)
        policy = self._velocity_errors(self.held_out, rows, timesteps, noise)
        with self.denoiser.adapter_off():
            reference = self._velocity_errors(self.held_out, rows, timesteps, noise)
        gained = reference - policy
        return (gained[0] - gained[1]).view(len(self.held_out), HELD_OUT_STEPS)

    def _held_out_steps(self) -> Tensor:
        """Margins (N, HELD_OUT_STEPS), at the same steps of the chains every time."""
        held_out = self.held_out
        if self._held_out_reference is None:
            self._held_out_reference = reference_log_probs(self.denoiser, held_out, self.settings)
        spread = torch.linspace(0, len(self._steps) - 1, HELD_OUT_STEPS + 2)[1:-1].round().long()
        steps = self._steps[spread].expand(len(held_out), -1)
        policy = self._log_probs(held_out, list(range(len(held_out))), steps).cpu()
        reference = self._held_out_reference.gather(2, steps[:, None, :].expand(-1, 2, -1))
        ratio = policy - reference
        return ratio[:, 0] - ratio[:, 1]
