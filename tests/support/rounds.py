"""Short rounds on a loaded model, without a store."""

from __future__ import annotations

from dataclasses import replace

import torch

from studio.engine import sampling
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.models import Denoiser
from studio.settings import OBJECTIVES, SamplingSettings


def expect_to_learn(
    denoiser: Denoiser, prompt: str, settings: SamplingSettings, objective: str
) -> None:
    """Two updates begin at the reference itself, and change what the model draws."""
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, [prompt], [1], settings))
    few = {"updates_base": 2, "updates_per_pick": 0, "rank": 2, "alpha": 1.0}
    training = Training(denoiser, pairs, replace(OBJECTIVES[objective], learning_rate=1e-2, **few))
    first, *_ = list(training)
    assert abs(first.margin) < 1e-4  # an untrained adapter is the reference
    with denoiser.adapters.off():
        (base,) = sampling.sample(denoiser, [prompt], [1], settings)
    (tuned,) = sampling.sample(denoiser, [prompt], [1], settings)
    assert not torch.allclose(base.latents[-1], tuned.latents[-1], atol=1e-3)
