"""A Swiss tournament: few comparisons put many in order, and everybody plays about equally often.

In each round those of like score meet, and nobody meets the same one twice. After log2(n) rounds,
rounded up, the best one is found and the others are roughly in order. Pure functions.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Game:
    """Two that met. score: of the first one, from 0 to 1; the second has what is left of 1.

    None: the game is not decided yet.
    """

    first: str
    second: str
    score: float | None


def rounds_of(entrants: int) -> int:
    """How often each of them plays."""
    return math.ceil(math.log2(entrants)) if entrants > 1 else 0


def next_pairs(
    entrants: Sequence[str], games: Sequence[Game], most: int | None = None
) -> list[tuple[str, str]]:
    """Who meets next, at most so many pairs; none while games decide about that, or at the end.

    Entrants may join later: those that played least come first. Games of others are not counted.
    """
    known = set(entrants)
    met: dict[str, set[str]] = defaultdict(set)
    score: Counter[str] = Counter()
    busy: set[str] = set()
    for game in games:
        if not {game.first, game.second} <= known:
            continue
        met[game.first].add(game.second)
        met[game.second].add(game.first)
        if game.score is None:
            busy |= {game.first, game.second}
        else:
            score[game.first] += game.score
            score[game.second] += 1 - game.score
    level = min((len(met[one]) for one in entrants), default=0)
    if level >= rounds_of(len(known)):
        return []
    ranked = sorted(dict.fromkeys(entrants), key=lambda one: -score[one])  # stable
    # An odd one, and one that has met all of its level, meets one that has played more.
    for highest in range(level, len(known)):
        circle = [one for one in ranked if len(met[one]) <= highest]
        if busy & set(circle):
            return []  # its game decides whom it meets
        lowest = {one for one in circle if len(met[one]) == level}
        if pairs := _neighbours(circle, lowest, met):
            return pairs[:most]
    return []


def _neighbours(
    circle: list[str], lowest: set[str], met: dict[str, set[str]]
) -> list[tuple[str, str]]:
    """Pairs with one of `lowest` in each, of those that stand next to each other in `circle`."""
    pairs: list[tuple[str, str]] = []
    free = dict.fromkeys(circle)
    for place, one in enumerate(circle):
        if one not in free or one not in lowest:
            continue
        del free[one]
        others = (*circle[place + 1 :], *reversed(circle[:place]))
        other = next((each for each in others if each in free and each not in met[one]), None)
        if other is not None:
            del free[other]
            pairs.append((one, other))
    return pairs
