"""The store's return values about blind exams: see `rows`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from studio.settings import SamplingSettings

ExamChoice = Literal["left", "right", "tie"]
EXAM_CHOICES: tuple[ExamChoice, ...] = get_args(ExamChoice)


@dataclass(frozen=True)
class ExamPair:
    """One prompt and seed, drawn by the base model and by the tuned one."""

    id: str
    exam_id: str
    prompt: str
    seed: int
    tuned_side: Literal["left", "right"]
    base_image_id: str | None  # None: not drawn yet
    tuned_image_id: str | None
    choice: ExamChoice | None  # the answer that holds

    @property
    def is_drawn(self) -> bool:
        return self.base_image_id is not None and self.tuned_image_id is not None

    @property
    def sides(self) -> tuple[str | None, str | None]:
        """The ids of the left and of the right picture."""
        two = (self.tuned_image_id, self.base_image_id)
        return two if self.tuned_side == "left" else two[::-1]


@dataclass(frozen=True)
class Exam:
    """The artist chooses blind between the base model and an adapter at some strength."""

    id: str
    session_id: str
    adapter_id: str
    strength: float
    sampling: SamplingSettings  # of all its pictures
    left_at_s: float | None  # set: abandoned, and never counted
    created_at_s: float
    pairs: tuple[ExamPair, ...]  # in the order in which they are asked

    @property
    def answered(self) -> int:
        return sum(pair.choice is not None for pair in self.pairs)

    @property
    def is_finished(self) -> bool:
        return self.answered == len(self.pairs)

    @property
    def is_open(self) -> bool:
        return self.left_at_s is None and not self.is_finished

    @property
    def tuned_wins(self) -> int:
        return sum(pair.choice == pair.tuned_side for pair in self.pairs)

    @property
    def ties(self) -> int:
        return sum(pair.choice == "tie" for pair in self.pairs)

    @property
    def base_wins(self) -> int:
        return self.answered - self.ties - self.tuned_wins
