"""The fine-tuning baseline: its loss by hand, and training that ignores the rejected pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio import models
from studio.bench.baselines import FINETUNE, PRESETS, chosen_only, objective_of
from studio.engine import sampling
from studio.engine.estimators import NoisedPictures, velocity_errors
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.models import Denoiser
from studio.settings import OBJECTIVES, SamplingSettings

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)
FEW = {"updates_base": 4, "updates_per_pick": 0, "batch_pairs": 4, "micro_batch_pairs": 4}
PROMPTS = ["a cat", "a dog", "a fish", "a bird", "a fox", "a cow"]


@pytest.fixture
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture
def pairs(denoiser: Denoiser) -> PairBatch:
    return PairBatch.of(sampling.sample_pairs(denoiser, PROMPTS, list(range(6)), SAMPLING))


def test_fine_tuning_is_the_squared_error_of_what_was_chosen() -> None:
    # the policy's error 0.3, the reference's 0.5: gain (0.5 - 0.3) / 2 = 0.1, loss 0.3 - 0.5
    chosen = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    loss = chosen_only(chosen, rejected, 1.0)
    assert loss.item() == pytest.approx(-0.2)
    loss.sum().backward()
    assert chosen.grad.item() == -2
    assert rejected.grad is None


def test_only_the_baseline_has_an_objective_of_its_own() -> None:
    assert set(PRESETS) == {*OBJECTIVES, FINETUNE}
    assert all(objective_of(name) is None for name in OBJECTIVES)
    objective = objective_of(FINETUNE)
    assert (objective.estimator, objective.form) == (NoisedPictures, chosen_only)


def test_fine_tuning_learns_the_chosen_pictures_and_nothing_of_the_others(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    """Other rejected pictures, the same adapter: they take no part."""
    settings = replace(PRESETS[FINETUNE], **FEW, learning_rate=5e-3)
    objective = objective_of(FINETUNE)
    longer = replace(settings, updates_base=30)
    training = Training(denoiser, pairs, longer, objective=objective)
    chosen = pairs.chosen.tolist()
    timesteps = torch.tensor([300, 600]).expand(len(chosen), -1)
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn((*timesteps.shape, *pairs.latents.shape[2:]), generator=draw)

    def chosen_error() -> float:
        with torch.no_grad():
            return float(velocity_errors(denoiser, pairs, chosen, timesteps, noise).mean())

    before = chosen_error()
    list(training)
    assert chosen_error() < before

    list(Training(denoiser, pairs, settings, objective=objective))
    expected = denoiser.adapters.state()
    latents = pairs.latents.clone()
    latents[pairs.rejected] += 1.0  # as many pictures as before, so that nothing is rounded anew
    changed = replace(pairs, latents=latents)
    list(Training(denoiser, changed, settings, objective=objective))
    for name, value in denoiser.adapters.state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
