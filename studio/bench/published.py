"""D3PO as published: the baseline for speed.

Written from the paper (Yang et al., arXiv 2311.13231, algorithm 1) and from the description of its
code: one pair at a time; at every step four guided forward passes, one picture each, by the policy
and by a second copy of the network as the reference; log-probabilities averaged over the latent's
elements; ratios clipped to 1 ± 0.1; beta 0.1. Nothing is cached between two visits of a pair.
`OBJECTIVES["d3po"]` computes the same in the studio's own way, and a test compares the two.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from studio.engine.trajectory import PairBatch
from studio.maths.objectives import clip, dpo
from studio.maths.schedules import DiffusionSchedule, log_prob, noise_of
from studio.models import Denoiser, Text
from studio.models.networks import added_cond_kwargs
from studio.settings import OBJECTIVES, SamplingSettings

PUBLISHED = OBJECTIVES["d3po"]


def deep_copied_reference(denoiser: Denoiser) -> torch.nn.Module:
    """A second network without an adapter, as in the published code."""
    denoiser.adapters.remove()
    return copy.deepcopy(denoiser.network)


def guided_log_prob(
    unet: torch.nn.Module,
    denoiser: Denoiser,
    chain: Tensor,
    step: int,
    text: Text,
    schedule: DiffusionSchedule,
    settings: SamplingSettings,
) -> Tensor:
    """() log-probability of one stored step of one chain (T+1, C, h, w) under `unet`."""
    latent, next_latent = chain[step][None], chain[step + 1][None]
    twice = torch.cat([latent, latent]).to(unet.dtype)
    timesteps = schedule.timesteps[step].expand(2)
    added = added_cond_kwargs(twice, text, denoiser.vae_scale_factor, unet.dtype)
    output = unet(
        twice, timesteps, text.states.to(unet.dtype), added_cond_kwargs=added
    ).sample.float()
    noise = noise_of(output, twice, schedule.alpha_bar[step].expand(2), denoiser.prediction_type)
    unconditional, prompted = noise.chunk(2)
    guided = unconditional + settings.guidance * (prompted - unconditional)
    levels = schedule.step(step, settings.eta)
    return log_prob(next_latent, latent, guided, levels, "mean").squeeze(0)


def learn_pair(
    denoiser: Denoiser,
    reference: torch.nn.Module,
    batch: PairBatch,
    pair: int,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """One update from one pair over all stochastic steps. Returns the losses (steps,)."""
    settings = batch.settings
    schedule = denoiser.schedule(settings)
    steps = schedule.stochastic_steps(settings.eta).tolist()
    sides = int(batch.chosen[pair]), int(batch.rejected[pair])
    text = denoiser.text.embed([settings.negative_prompt, batch.prompts[sides[0]]])
    chains = [batch.latents[side].to(denoiser.device) for side in sides]
    losses = []
    optimizer.zero_grad()
    for step in steps:
        common = step, text, schedule, settings
        policy = [guided_log_prob(denoiser.network, denoiser, chain, *common) for chain in chains]
        with torch.no_grad():
            base = [guided_log_prob(reference, denoiser, chain, *common) for chain in chains]
        gains = [tuned - untuned for tuned, untuned in zip(policy, base, strict=True)]
        clipped = (clip(gain[None], PUBLISHED.clip_range) for gain in gains)
        loss = dpo(*clipped, PUBLISHED.beta)
        (loss.sum() / len(steps)).backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(denoiser.adapters.parameters(), PUBLISHED.max_grad_norm)
    optimizer.step()
    return torch.cat(losses)
