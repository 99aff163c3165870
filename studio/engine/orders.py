"""What an order of several pictures says beyond its single pairs.

The pairs of a grid form a group of the batch. Which picture is before which is read from them, so a
grid of which only the best was named is an order too, and its other pictures share a place.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from studio.engine.trajectory import PairBatch
from studio.maths.objectives import rank_weights
from studio.settings import Orders


def counted(batch: PairBatch, orders: Orders) -> PairBatch:
    """The batch with its orders counted so.

    pairs: every pair alike. rank: pairs far apart in the order count more, those of a group 1 on
    the mean (RankDPO, arXiv 2410.18013). list: a picture against all that come after it, at once
    (Plackett-Luce).
    """
    if orders == "pairs":
        return batch
    of_two = batch.of_two
    if orders == "list":
        lists = len(batch.latents) + torch.arange(len(batch))  # each by itself
        lists[of_two] = batch.chosen[of_two]
        return replace(batch, counts=replace(batch.counts, lists=lists))
    weights = torch.ones(len(batch))
    for group in batch.groups():
        pairs = sorted({*group} & {*of_two})
        if pairs:
            weights[pairs] = _rank_weights(batch.chosen[pairs], batch.rejected[pairs])
    outer = weights if batch.counts.outer is None else weights * batch.counts.outer
    return replace(batch, counts=replace(batch.counts, outer=outer))


def _rank_weights(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(pairs,): RankDPO's weights of the pairs of one order, 1 on the mean."""
    pictures, places = torch.cat([chosen, rejected]).unique(return_inverse=True)
    better, worse = places.chunk(2)
    wins = torch.bincount(better, minlength=len(pictures)) / (len(pictures) - 1)
    weights = rank_weights(wins)[better, worse]
    return weights / weights.mean()
