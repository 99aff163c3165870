"""D3PO as it was published: the baseline that speed is measured against.

Written from the paper (Yang et al., arXiv 2311.13231, algorithm 1) and from the description of its
code: one pair at a time; at every step four guided forward passes, each picture on its own, by the
policy and by a second copy of the whole network that is the reference; log-probabilities averaged
over the latent's elements; ratios kept within 1 ± 0.1; beta 0.1. Nothing is kept from one visit of
a pair to the next. `OBJECTIVES["d3po"]` learns the same in the studio's own way, and a test holds
the two against each other.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from studio.engine.trajectory import PairBatch
from studio.maths.objectives import clipped_dpo
from studio.maths.schedules import Schedule, log_prob, noise_of
from studio.models import Denoiser, Text
from studio.settings import OBJECTIVES, SamplingSettings

PUBLISHED = OBJECTIVES["d3po"]


def deep_copied_reference(denoiser: Denoiser) -> torch.nn.Module:
    """A second network without an adapter, as the published code holds one."""
    denoiser.adapters.remove()
    return copy.deepcopy(denoiser.unet)


def guided_log_prob(
    unet: torch.nn.Module,
    denoiser: Denoiser,
    chain: Tensor,
    step: int,
    text: Text,
    schedule: Schedule,
    settings: SamplingSettings,
) -> Tensor:
    """() log-probability of one stored step of one chain (T+1, C, h, w) under `unet`."""
    latent, next_latent = chain[step][None], chain[step + 1][None]
    twice = torch.cat([latent, latent]).to(unet.dtype)
    timesteps = schedule.timesteps[step].expand(2)
    further = denoiser.added_cond_kwargs(twice, text)
    output = unet(
        twice, timesteps, text.states.to(unet.dtype), added_cond_kwargs=further
    ).sample.float()
    noise = noise_of(output, twice, schedule.alpha_bar[step].expand(2), denoiser.prediction_type)
    unconditional, prompted = noise.chunk(2)
    guided = unconditional + settings.guidance * (prompted - unconditional)
    step_taken = schedule.step(step, settings.eta)
    return log_prob(next_latent, latent, guided, step_taken, "mean").squeeze(0)


def learn_pair(
    denoiser: Denoiser,
    reference: torch.nn.Module,
    batch: PairBatch,
    pair: int,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """One update from one pair: every stochastic step in turn. Returns the losses (steps,)."""
    settings = batch.settings
    schedule = denoiser.schedule(settings.steps)
    steps = schedule.stochastic_steps(settings.eta).tolist()
    sides = int(batch.chosen[pair]), int(batch.rejected[pair])
    text = denoiser.text.embed([settings.negative_prompt, batch.prompts[sides[0]]])
    chains = [batch.latents[side].to(denoiser.device) for side in sides]
    losses = []
    optimizer.zero_grad()
    for step in steps:
        where = step, text, schedule, settings
        policy = [guided_log_prob(denoiser.unet, denoiser, chain, *where) for chain in chains]
        with torch.no_grad():
            base = [guided_log_prob(reference, denoiser, chain, *where) for chain in chains]
        gains = [mine - its for mine, its in zip(policy, base, strict=True)]
        loss = clipped_dpo(*(gain[None] for gain in gains), PUBLISHED.beta, PUBLISHED.clip_range)
        (loss.sum() / len(steps)).backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(denoiser.adapters.parameters(), PUBLISHED.max_grad_norm)
    optimizer.step()
    return torch.cat(losses)
