"""Random numbers that are functions of a key, and never of earlier ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def generator(*key: int) -> torch.Generator:
    """A generator seeded by non-negative integers."""
    [mixed] = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed))


def spread(rows: int, columns: int, count: int, draw: torch.Generator) -> Tensor:
    """Stratified random indices (rows, columns) below `count`."""
    total = rows * columns
    strata = torch.randperm(total, generator=draw) + torch.rand(total, generator=draw)
    return (strata / total * count).long().clamp(max=count - 1).view(rows, columns)
