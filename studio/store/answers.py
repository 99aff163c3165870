"""What the artist answers: picks between pairs, rankings of grids, and their undo.

Nothing is overwritten. A new answer adds picks that supersede the earlier ones; an undo adds picks
without a choice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import TypeAdapter

from studio.settings import CHOICES, MARKS_ACROSS, REASONS, Choice, Reason, SamplingSettings
from studio.store import shapes
from studio.store.database import Database, read, read_all
from studio.store.errors import AlreadyAnswered, StoreError
from studio.store.questions import (
    get_pair,
    get_question,
    left_image,
    pairs_with_images,
    read_pair,
    right_image,
)
from studio.store.rows import Answer, KeptAnswer, Pair, Pick, PickedPair, Question
from studio.store.schema import pairs, picks, question_id
from studio.store.waiting import holds, is_clicked, is_last_pick, is_of_question

NO_MARKS: Mapping[str, str] = MappingProxyType({})
MARKED = TypeAdapter(shapes.Marked)
# Not a picture by itself, of which somebody said that it is bad (`folder_pictures`).
is_of_two = pairs.c.left_image_id != pairs.c.right_image_id
NOT_BETTER: tuple[Choice, ...] = ("skip", "tie", "both_bad")  # answers that prefer no picture


def select_held(session_id: str) -> sa.Select[Any]:
    """The picks of a session that hold, with their pairs and images."""
    return (
        sa.select(pairs, left_image, right_image, picks)
        .select_from(pairs_with_images.join(picks, picks.c.pair_id == pairs.c.id))
        .where(pairs.c.session_id == session_id, holds)
    )


def read_picked_pairs(connection: sa.Connection, session_id: str) -> list[PickedPair]:
    """The pairs of a session with the picks that hold, in the order of picking."""
    rows = connection.execute(select_held(session_id).order_by(picks.c.seq))
    return read_all(connection, rows, _read_picked_pair)


def learnable_pick_ids(connection: sa.Connection, session_id: str) -> list[str]:
    """Picks of left or right that may share a round with the newest such pair, in order of picking.

    Pairs that were asked again are left out: they test consistency, and would count a pair twice.
    "Newest" goes by the pair: changing an old pick does not switch rounds to its old settings.
    """
    rows = connection.execute(
        sa.select(
            picks.c.id,
            left_image.c.base_hash,
            sa.type_coerce(left_image.c.sampling, sa.Text).label("sampling"),  # parsed once a text
            pairs.c.seq,
        )
        .select_from(pairs_with_images.join(picks, picks.c.pair_id == pairs.c.id))
        .where(
            pairs.c.session_id == session_id,
            pairs.c.repeat_of.is_(None),
            is_last_pick,
            picks.c.choice.in_(("left", "right")),
        )
        .order_by(picks.c.seq)
    ).all()
    parsed = {text: parse_sampling(text) for text in {row.sampling for row in rows}}
    kinds = {row.id: (row.base_hash, parsed[row.sampling]) for row in rows if parsed[row.sampling]}
    newest = max((row for row in rows if row.id in kinds), key=lambda row: row.seq, default=None)
    return [] if newest is None else [id_ for id_ in kinds if kinds[id_] == kinds[newest.id]]


def parse_sampling(text: str) -> SamplingSettings | None:
    """From JSON, those settings that pictures of one round have in common; None if damaged."""
    try:
        return SamplingSettings.from_dict(json.loads(text)).of_a_round
    except (AttributeError, RecursionError, TypeError, ValueError):
        return None


class Answers(Database):
    """What the artist answered, and what of it holds."""

    def add_answer(
        self,
        answer_id: str,
        id_: str,
        choice: Choice | Literal["ranked"],
        *,
        ranking: Sequence[str] = (),
        much_better: bool = False,
        reason: Reason | None = None,
        judge: str | None = None,
        marks: Mapping[str, str] = NO_MARKS,
    ) -> KeptAnswer:
        """Add the answer to a question, a pair or a grid; it supersedes any earlier one.

        choice: for a pair left or right, for a grid "ranked"; for both skip, tie or both_bad.
        ranking: of a grid that is ranked, the ids of its best pictures, the best first. A picture
        in it beats all that follow and all that are missing; between two missing ones nothing is
        said. much_better (pairs only), reason and marks need a preferred picture.
        marks: by the ids of pictures, the places that decided; see `studio.settings.MARKS_ACROSS`.
        judge: the name of the function that answers instead of the artist. It supersedes no answer
        that holds: `AlreadyAnswered` is raised.

        A second call with the same `answer_id` changes nothing and returns the same: a browser
        repeats a request whose response was lost.
        """
        with self.writing() as connection:
            known = connection.scalar(sa.select(picks.c.pair_id).where(picks.c.id == answer_id))
            if known is not None:
                question = get_question(connection, get_pair(connection, known).question_id)
                return _kept(connection, answer_id, question)
            pair = get_pair(connection, id_)
            if pair.question_id != id_:
                raise StoreError("The pictures of a grid are answered together.")
            question = get_question(connection, id_)
            if len(question.images) < 2:
                raise StoreError("This is one picture, which is good or bad by itself.")
            if any(image.erased_at_s is not None for image in question.images):
                raise StoreError("A picture of this question was deleted for good.")
            if judge is not None and _is_answered(connection, question):
                raise AlreadyAnswered("This question has an answer already.")
            said = {"much_better": much_better, "reason": reason, "judge": judge, "marks": marks}
            insert_answer(connection, answer_id, question, choice, ranking=ranking, **said)
            return _kept(connection, answer_id, question)

    def undo_pick(self, undo_id: str, session_id: str) -> Question | None:
        """Withdraw the newest answer that holds; its question becomes the next one waiting.

        Own art that was chosen meanwhile is no click to take back: `own_pictures` does that.
        Returns that question, or None if there is no answer. A second call with the same `undo_id`
        changes nothing and returns the same question.
        """
        with self.writing() as connection:
            done = sa.select(picks.c.pair_id).where(picks.c.id == undo_id)
            newest = (
                sa.select(picks.c.pair_id)
                .join(pairs, picks.c.pair_id == pairs.c.id)
                .where(pairs.c.session_id == session_id, holds, is_of_two, is_clicked)
                .order_by(picks.c.seq.desc())
                .limit(1)
            )
            before = connection.scalar(done)
            pair_id = before or connection.scalar(newest)
            if pair_id is None:
                return None
            question = get_question(connection, get_pair(connection, pair_id).question_id)
            if before is None:
                withdraw_answer(connection, undo_id, question)
                # The artist wants to see it again, even if it was discarded in the meantime.
                connection.execute(
                    sa.update(pairs).where(is_of_question([question.id])).values(stale_at_s=None)
                )
            return question

    def answer_before(self, answer_id: str) -> Answer | None:
        """The answer that an answer replaced, or that an undo withdrew; None if none held."""
        with self.reading() as connection:
            pair_id = connection.scalar(sa.select(picks.c.pair_id).where(picks.c.id == answer_id))
            if pair_id is None:
                raise StoreError("This answer does not exist.")
            question = get_question(connection, get_pair(connection, pair_id).question_id)
            return _answer_before(connection, answer_id, question)

    def picked_pairs(self, session_id: str) -> list[PickedPair]:
        """The pairs with the picks that hold, in the order of picking."""
        with self.reading() as connection:
            return read_picked_pairs(connection, session_id)

    def recent_answers(
        self,
        session_id: str,
        *,
        before: str | None = None,
        favourites: bool = False,
        limit: int = 40,
    ) -> list[Answer]:
        """The answers that hold, the newest first; with `before`, those older than that answer.

        `favourites` selects those with a favourite picture. The answer `before` may be withdrawn.
        """
        newest = (
            sa.select(question_id.label("question_id"))
            .select_from(pairs_with_images.join(picks, picks.c.pair_id == pairs.c.id))
            .where(pairs.c.session_id == session_id, holds, is_of_two)
            .group_by(question_id)
            .order_by(sa.func.max(picks.c.seq).desc())
            .limit(limit)
        )
        if before is not None:
            seq = sa.select(picks.c.seq).where(picks.c.id == before).scalar_subquery()
            newest = newest.where(picks.c.seq < seq)
        if favourites:
            newest = newest.having(sa.func.max(left_image.c.favourite | right_image.c.favourite))
        with self.reading() as connection:
            ids = connection.scalars(newest).all()
            query = select_held(session_id).where(is_of_question(ids)).order_by(pairs.c.seq)
            picked: dict[str, list[PickedPair]] = {id_: [] for id_ in ids}
            for one in read_all(connection, connection.execute(query), _read_picked_pair):
                picked[one.pair.question_id].append(one)
        return [Answer(tuple(of_question)) for of_question in picked.values() if of_question]


def insert_answer(
    connection: sa.Connection,
    answer_id: str,
    question: Question,
    choice: Choice | Literal["ranked"],
    *,
    ranking: Sequence[str] = (),
    much_better: bool = False,
    reason: Reason | None = None,
    judge: str | None = None,
    marks: Mapping[str, str] = NO_MARKS,
) -> None:
    """Add the picks of an answer, and take its question out of the queue."""
    is_grid = question.pairs[0].grid_id is not None
    if is_grid:
        choices = _choices_of_grid(question, choice, ranking)
    elif choice in CHOICES:
        choices = [choice]
    else:
        raise StoreError(f"An answer to a pair is one of {', '.join(CHOICES)}.")
    if reason is not None and (reason not in REASONS or choice in NOT_BETTER):
        raise StoreError(f"A reason is one of {', '.join(REASONS)}, for what is better.")
    if much_better and (is_grid or choice in NOT_BETTER):
        raise StoreError("Only the better picture of a pair can be much better.")
    if marks:
        _require_marks(marks, question, choice)
    for number, (pair, its) in enumerate(zip(question.pairs, choices, strict=True)):
        why = reason if its in ("left", "right") else None
        pick_id = _nth(answer_id, number)
        where = _marks_of_pair(marks, pair) if its in ("left", "right") else {}
        insert_pick(connection, pick_id, pair.id, its, much_better, why, judge, where)
    connection.execute(
        sa.update(pairs)
        .where(is_of_question([question.id]), pairs.c.stale_at_s.is_(None))
        .values(stale_at_s=time.time())
    )


def withdraw_answer(connection: sa.Connection, undo_id: str, question: Question) -> None:
    """Add picks without a choice to a question."""
    for number, pair in enumerate(question.pairs):
        insert_pick(connection, _nth(undo_id, number), pair.id, None)


def _choices_of_grid(
    question: Question, choice: Choice | Literal["ranked"], ranking: Sequence[str]
) -> list[Choice]:
    """The choice for each pair of a grid."""
    if choice != "ranked":
        if choice not in NOT_BETTER or ranking:
            raise StoreError("A grid is ranked, skipped, all as good, or all bad.")
        return [choice] * len(question.pairs)
    rank = {image_id: number for number, image_id in enumerate(ranking)}
    is_ranking = 0 < len(rank) == len(ranking)
    if not is_ranking or not rank.keys() <= {image.id for image in question.images}:
        raise StoreError("A ranking names pictures of its grid, each of them once.")
    choices: list[Choice] = []
    for pair in question.pairs:
        left, right = (rank.get(image.id, len(rank)) for image in (pair.left, pair.right))
        choices.append("skip" if left == right else "left" if left < right else "right")
    return choices


def _require_marks(marks: Mapping[str, str], question: Question, choice: str) -> None:
    if choice in NOT_BETTER or not marks.keys() <= {image.id for image in question.images}:
        raise StoreError("Marks go on the pictures of a question of which one is better.")
    try:
        for one in marks.values():
            shapes.require(MARKED, one)
    except shapes.Unreadable:
        raise StoreError(
            f"Marks are a map of {MARKS_ACROSS} by {MARKS_ACROSS} places in hexadecimal, at least "
            "one of them marked."
        ) from None


def _marks_of_pair(marks: Mapping[str, str], pair: Pair) -> dict[str, str]:
    sides = (("left", pair.left.id), ("right", pair.right.id))
    return {side: marks[image_id] for side, image_id in sides if image_id in marks}


def insert_pick(
    connection: sa.Connection,
    pick_id: str,
    pair_id: str,
    choice: Choice | None,
    much_better: bool = False,
    reason: Reason | None = None,
    judge: str | None = None,
    marks: Mapping[str, str] = NO_MARKS,
) -> None:
    """Add a pick, which supersedes the last one of its pair."""
    last = sa.select(picks.c.id).where(picks.c.pair_id == pair_id, is_last_pick)
    pick = Pick(
        id=pick_id,
        pair_id=pair_id,
        choice=choice,
        created_at_s=time.time(),
        supersedes=connection.scalar(last),
        much_better=much_better,
        reason=reason,
        judge=judge,
        marks=dict(marks),
    )
    connection.execute(sa.insert(picks).values(vars(pick)))


def _is_answered(connection: sa.Connection, question: Question) -> bool:
    ids = [pair.id for pair in question.pairs]
    return bool(connection.scalar(sa.select(sa.exists().where(picks.c.pair_id.in_(ids), holds))))


def _kept(connection: sa.Connection, answer_id: str, question: Question) -> KeptAnswer:
    """An answer that has been added, and the answer that held until then."""
    ids = _pick_ids(answer_id, question)
    rows = connection.execute(sa.select(picks).where(picks.c.id.in_(ids)))
    answer = _answer(question, rows)
    return KeptAnswer(answer, _answer_before(connection, answer_id, question))


def _answer_before(connection: sa.Connection, answer_id: str, question: Question) -> Answer | None:
    """The answer whose picks an answer, or an undo, superseded; None if none held."""
    later = picks.alias()
    rows = connection.execute(
        sa.select(picks)
        .join(later, later.c.supersedes == picks.c.id)
        .where(later.c.id.in_(_pick_ids(answer_id, question)), picks.c.choice.is_not(None))
    ).all()
    return _answer(question, rows) if rows else None


def _answer(question: Question, rows: Iterable[sa.Row[Any]]) -> Answer:
    """The answer that consists of some rows of `picks`."""
    by_pair = {row.pair_id: read(Pick, row, picks) for row in rows}
    return Answer(
        tuple(PickedPair(pair, by_pair[pair.id]) for pair in question.pairs if pair.id in by_pair)
    )


def _read_picked_pair(row: sa.Row[Any]) -> PickedPair:
    return PickedPair(pair=read_pair(row), pick=read(Pick, row, picks))


def _nth(answer_id: str, number: int) -> str:
    """The id of the pick of a question's `number`-th pair: the first pick has the answer's id."""
    return f"{answer_id}-{number}" if number else answer_id


def _pick_ids(answer_id: str, question: Question) -> list[str]:
    return [_nth(answer_id, number) for number in range(len(question.pairs))]
