"""What the artist is asked: pairs of images, and grids, which are all pairs of their images."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from studio.settings import MAX_NOTE_CHARACTERS
from studio.store.database import Database, read, read_all, remember_damage
from studio.store.errors import RowDamaged, StoreError
from studio.store.rows import OWN_HASH, Image, Pair, Question
from studio.store.schema import has_companion, images, pairs, picks, question_id
from studio.store.sessions import read_session
from studio.store.waiting import is_clicked, is_last_pick, is_of_question, waiting_ids

ASK_AGAIN_EVERY = 10  # one of so many answered questions is asked again

left_image, right_image = images.alias("left_image"), images.alias("right_image")
pairs_with_images = pairs.join(left_image, left_image.c.id == pairs.c.left_image_id).join(
    right_image, right_image.c.id == pairs.c.right_image_id
)


def select_pairs() -> sa.Select[Any]:
    """Pairs with their images; `read_pair` reads a row of it."""
    return sa.select(pairs, left_image, right_image).select_from(pairs_with_images)


def read_pair(row: sa.Row[Any]) -> Pair:
    """A pair from a row of `select_pairs`."""
    left, right = read(Image, row, left_image), read(Image, row, right_image)
    return read(Pair, row, pairs, left=left, right=right)


def get_pair(connection: sa.Connection, pair_id: str) -> Pair:
    """A pair, or a StoreError."""
    row = connection.execute(select_pairs().where(pairs.c.id == pair_id)).first()
    if row is None:
        raise StoreError("This pair does not exist.")
    return read_pair(row)


def get_question(connection: sa.Connection, id_: str) -> Question:
    """A question, or a StoreError."""
    query = select_pairs().where(is_of_question([id_])).order_by(pairs.c.seq)
    of_it = tuple(read_pair(row) for row in connection.execute(query))
    if not of_it:
        raise StoreError("This pair does not exist.")
    return Question(of_it)


def question_of(
    session_id: str, prompt: str, pictures: Sequence[Image], adapter_id: str | None
) -> Question:
    """A new question about two images, or a grid of more; nothing is stored yet."""
    sides = list(combinations(pictures, 2))
    ids = [uuid.uuid4().hex for _ in sides]
    return Question(
        tuple(
            Pair(
                id=id_,
                session_id=session_id,
                prompt=prompt,
                left=left,
                right=right,
                adapter_id=adapter_id,
                created_at_s=time.time(),
                grid_id=ids[0] if len(ids) > 1 else None,
            )
            for id_, (left, right) in zip(ids, sides, strict=True)
        )
    )


class Questions(Database):
    """Pairs and grids: added, waiting, and asked again."""

    def add_pair(
        self, session_id: str, prompt: str, left: Image, right: Image, adapter_id: str | None
    ) -> Pair:
        """Add a pair and its two images, whose files are already on the disk."""
        return self.add_question(session_id, prompt, [left, right], adapter_id).pairs[0]

    def add_question(
        self, session_id: str, prompt: str, pictures: Sequence[Image], adapter_id: str | None
    ) -> Question:
        """Add two images as a pair, or more as a grid; their files are already on the disk."""
        question = question_of(session_id, prompt, pictures, adapter_id)
        with self.writing() as connection:
            read_session(connection, session_id)
            connection.execute(sa.insert(images), [vars(picture) for picture in pictures])
            for pair in question.pairs:
                insert_pair(connection, pair)
        return question

    def ask_again(self, session_id: str) -> Pair | None:
        """Put an earlier pair into the queue once more, its sides swapped, to test consistency.

        Of every `ASK_AGAIN_EVERY` answered questions, the pair in the middle is asked again: it is
        no longer fresh in memory. Returns None when no question is due.
        """
        with self.reading() as connection:  # the usual answer is None, and needs no lock
            if _due_again(connection, session_id) is None:
                return None
        with self.writing() as connection:
            pair_id = _due_again(connection, session_id)
            if pair_id is None:
                return None
            before = get_pair(connection, pair_id)
            again = replace(
                before,
                id=uuid.uuid4().hex,
                left=before.right,
                right=before.left,
                created_at_s=time.time(),
                repeat_of=before.id,
                note="",
                grid_id=None,
            )
            insert_pair(connection, again)
        return again

    def pair(self, pair_id: str) -> Pair:
        """One pair."""
        with self.reading() as connection:
            return get_pair(connection, pair_id)

    def shown_beside(self, session_id: str, image_ids: Sequence[str]) -> dict[str, list[Image]]:
        """The other pictures of the questions that each of a session's images is in."""
        beside: dict[str, dict[str, Image]] = {id_: {} for id_ in image_ids}
        query = select_pairs().where(pairs.c.session_id == session_id).order_by(pairs.c.seq)
        with self.reading() as connection:
            for pair in read_all(connection, connection.execute(query), read_pair):
                for image, other in ((pair.left, pair.right), (pair.right, pair.left)):
                    if image.id in beside:
                        beside[image.id][other.id] = other
        return {id_: list(others.values()) for id_, others in beside.items()}

    def waiting(self, session_id: str, limit: int = 8) -> list[Question]:
        """The questions that wait for an answer: those withdrawn last, then by age."""
        with self.reading() as connection:
            ids = connection.scalars(waiting_ids(session_id)).all()
            return _whole_questions(connection, ids, limit)

    def waiting_pairs(self, session_id: str, limit: int = 8) -> list[Pair]:
        """The pairs of the waiting questions, in the same order."""
        return [pair for question in self.waiting(session_id, limit) for pair in question.pairs]

    def waiting_count(self, session_id: str) -> int:
        """The number of questions that wait for an answer."""
        with self.reading() as connection:
            return _count(connection, waiting_ids(session_id))

    def drawn_count(self, session_id: str) -> int:
        """The number of questions ever drawn for a session, without those asked again and those
        beside the artist's own art."""
        beside_own = (
            sa.select(question_id)
            .select_from(pairs)
            .join(
                images,
                sa.or_(pairs.c.left_image_id == images.c.id, pairs.c.right_image_id == images.c.id),
            )
            .where(images.c.session_id == session_id, has_companion(images, OWN_HASH))
        )
        drawn = (
            sa.select(question_id)
            .distinct()
            .where(
                pairs.c.session_id == session_id,
                pairs.c.repeat_of.is_(None),
                question_id.not_in(beside_own),
            )
        )
        with self.reading() as connection:
            return _count(connection, drawn)

    def set_note(self, pair_id: str, note: str) -> None:
        """Replace the artist's note on a pair."""
        note = note.strip()
        if len(note) > MAX_NOTE_CHARACTERS:
            raise StoreError(f"A note has at most {MAX_NOTE_CHARACTERS} characters.")
        with self.writing() as connection:
            get_pair(connection, pair_id)
            connection.execute(sa.update(pairs).where(pairs.c.id == pair_id).values(note=note))


def _due_again(connection: sa.Connection, session_id: str) -> str | None:
    """The id of the pair to ask again, or None."""
    asked = connection.scalar(
        sa.select(sa.func.count()).where(
            pairs.c.session_id == session_id, pairs.c.repeat_of.is_not(None)
        )
    )
    decided = connection.execute(
        sa.select(pairs.c.id, question_id.label("question_id"))
        .join(picks, picks.c.pair_id == pairs.c.id)
        .where(
            pairs.c.session_id == session_id,
            pairs.c.repeat_of.is_(None),
            is_last_pick,
            picks.c.choice.in_(("left", "right")),
            is_clicked,
        )
        .order_by(picks.c.seq)
    )
    # One pair stands for its grid: an answer is one opinion.
    first: dict[str, str] = {}
    for row in decided:
        first.setdefault(row.question_id, row.id)
    if len(first) < (asked + 1) * ASK_AGAIN_EVERY:
        return None
    return list(first.values())[asked * ASK_AGAIN_EVERY + ASK_AGAIN_EVERY // 2]


def _whole_questions(connection: sa.Connection, ids: Sequence[str], most: int) -> list[Question]:
    """The first `most` of `ids` of which every pair can be read."""
    torn: set[str] = set()
    while True:
        wanted = [id_ for id_ in ids if id_ not in torn][:most]
        of_question: dict[str, list[Pair]] = {id_: [] for id_ in wanted}
        query = select_pairs().where(is_of_question(wanted)).order_by(pairs.c.seq)
        for row in connection.execute(query):
            id_ = row._mapping[pairs.c.grid_id] or row._mapping[pairs.c.id]
            try:
                of_question[id_].append(read_pair(row))
            except RowDamaged as error:
                remember_damage(connection, error)
                torn.add(id_)
        torn |= {id_ for id_, found in of_question.items() if not found}  # their images are gone
        if torn.isdisjoint(wanted):
            return [Question(tuple(found)) for found in of_question.values()]


def insert_pair(connection: sa.Connection, pair: Pair) -> None:
    """Add a pair whose images are in the store."""
    values = {name: value for name, value in vars(pair).items() if name not in ("left", "right")}
    sides = {"left_image_id": pair.left.id, "right_image_id": pair.right.id}
    connection.execute(sa.insert(pairs).values(values | sides))


def _count(connection: sa.Connection, query: sa.Select[Any]) -> int:
    found = query.order_by(None).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0
