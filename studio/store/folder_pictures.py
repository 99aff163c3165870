"""Pictures that were read from a folder of the artist's: asked about in pairs, or one by one."""

from __future__ import annotations

import time
import uuid
from typing import Literal

import sqlalchemy as sa

from studio.store.answers import insert_pick
from studio.store.database import Database, read, read_all
from studio.store.errors import StoreError
from studio.store.questions import insert_pair, left_image, pairs_with_images, right_image
from studio.store.rows import SOURCE_HASH, Image, Pair
from studio.store.schema import has_companion, images, pairs, picks
from studio.store.sessions import read_session
from studio.store.waiting import holds, is_last_pick

Verdict = Literal["good", "bad"]


def _is_of_folder(table: sa.FromClause) -> sa.ColumnElement[bool]:
    return has_companion(table, SOURCE_HASH)


class FolderPictures(Database):
    """A picture is good if it is a favourite. It is bad if it is in a pair with itself of which
    both are bad: so training knows both as sides alone, and nothing else is to be stored."""

    def folder_pictures(self, session_id: str, *, deleted: bool = False) -> list[Image]:
        """The pictures of a session that were read from folders, in the order of reading.

        deleted: those too that were deleted, for good perhaps.
        """
        query = sa.select(images).where(images.c.session_id == session_id, _is_of_folder(images))
        if not deleted:
            query = query.where(images.c.deleted_at_s.is_(None))
        with self.reading() as connection:
            rows = connection.execute(query.order_by(images.c.seq))
            return read_all(connection, rows, lambda row: read(Image, row, images))

    def folder_count(self, session_id: str) -> int:
        """How many there are, without the deleted ones."""
        query = sa.select(sa.func.count()).where(
            images.c.session_id == session_id,
            _is_of_folder(images),
            images.c.deleted_at_s.is_(None),
        )
        with self.reading() as connection:
            return connection.scalar(query) or 0

    def ask_about(self, left: Image, right: Image) -> Pair:
        """Add a pair of two pictures of a folder, which share their prompt."""
        if left.id == right.id or left.prompt != right.prompt:
            raise StoreError("A pair is of two pictures of one prompt.")
        pair = _pair_of(left, right)
        with self.writing() as connection:
            read_session(connection, pair.session_id)
            insert_pair(connection, pair)
        return pair

    def folder_pairs(self, session_id: str) -> list[tuple[str, str, str | None]]:
        """(left, right, choice) of the pairs of folder pictures that are answered, or, with None,
        wait for an answer. Pairs that are asked again are left out."""
        query = (
            sa.select(pairs.c.left_image_id, pairs.c.right_image_id, picks.c.choice)
            .select_from(
                pairs_with_images.outerjoin(picks, sa.and_(picks.c.pair_id == pairs.c.id, holds))
            )
            .where(
                pairs.c.session_id == session_id,
                pairs.c.repeat_of.is_(None),
                pairs.c.left_image_id != pairs.c.right_image_id,
                _is_of_folder(left_image),
                _is_of_folder(right_image),
                sa.or_(picks.c.choice.is_not(None), pairs.c.stale_at_s.is_(None)),
            )
            .order_by(pairs.c.seq)
        )
        with self.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def verdicts(self, session_id: str) -> dict[str, Verdict]:
        """What was said of pictures of folders one by one, by their ids."""
        favourites = sa.select(images.c.id).where(
            images.c.session_id == session_id, images.c.favourite, _is_of_folder(images)
        )
        alone = (
            sa.select(pairs.c.left_image_id)
            .join(picks, picks.c.pair_id == pairs.c.id)
            .where(
                pairs.c.session_id == session_id,
                pairs.c.left_image_id == pairs.c.right_image_id,
                holds,
            )
        )
        with self.reading() as connection:
            good = connection.scalars(favourites).all()
            bad = connection.scalars(alone).all()
        return dict.fromkeys(bad, "bad") | dict.fromkeys(good, "good")

    def say_of(self, answer_id: str, image_id: str, verdict: Verdict | None) -> None:
        """Say of a picture that it is good or bad; None takes back what was said.

        A second call with the same `answer_id` changes nothing: a browser repeats a request whose
        response was lost.
        """
        if verdict not in ("good", "bad", None):
            raise StoreError("A picture is good or bad.")
        with self.writing() as connection:
            row = connection.execute(sa.select(images).where(images.c.id == image_id)).first()
            if row is None or row._mapping[images.c.erased_at_s] is not None:
                raise StoreError("This picture does not exist.")
            image = read(Image, row, images)
            if connection.scalar(sa.select(picks.c.id).where(picks.c.id == answer_id)):
                return
            connection.execute(
                sa.update(images).where(images.c.id == image_id).values(favourite=verdict == "good")
            )
            alone = sa.select(pairs.c.id).where(
                pairs.c.left_image_id == image_id, pairs.c.right_image_id == image_id
            )
            pair_id = connection.scalar(alone)
            if pair_id is None and verdict == "bad":
                pair = _pair_of(image, image)
                insert_pair(connection, pair)
                pair_id = pair.id
                connection.execute(  # it never waits
                    sa.update(pairs).where(pairs.c.id == pair_id).values(stale_at_s=time.time())
                )
            if pair_id is not None:
                last = sa.select(picks.c.choice).where(picks.c.pair_id == pair_id, is_last_pick)
                choice = "both_bad" if verdict == "bad" else None
                if connection.scalar(last) != choice:
                    insert_pick(connection, answer_id, pair_id, choice)


def _pair_of(left: Image, right: Image) -> Pair:
    return Pair(
        id=uuid.uuid4().hex,
        session_id=left.session_id,
        prompt=left.prompt,
        left=left,
        right=right,
        adapter_id=None,
        created_at_s=time.time(),
    )
