"""Confidence intervals for counts of picks. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from studio.messages import _, together

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
    """Whether `count` of `total` differs from one half by more than chance (95%)."""
    low, high = wilson(count, total)
    return low > 0.5 or high < 0.5


@dataclass(frozen=True)
class Tally:
    """Results of blind exams at one strength.

    Ties, pairs without a visible difference, are left out of the share, as in the sign test. They
    are reported beside it; with fewer decided pairs the interval is wider.
    """

    tuned: int
    base: int
    ties: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.tuned + other.tuned, self.base + other.base, self.ties + other.ties)

    @property
    def decided(self) -> int:
        return self.tuned + self.base

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the tuned model's share."""
        return wilson(self.tuned, self.decided)

    def __str__(self) -> str:
        """`16 of 20, 80% (58–92)`."""
        if not self.decided:
            return _("none: no difference was seen")
        low, high = self.interval
        share = self.tuned / self.decided
        return _(
            "{tuned} of {decided}, {share}% ({low}–{high})",
            tuned=self.tuned,
            decided=self.decided,
            share=round(100 * share),
            low=round(100 * low),
            high=round(100 * high),
        )


def exam_sentence(tally: Tally) -> str:
    """`You chose the tuned model in 16 of 20, 80% (58–92).`, and the number of ties."""
    if not tally.decided:
        return _("You saw no difference in any of the {number} pairs.", number=tally.ties)
    sentence = _("You chose the tuned model in {tally}.", tally=tally)
    if tally.ties:
        more = _("In {number} more you saw no difference: left out.", number=tally.ties)
        sentence = together(sentence, more)
    return sentence


class Examined(Protocol):
    """An exam of the store."""

    strength: float

    @property
    def is_finished(self) -> bool: ...
    @property
    def tuned_wins(self) -> int: ...
    @property
    def base_wins(self) -> int: ...
    @property
    def ties(self) -> int: ...


def tallies(exams: Iterable[Examined]) -> dict[float, Tally]:
    """Results of finished exams by strength, the lowest first.

    Exams at the same strength are added up. Unfinished exams do not count: stopping at a pleasing
    result would bias it.
    """
    by_strength: dict[float, Tally] = {}
    for exam in exams:
        if exam.is_finished:
            before = by_strength.get(exam.strength, Tally(0, 0))
            by_strength[exam.strength] = before + Tally(exam.tuned_wins, exam.base_wins, exam.ties)
    return dict(sorted(by_strength.items()))


def recommended_strength(results: Mapping[float, Tally]) -> float | None:
    """The strength whose interval has the highest lower bound; of equals the gentler one.

    None while no interval lies entirely above one half.
    """
    proven = [
        (tally.interval[0], -abs(strength), strength)
        for strength, tally in results.items()
        if tally.decided and tally.interval[0] > 0.5
    ]
    return max(proven)[2] if proven else None
