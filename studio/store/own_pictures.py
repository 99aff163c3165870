"""The artist's own finished art: each is chosen over what the model draws of its caption."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from studio.settings import SamplingSettings
from studio.store.answers import insert_answer, withdraw_answer
from studio.store.database import Database, read, read_all
from studio.store.errors import StoreError
from studio.store.questions import get_question, insert_pair, question_of
from studio.store.rows import OWN_ART, OWN_HASH, Image, Question
from studio.store.schema import has_companion, images, pairs, picks, question_id
from studio.store.sessions import read_session
from studio.store.waiting import holds, is_clicked

_is_own = has_companion(images, OWN_HASH)
_is_shown = images.c.deleted_at_s.is_(None)
_is_side = sa.or_(pairs.c.left_image_id == images.c.id, pairs.c.right_image_id == images.c.id)
_is_drawn = sa.exists().where(_is_side)  # something was drawn beside it
_is_learned = sa.exists().where(_is_side, picks.c.pair_id == pairs.c.id, holds)


@dataclass(frozen=True)
class OwnPicture:
    """A picture of the artist's own, and what became of it.

    drawings: the pictures drawn beside it, none until the model has drawn them. is_chosen: whether
    the answer about them holds, so that rounds learn from it.
    """

    image: Image
    drawings: tuple[Image, ...]
    is_chosen: bool


@dataclass(frozen=True)
class OwnCounts:
    """pictures: without deleted ones; of these drawn: with drawings beside them, and chosen."""

    pictures: int
    drawn: int
    chosen: int


class OwnPictures(Database):
    """A picture and its drawings are a pair, or a grid, whose answer is there from the beginning.

    Everywhere else it is a question and an answer like any other: only the judge of its picks says
    that nobody clicked.
    """

    def own_pictures(self, session_id: str, *, deleted: bool = False) -> list[Image]:
        """Those of a session, in the order of reading. deleted: those too that were deleted."""
        query = sa.select(images).where(images.c.session_id == session_id, _is_own)
        if not deleted:
            query = query.where(_is_shown)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(images.c.seq))
            return read_all(connection, rows, lambda row: read(Image, row, images))

    def own_counts(self, session_id: str) -> OwnCounts:
        """How many there are."""
        query = sa.select(
            sa.func.count(),
            sa.func.total(_is_drawn, type_=sa.Float),
            sa.func.total(_is_learned, type_=sa.Float),
        ).where(images.c.session_id == session_id, _is_own, _is_shown)
        with self.reading() as connection:
            return OwnCounts(*map(int, connection.execute(query).one()))

    def newest_own_pictures(self, session_id: str, limit: int) -> list[OwnPicture]:
        """The newest ones with their drawings, the newest first."""
        query = sa.select(images, _is_learned.label("is_chosen"))
        query = query.where(images.c.session_id == session_id, _is_own, _is_shown)
        query = query.order_by(images.c.seq.desc()).limit(limit)
        with self.reading() as connection:
            found: list[OwnPicture] = []
            for row in connection.execute(query).all():
                for image in read_all(connection, [row], lambda row: read(Image, row, images)):
                    question = _question_about(connection, image.id)
                    shown = question.images if question else ()
                    drawings = tuple(one for one in shown if one.id != image.id)
                    found.append(OwnPicture(image, drawings, bool(row.is_chosen)))
            return found

    def next_own_picture(
        self, session_id: str, base_hash: str, sampling: SamplingSettings
    ) -> Image | None:
        """The first one that nothing is drawn beside yet, of those that this model can draw for."""
        query = sa.select(images).where(
            images.c.session_id == session_id,
            images.c.base_hash == base_hash,
            _is_own,
            _is_shown,
            ~_is_drawn,
        )
        with self.reading() as connection:
            rows = connection.execute(query.order_by(images.c.seq))
            found = read_all(connection, rows, lambda row: read(Image, row, images))
        fitting = (one for one in found if one.sampling.may_share_a_round_with(sampling))
        return next(fitting, None)

    def add_own_question(
        self, own: Image, drawings: Sequence[Image], adapter_id: str | None
    ) -> Question:
        """Add what was drawn beside an own picture, which is chosen over all of it.

        Raises StoreError if there are drawings beside it already, or if it was deleted.
        """
        shown = [own, *drawings]
        random.Random(own.id).shuffle(shown)
        question = question_of(own.session_id, own.prompt, shown, adapter_id)
        with self.writing() as connection:
            read_session(connection, own.session_id)
            waits = sa.select(images.c.id).where(images.c.id == own.id, _is_shown, ~_is_drawn)
            if not own.is_own or connection.scalar(waits) is None:
                raise StoreError("Nothing is to be drawn beside this picture.")
            connection.execute(sa.insert(images), [vars(one) for one in drawings])
            for pair in question.pairs:
                insert_pair(connection, pair)
            _choose(connection, f"own-{question.id}", question, own.id)
        return question

    def own_picks_among(self, pick_ids: Sequence[str]) -> int:
        """How many of these picks choose own art because it is that."""
        query = sa.select(sa.func.count()).where(picks.c.id.in_(pick_ids), ~is_clicked)
        with self.reading() as connection:
            return connection.scalar(query) or 0

    def set_own_chosen(self, answer_id: str, image_id: str, is_chosen: bool) -> None:
        """Take back that an own picture is chosen over its drawings, or choose it again.

        A second call with the same `answer_id` changes nothing.
        """
        with self.writing() as connection:
            question = _question_about(connection, image_id)
            if question is None:
                raise StoreError("Nothing is drawn beside this picture yet.")
            if connection.scalar(sa.select(picks.c.id).where(picks.c.id == answer_id)):
                return
            if is_chosen:
                if any(image.erased_at_s is not None for image in question.images):
                    raise StoreError("A picture of this question was deleted for good.")
                _choose(connection, answer_id, question, image_id)
            else:
                withdraw_answer(connection, answer_id, question)

    def replace_own_picture(self, answer_id: str, image_id: str) -> None:
        """Take an own picture out, because it is there again with another caption."""
        with self.writing() as connection:
            question = _question_about(connection, image_id)
            if question is not None:
                withdraw_answer(connection, answer_id, question)
            connection.execute(
                sa.update(images)
                .where(images.c.id == image_id, _is_shown)
                .values(deleted_at_s=time.time())
            )

    def leave_own_out(self, session_id: str) -> int:
        """Delete those that nothing is drawn beside yet; returns how many. They can be restored."""
        waiting = sa.select(images.c.id).where(
            images.c.session_id == session_id, _is_own, _is_shown, ~_is_drawn
        )
        with self.writing() as connection:
            read_session(connection, session_id)
            ids = connection.scalars(waiting).all()
            gone = sa.update(images).where(images.c.id.in_(waiting))
            connection.execute(gone.values(deleted_at_s=time.time()))
        return len(ids)


def _question_about(connection: sa.Connection, image_id: str) -> Question | None:
    """The question about an own picture and its drawings."""
    either = sa.or_(pairs.c.left_image_id == image_id, pairs.c.right_image_id == image_id)
    query = sa.select(question_id).where(either, pairs.c.repeat_of.is_(None))
    found = connection.scalar(query.order_by(pairs.c.seq).limit(1))
    return None if found is None else get_question(connection, found)


def _choose(connection: sa.Connection, answer_id: str, question: Question, image_id: str) -> None:
    """The own picture is better than all others; between two drawings nothing is said."""
    first = question.pairs[0]
    choice = "left" if first.left.id == image_id else "right"
    if len(question.pairs) > 1:
        insert_answer(connection, answer_id, question, "ranked", ranking=[image_id], judge=OWN_ART)
    else:
        insert_answer(connection, answer_id, question, choice, judge=OWN_ART)
