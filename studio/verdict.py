"""Whether to go on, to stop or to pick more: judged from what is measured after every round.

The rule rests on four things, and claims no more than they show:

- The share of held-out picks that a round guesses, with its 95% interval (Wilson, 1927). Of few
  picks the interval is wide. While it reaches from a coin toss to a useful share, only more picks
  can tell; an interval that ends below a useful share says that these picks do not teach.
- Test and retest: an artist who chose the same again in 8 of 10 pairs cannot be guessed in more
  than about 8 of 10. There the picks have no more to teach.
- Early stopping with patience (Prechelt, 1998): two rounds in a row that guess no more than an
  earlier one. A single round without a gain is often chance.
- Blind exams and the checks of a round's pictures (`studio.engine.collapse`), which outweigh all of
  it: the artist's own choice, and damage.

The numbers that the rule needs are the constants below. It was not fitted to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from studio.messages import _, told
from studio.statistics import Tally, wilson

Advice = Literal["pick", "go_on", "stop"]

PATIENCE = 2  # rounds without a gain
USEFUL_SHARE = 0.75  # of held-out picks; whose interval ends below it, has not learned the taste
FEWEST_ASKED = 6  # held-out picks, of about 30, before a round is blamed for what it does not know
ENOUGH_REPEATED = 5  # pairs shown twice, before they limit anything
LEAST_DIVERSITY = 0.5  # of the base model's; at 0.3 a round is held back


@dataclass(frozen=True)
class Guesses:
    """Of `asked` picks that the round of this number never saw, it guesses `right`."""

    number: int
    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the share."""
        return wilson(self.right, self.asked)

    def __str__(self) -> str:
        """`9 of 10 (60–98 %)`."""
        low, high = (round(100 * bound) for bound in self.interval)
        return _(
            "{right} of {asked} ({low}–{high} %)",
            right=self.right,
            asked=self.asked,
            low=low,
            high=high,
        )


@dataclass(frozen=True)
class Evidence:
    """What is known of a session.

    finished: the number of rounds that are. rounds: of those that were asked about held-out picks,
    the oldest first. repeated, agreed: pairs that were shown twice, and how many of them were
    decided alike. exam: of the adapter in use. held_back: the sentence of the newest round if it
    was held back. diversity: of the pictures of the adapter in use, relative to the base model's;
    None if it was not measured. missing: how many more picks the first round needs to start.
    """

    finished: int = 0
    rounds: Sequence[Guesses] = ()
    agreed: int = 0
    repeated: int = 0
    exam: Tally = field(default_factory=lambda: Tally(0, 0))
    held_back: str = ""
    diversity: float | None = None
    missing: int = 0


@dataclass(frozen=True)
class Verdict:
    advice: Advice
    reason: str  # a sentence


def judge(known: Evidence) -> Verdict:
    """The verdict on everything that is known."""
    if known.held_back:
        return Verdict("stop", _("{why} More picks do not mend that.", why=told(known.held_back)))
    if not known.finished:
        return _before_the_first(known.missing)
    return _by_the_exam(known.exam) or _by_the_pictures(known.diversity) or _by_the_guesses(known)


def _before_the_first(missing: int) -> Verdict:
    if missing <= 0:
        return Verdict("go_on", _("There are enough picks for the first round."))
    reason = _("Nothing is learned yet: {number} more and the first round starts.", number=missing)
    return Verdict("pick", reason)


def _by_the_exam(exam: Tally) -> Verdict | None:
    low, high = exam.interval
    if low > 0.5:
        proven = _("It is proven: blind you chose it in {exam}. Export it.", exam=exam)
        return Verdict("stop", proven)
    if high < 0.5:
        worse = _("Blind you chose the base model more often: yours in {exam}.", exam=exam)
        return Verdict("stop", worse)
    return None


def _by_the_pictures(diversity: float | None) -> Verdict | None:
    if diversity is None or diversity >= LEAST_DIVERSITY:
        return None
    alike = _(
        "Its pictures grow alike: {share} % of the base model's variety is left.",
        share=round(100 * diversity),
    )
    return Verdict("stop", alike)


def _by_the_guesses(known: Evidence) -> Verdict:
    if not known.rounds:
        unasked = _("No picks are kept out of the lessons, so only an exam tells what it knows.")
        return Verdict("go_on", unasked)
    newest = known.rounds[-1]
    low, high = newest.interval
    if high < USEFUL_SHARE and newest.asked >= FEWEST_ASKED:
        useless = _(
            "It guesses {guesses} of the picks kept from it, too few for more of the same to help: "
            "pick for one quality that most pairs show.",
            guesses=newest,
        )
        return Verdict("stop", useless)
    if low <= 0.5:
        unsure = _(
            "It guesses {guesses} of the picks kept from it: that may still be chance.",
            guesses=newest,
        )
        return Verdict("pick", unsure)
    if known.repeated >= ENOUGH_REPEATED and newest.share >= known.agreed / known.repeated:
        limit = _(
            "It guesses {guesses}, as often as you choose the same again ({agreed} of {repeated}).",
            guesses=newest,
            agreed=known.agreed,
            repeated=known.repeated,
        )
        return Verdict("stop", limit)
    if _has_stalled(known.rounds):
        stalled = _(
            "It no longer gains: {guesses}, and two rounds ago it guessed as much.", guesses=newest
        )
        return Verdict("stop", stalled)
    gains = _("It guesses {guesses} of the picks kept from it: more than chance.", guesses=newest)
    return Verdict("go_on", gains)


def _has_stalled(rounds: Sequence[Guesses]) -> bool:
    """Whether the last rounds guess no more than one before them that was surely above chance."""
    before, last = rounds[:-PATIENCE], rounds[-PATIENCE:]
    best = max((one.share for one in before if one.interval[0] > 0.5), default=None)
    return best is not None and all(one.share <= best for one in last)
