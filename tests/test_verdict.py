"""The verdict: go on, stop or pick more, and how sure that is of few picks."""

from __future__ import annotations

import math

import pytest

from studio.statistics import Tally
from studio.verdict import FEWEST_ASKED, USEFUL_SHARE, Evidence, Guesses, judge


def asked(*rounds: tuple[int, int], **known: object) -> Evidence:
    """Finished rounds, each (right, asked)."""
    guesses = [Guesses(number, *one) for number, one in enumerate(rounds, start=1)]
    return Evidence(finished=len(guesses), rounds=guesses, **known)


def chance(right: int, total: int, share: float) -> float:
    """Of so many right, if each is right with this probability."""
    return math.comb(total, right) * share**right * (1 - share) ** (total - right)


def probability(advice: str, total: int, share: float) -> float:
    """That the advice comes after a first round that guesses a pick with this probability."""
    return sum(
        chance(right, total, share)
        for right in range(total + 1)
        if judge(asked((right, total))).advice == advice
    )


@pytest.mark.parametrize(
    ("known", "advice", "says"),
    [
        (Evidence(missing=9), "pick", "9 more"),
        (Evidence(missing=0), "go_on", "enough picks"),
        (Evidence(finished=2), "go_on", "exam"),
        (asked((3, 3)), "pick", "3 of 3 (44–100 %)"),
        (asked((6, 6)), "go_on", "6 of 6 (61–100 %)"),
        (asked((3, 3), (4, 6)), "pick", "chance"),
        (asked((2, 8)), "stop", "2 of 8"),
        (asked((2, 5)), "pick", "2 of 5"),
        # Nobody can be guessed better than they repeat themselves.
        (asked((9, 10), agreed=9, repeated=10), "stop", "same again (9 of 10)"),
        (asked((9, 10), agreed=10, repeated=10), "go_on", "9 of 10"),
        (asked((9, 10), agreed=2, repeated=4), "go_on", "9 of 10"),  # too few to limit it
        # One round without a gain is chance, two are not.
        (asked((9, 10), (9, 10)), "go_on", "9 of 10"),
        (asked((9, 10), (9, 10), (9, 10)), "stop", "no longer gains"),
        (asked((8, 10), (8, 10), (9, 10)), "go_on", "9 of 10"),
        (asked((3, 3), (9, 10), (11, 13)), "go_on", "11 of 13"),  # 3 of 3 was no sure gain
        # What the artist chose blind, and damage, outweigh the guesses.
        (asked((3, 3), exam=Tally(16, 4)), "stop", "proven: blind you chose it in 16 of 20"),
        (asked((9, 10), exam=Tally(3, 17)), "stop", "base model more often"),
        (asked((9, 10), exam=Tally(11, 9)), "go_on", "9 of 10"),
        (asked((9, 10), diversity=0.4), "stop", "40 % of the base model's variety"),
        (asked((9, 10), diversity=0.9), "go_on", "9 of 10"),
        (asked((9, 10), held_back="Held back, because of mush."), "stop", "because of mush"),
    ],
)
def test_each_case(known: Evidence, advice: str, says: str) -> None:
    verdict = judge(known)
    assert verdict.advice == advice
    assert says in verdict.reason
    assert verdict.reason.endswith(".")


@pytest.mark.parametrize("total", range(1, 30))
def test_a_coin_is_seldom_told_to_go_on(total: int) -> None:
    """An interval of 95% lies above one half by chance in about one case of forty, and in one of
    sixteen where there are only four picks."""
    assert probability("go_on", total, 0.5) <= 1 / 16


@pytest.mark.parametrize("total", range(1, 30))
def test_a_useful_share_is_seldom_told_to_stop(total: int) -> None:
    """In one case of forty by the interval; Wilson's is not exact, and of seven it is worse."""
    assert probability("stop", total, USEFUL_SHARE) <= 1 / 12


@pytest.mark.parametrize("total", [1, 2, 3])
def test_three_picks_prove_nothing(total: int) -> None:
    for right in range(total + 1):
        assert judge(asked((right, total))).advice == "pick"


def test_what_does_not_learn_is_stopped_in_the_end() -> None:
    assert probability("stop", 30, 0.5) > 0.8
    assert probability("stop", FEWEST_ASKED - 1, 0.0) == 0.0
