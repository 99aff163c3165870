"""What counts of picks allow one to say: shares with their intervals. Pure arithmetic."""

from __future__ import annotations

import math

Z_95 = 1.959964


def wilson(wins: float, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927); ties may count as half a win. No trials: 0 to 1."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = wins / total, Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    spread = Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    spread /= 1 + z2 / total
    return max(0.0, centre - spread), min(1.0, centre + spread)


def leans(count: int, total: int) -> bool:
    """Whether `count` of `total` is further from one half than chance explains (95%)."""
    low, high = wilson(count, total)
    return low > 0.5 or high < 0.5
