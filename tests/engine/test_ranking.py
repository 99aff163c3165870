"""Ranking by what an adapter has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio import models
from studio.engine import ranking, sampling
from studio.engine.estimators import NoisedPictures, velocity_errors
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.models import Denoiser
from studio.settings import OBJECTIVES, SamplingSettings, TrainingSettings

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)


@pytest.fixture
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture
def chains(denoiser: Denoiser) -> list[Trajectory]:
    return sampling.sample(denoiser, ["a cat"] * 4, [1, 2, 3, 4], SAMPLING)


def test_a_score_is_minus_half_the_velocity_error_at_the_same_draws_for_all(
    denoiser: Denoiser, chains: list[Trajectory]
):
    """Alone or among others, in any order, and whatever else a chain keeps of its way."""
    scores = ranking.scores(denoiser, chains)
    assert torch.equal(ranking.scores(denoiser, chains[::-1]), scores.flip(0))
    final = [replace(chain, latents=chain.latents[-1:]) for chain in chains]
    assert torch.equal(ranking.scores(denoiser, final[:1]), scores[:1])
    estimator = NoisedPictures(denoiser, PairBatch.of([(chains[0], None)]), TrainingSettings())
    timesteps, noise = estimator.inputs([[0]], torch.arange(ranking.DRAWS)[None])
    with torch.no_grad():
        errors = velocity_errors(denoiser, estimator.batch, [0], timesteps, noise)
    assert float(scores[0]) == pytest.approx(-float(errors.mean()) / 2, rel=1e-5)


def test_rewards_tell_the_chosen_from_the_rejected(denoiser: Denoiser, chains: list[Trajectory]):
    """After a round on two pairs of one prompt, most of all on these pictures."""
    pairs = PairBatch.of([(chains[0], chains[1]), (chains[2], chains[3])])
    few = {"updates_base": 12, "updates_per_pick": 0, "target_shift": None}
    list(Training(denoiser, pairs, replace(OBJECTIVES["diffusion_dpo"], **few)))
    tuned = ranking.scores(denoiser, chains)
    with denoiser.adapters.off():
        rewards = tuned - ranking.scores(denoiser, chains)
    assert min(rewards[0], rewards[2]) > max(rewards[1], rewards[3])
