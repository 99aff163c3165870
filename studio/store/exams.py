"""Blind exams: base against tuned, and the sides are revealed after the last answer."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from studio.settings import SamplingSettings
from studio.store.database import Database, read, read_all, remember_damage
from studio.store.errors import RowDamaged, StoreError
from studio.store.jobs import insert_job
from studio.store.rows import EXAM_CHOICES, OPEN_JOB_STATES, ExamChoice, Job, Round
from studio.store.schema import (
    adapters,
    exam_answers,
    exam_pairs,
    exams,
    images,
    jobs,
    pairs,
    picks,
    rounds,
)
from studio.store.sessions import read_session
from studio.store.shapes import Mixed

MOST_PAIRS = 200

_later = exam_answers.alias("later")
is_newest_answer = ~sa.exists().where(
    _later.c.exam_pair_id == exam_answers.c.exam_pair_id, _later.c.seq > exam_answers.c.seq
)


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
    """The artist chooses blind between the base model and an adapter at some strength.

    mix: others that the adapter was mixed with, and itself; the strength is then that of the whole
    mix. None: the adapter alone.
    """

    id: str
    session_id: str
    adapter_id: str
    strength: float
    sampling: SamplingSettings  # of all its pictures
    left_at_s: float | None  # set: abandoned, and never counted
    created_at_s: float
    mix: Mixed | None
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


class Exams(Database):
    """Exams are created with all pairs, answered one pair at a time, and then final."""

    def add_exam(
        self,
        session_id: str,
        adapter_id: str,
        strength: float,
        questions: Sequence[tuple[str, int]],
        mix: Mixed | None = None,
    ) -> Exam:
        """Begin an exam of (prompt, seed) pairs, in that order, and have its pictures drawn.

        In half of the pairs the tuned picture is on the left: a lean to one side then favours
        neither model. Raises StoreError if another exam of the session is open.
        """
        if not 1 <= len(questions) <= MOST_PAIRS:
            raise StoreError(f"An exam has between 1 and {MOST_PAIRS} pairs.")
        sides = [("left", "right")[number % 2] for number in range(len(questions))]
        random.SystemRandom().shuffle(sides)
        now_s, exam_id = time.time(), uuid.uuid4().hex
        with self.writing() as connection:
            session = read_session(connection, session_id)
            owner = sa.select(adapters.c.session_id).where(adapters.c.id == adapter_id)
            if connection.scalar(owner) != session_id:
                raise StoreError("This adapter does not belong to the session.")
            if any(exam.is_open for exam in _exams(connection, exams.c.session_id == session_id)):
                raise StoreError("An exam is open already: finish it, or leave it first.")
            connection.execute(
                sa.insert(exams).values(
                    id=exam_id,
                    session_id=session_id,
                    adapter_id=adapter_id,
                    strength=strength,
                    mix=mix,
                    sampling=session.settings.sampling,
                    created_at_s=now_s,
                )
            )
            for (prompt, seed), side in zip(questions, sides, strict=True):
                connection.execute(
                    sa.insert(exam_pairs).values(
                        id=uuid.uuid4().hex,
                        exam_id=exam_id,
                        prompt=prompt,
                        seed=seed,
                        tuned_side=side,
                        created_at_s=now_s,
                    )
                )
            insert_job(connection, session_id, "exam", {"exam_id": exam_id})
            return _exam(connection, exam_id)

    def exam(self, exam_id: str) -> Exam:
        """One exam."""
        with self.reading() as connection:
            return _exam(connection, exam_id)

    def exams(self, session_id: str, adapter_id: str | None = None) -> list[Exam]:
        """The exams of a session, or of one adapter of it by itself, the newest first."""
        where = [exams.c.session_id == session_id]
        if adapter_id is not None:
            where.append(exams.c.adapter_id == adapter_id)
        with self.reading() as connection:
            found = _exams(connection, *where)
        return [exam for exam in found if adapter_id is None or exam.mix is None]

    def set_exam_hash(self, exam_id: str, hash_: str) -> None:
        """Remember the contents of the parts of an exam's mix, as they are first drawn with."""
        with self.writing() as connection:
            mix = _exam(connection, exam_id).mix
            if mix is None:
                raise StoreError("This exam is of no mix.")
            changed = {**mix, "hash": hash_}
            connection.execute(sa.update(exams).where(exams.c.id == exam_id).values(mix=changed))

    def draw_exam(self, exam_id: str) -> Job | None:
        """Request the missing pictures of an open exam, unless a job for them is open."""
        with self.writing() as connection:
            exam = _exam(connection, exam_id)
            if not exam.is_open or _open_jobs(connection, exam):
                return None
            return insert_job(connection, exam.session_id, "exam", {"exam_id": exam_id})

    def set_exam_pictures(self, pair_id: str, base_image_id: str, tuned_image_id: str) -> None:
        """Set the two pictures of a pair, which can then be asked."""
        with self.writing() as connection:
            connection.execute(
                sa.update(exam_pairs)
                .where(exam_pairs.c.id == pair_id)
                .values(base_image_id=base_image_id, tuned_image_id=tuned_image_id)
            )

    def answer_exam(self, answer_id: str, pair_id: str, choice: ExamChoice) -> Exam:
        """Add the answer to a pair. It does not reveal which side is the tuned one.

        A second call with the same `answer_id` changes nothing. The last answer ends the exam;
        no answer is accepted after it.
        """
        if choice not in EXAM_CHOICES:
            raise StoreError(f"An answer is one of {', '.join(EXAM_CHOICES)}.")
        with self.writing() as connection:
            found = connection.execute(
                sa.select(exam_pairs).where(exam_pairs.c.id == pair_id)
            ).first()
            if found is None:
                raise StoreError("This pair is not part of an exam.")
            exam = _exam(connection, found.exam_id)
            if _is_known(connection, answer_id):
                return exam
            _require_open(exam)
            if found.base_image_id is None or found.tuned_image_id is None:
                raise StoreError("This pair is not drawn yet.")
            _answer(connection, answer_id, pair_id, choice)
            return _exam(connection, exam.id)

    def exam_answer_before(self, answer_id: str) -> ExamChoice | None:
        """The choice that an answer replaced; None where none held."""
        earlier = exam_answers.alias()
        before = (
            sa.select(earlier.c.choice)
            .join(exam_answers, exam_answers.c.exam_pair_id == earlier.c.exam_pair_id)
            .where(exam_answers.c.id == answer_id, earlier.c.seq < exam_answers.c.seq)
            .order_by(earlier.c.seq.desc())
            .limit(1)
        )
        with self.reading() as connection:
            return connection.scalar(before)

    def take_back_answer(self, undo_id: str, exam_id: str) -> Exam:
        """Withdraw the newest answer that holds; its pair is asked next.

        A second call with the same `undo_id` changes nothing. Answers of an ended exam are final.
        """
        with self.writing() as connection:
            exam = _exam(connection, exam_id)
            if _is_known(connection, undo_id):
                return exam
            _require_open(exam)
            last = connection.scalar(
                sa.select(exam_answers.c.exam_pair_id)
                .join(exam_pairs, exam_pairs.c.id == exam_answers.c.exam_pair_id)
                .where(
                    exam_pairs.c.exam_id == exam_id,
                    is_newest_answer,
                    exam_answers.c.choice.is_not(None),
                )
                .order_by(exam_answers.c.seq.desc())
                .limit(1)
            )
            if last is not None:
                _answer(connection, undo_id, last, None)
            return _exam(connection, exam_id)

    def leave_exam(self, exam_id: str) -> Exam:
        """Leave an exam before its end: its answers are kept but never counted."""
        with self.writing() as connection:
            exam = _exam(connection, exam_id)
            if exam.is_open:
                now_s = time.time()
                connection.execute(
                    sa.update(exams).where(exams.c.id == exam_id).values(left_at_s=now_s)
                )
                connection.execute(
                    sa.update(jobs)
                    .where(jobs.c.id.in_(_open_jobs(connection, exam)))
                    .values(state="cancelled", message="The exam was left.", finished_at_s=now_s)
                )
            return _exam(connection, exam_id)

    def trained_prompts(self, adapter_id: str) -> frozenset[str]:
        """The prompts of the pairs that an adapter, or a round before it, was trained on."""
        with self.reading() as connection:
            adapter = connection.execute(
                sa.select(adapters).where(adapters.c.id == adapter_id)
            ).first()
            if adapter is None:
                raise StoreError("This adapter does not exist.")
            rows = connection.execute(
                sa.select(rounds).where(
                    rounds.c.session_id == adapter.session_id, rounds.c.number <= adapter.number
                )
            )
            learned = read_all(connection, rows, lambda row: read(Round, row, rounds))
            ids = {id_ for one in learned for id_ in one.train_pick_ids + one.favourite_ids}
            found = connection.execute(
                sa.select(picks.c.id, pairs.c.prompt)
                .join(pairs, pairs.c.id == picks.c.pair_id)
                .where(pairs.c.session_id == adapter.session_id)
                .union_all(
                    sa.select(images.c.id, images.c.prompt).where(
                        images.c.session_id == adapter.session_id
                    )
                )
            )
            return frozenset(row.prompt for row in found if row.id in ids)


def _exam(connection: sa.Connection, exam_id: str) -> Exam:
    found = _exams(connection, exams.c.id == exam_id)
    if not found:
        raise StoreError("This exam does not exist.")
    return found[0]


def _exams(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Exam]:
    answers = (
        sa.select(exam_answers.c.exam_pair_id, exam_answers.c.choice)
        .where(is_newest_answer)
        .subquery()
    )
    asked: dict[str, list[ExamPair]] = {}
    found = connection.execute(
        sa.select(exam_pairs, answers.c.choice)
        .join(exams, exams.c.id == exam_pairs.c.exam_id)
        .outerjoin(answers, answers.c.exam_pair_id == exam_pairs.c.id)
        .where(*where)
        .order_by(exam_pairs.c.seq)
    )
    torn: set[str] = set()  # exams with a damaged pair: without it the result would differ
    for row in found:
        try:
            pair = _read_exam_pair(row, answers.c.choice)
            asked.setdefault(pair.exam_id, []).append(pair)
        except RowDamaged as error:
            remember_damage(connection, error)
            torn.add(row.exam_id)
    where = [*where, exams.c.id.not_in(torn)]
    found = connection.execute(sa.select(exams).where(*where).order_by(exams.c.seq.desc()))
    return read_all(
        connection, found, lambda row: read(Exam, row, exams, pairs=tuple(asked.get(row.id, ())))
    )


def _read_exam_pair(row: sa.Row[Any], choice: sa.ColumnElement[Any]) -> ExamPair:
    said = row._mapping[choice]
    if said not in (None, *EXAM_CHOICES):
        raise RowDamaged("exam_answers", f"to {row.id}", "choice")
    return read(ExamPair, row, exam_pairs, choice=said)


def _open_jobs(connection: sa.Connection, exam: Exam) -> list[str]:
    """The ids of the open jobs that draw an exam."""
    found = connection.execute(
        sa.select(jobs).where(
            jobs.c.session_id == exam.session_id,
            jobs.c.kind == "exam",
            jobs.c.state.in_(OPEN_JOB_STATES),
        )
    )
    return [
        job.id
        for job in read_all(connection, found, lambda row: read(Job, row, jobs))
        if job.payload.get("exam_id") == exam.id
    ]


def _require_open(exam: Exam) -> None:
    if exam.left_at_s is not None:
        raise StoreError("This exam was left, and takes no more answers.")
    if exam.is_finished:
        raise StoreError("This exam is over, and its result stands.")


def _is_known(connection: sa.Connection, answer_id: str) -> bool:
    known = sa.select(exam_answers.c.id).where(exam_answers.c.id == answer_id)
    return connection.scalar(known) is not None


def _answer(
    connection: sa.Connection, answer_id: str, pair_id: str, choice: ExamChoice | None
) -> None:
    connection.execute(
        sa.insert(exam_answers).values(
            id=answer_id, exam_pair_id=pair_id, choice=choice, created_at_s=time.time()
        )
    )
