"""Which of several pictures come closest to what an adapter has learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studio.engine.estimators import NoisedPictures
from studio.engine.trajectory import PairBatch, Trajectory
from studio.settings import TrainingSettings

if TYPE_CHECKING:
    from studio.models import Denoiser

DRAWS = 16  # of timestep and noise, the same for all pictures


@torch.no_grad()
def scores(denoiser: Denoiser, chains: Sequence[Trajectory]) -> Tensor:
    """(N,) how likely the network in its present state makes the final latents of N chains.

    As `NoisedPictures` counts it; one chain at one draw goes through the network at a time. The
    scores under an adapter less those under the base are implicit rewards, up to beta and a
    constant of the prompt (DPO, arXiv 2305.18290, eq. 5).
    """
    settings = TrainingSettings()
    batch = PairBatch.of([(chain, None) for chain in chains], only_final=True)
    estimator = NoisedPictures(denoiser, batch, settings)
    draws = torch.arange(DRAWS)[None]
    inputs = estimator.inputs([[0]], draws)
    total = torch.zeros(len(chains))
    for draw in range(DRAWS):
        for picture in range(len(chains)):
            one = (values[:, draw : draw + 1] for values in inputs)
            total[picture] += float(estimator.scores([picture], *one))
    return total / DRAWS
