"""Pictures are deleted, brought back, and erased: no other files are ever removed.

Deleting marks a row and touches no file, so it can be undone for as long as the artist likes, and
a pick of the picture is still learned from. Erasing removes the files of deleted pictures that
nothing else uses. The rows say so first: after a crash `set_orphans_aside` removes what is left.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from studio.files import remove, sha256
from studio.store.database import Database, read, read_all
from studio.store.errors import StoreError
from studio.store.paths import Home
from studio.store.rows import OPEN_JOB_STATES, OPEN_ROUND_STATES, Image, Job
from studio.store.schema import exam_pairs, images, jobs, pairs, picks, rounds
from studio.store.sessions import read_session

AT_ONCE = 500  # ids in one statement


@dataclass(frozen=True)
class DeletedPictures:
    """The deleted pictures of a session: those that can be erased, and why others cannot.

    used: how many of the others there are, by what uses them.
    """

    unused: tuple[Image, ...]
    used: dict[str, int]

    @property
    def total(self) -> int:
        return len(self.unused) + sum(self.used.values())


class Deleting(Database):
    """Deletes pictures, brings them back, and erases them."""

    def delete_images(self, session_id: str, image_ids: Sequence[str]) -> list[str]:
        """Take pictures out of the gallery; returns the ids of those that were in it."""
        return self._mark(session_id, image_ids, images.c.deleted_at_s.is_(None), time.time())

    def restore_images(self, session_id: str, image_ids: Sequence[str]) -> list[str]:
        """Bring deleted pictures back; returns the ids of those that were brought back."""
        is_deleted = images.c.deleted_at_s.is_not(None) & images.c.erased_at_s.is_(None)
        return self._mark(session_id, image_ids, is_deleted, None)

    def deleted_count(self, session_id: str) -> int:
        """The number of pictures that can be brought back."""
        query = sa.select(sa.func.count()).where(*_is_deleted(session_id))
        with self.reading() as connection:
            return connection.scalar(query) or 0

    def deleted_pictures(self, session_id: str) -> DeletedPictures:
        """All deleted pictures that are not erased yet."""
        with self.reading() as connection:
            return _deleted_pictures(connection, session_id)

    def erase_images(self, session_id: str, image_ids: Sequence[str]) -> int:
        """Remove the files of those of these pictures that are deleted and that nothing uses.

        Returns the number of pictures that are gone for good.
        """
        wanted = set(image_ids)
        with self.writing() as connection:
            read_session(connection, session_id)
            unused = _deleted_pictures(connection, session_id).unused
            gone = [image for image in unused if image.id in wanted]
            for ids in _few([image.id for image in gone]):
                connection.execute(
                    sa.update(images).where(images.c.id.in_(ids)).values(erased_at_s=time.time())
                )
        for image in gone:
            erase_files(self, image)
        return len(gone)

    def _mark(
        self,
        session_id: str,
        image_ids: Sequence[str],
        where: sa.ColumnElement[bool],
        deleted_at_s: float | None,
    ) -> list[str]:
        marked: list[str] = []
        with self.writing() as connection:
            read_session(connection, session_id)
            for ids in _few(image_ids):
                found = sa.and_(images.c.session_id == session_id, images.c.id.in_(ids), where)
                marked += connection.scalars(sa.select(images.c.id).where(found))
                connection.execute(sa.update(images).where(found).values(deleted_at_s=deleted_at_s))
            if image_ids and not marked and not _some_exist(connection, session_id, image_ids):
                raise StoreError("This picture does not exist.")
        return marked


def erase_files(home: Home, image: Image) -> None:
    """Remove the files of a picture, as far as the system allows, and its small copy."""
    shown = home.display_path(image)
    with contextlib.suppress(OSError):
        remove(home.thumbnail_path(sha256(shown)))
    for path in (home.image_path(image), shown, home.trajectory_path(image)):
        remove(path)


def _is_deleted(session_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        images.c.session_id == session_id,
        images.c.deleted_at_s.is_not(None),
        images.c.erased_at_s.is_(None),
    )


def _some_exist(connection: sa.Connection, session_id: str, image_ids: Sequence[str]) -> bool:
    some = sa.exists().where(images.c.session_id == session_id, images.c.id.in_(image_ids[:1]))
    return bool(connection.scalar(sa.select(some)))


def _deleted_pictures(connection: sa.Connection, session_id: str) -> DeletedPictures:
    query = sa.select(images, _is_picked, _is_examined).where(*_is_deleted(session_id))
    learned, compared = _being_learned(connection, session_id), _compared(connection, session_id)
    is_drawing = _is_drawing(connection, session_id)
    is_checking = _is_checking(connection, session_id)
    used: Counter[str] = Counter()

    def use_of(row: sa.Row[tuple[object, ...]]) -> str:
        """What uses a picture; "" if nothing does."""
        image_id, purpose = row._mapping[images.c.id], row._mapping[images.c.purpose]
        if row.is_picked or image_id in learned:
            return "a pick"
        if row._mapping[images.c.favourite]:
            return "a star"
        if row.is_examined:
            return "an exam"
        if purpose == "preview":
            return "the strip of rounds"
        if image_id in compared or (is_drawing and purpose != "pair"):
            return "a comparison"
        if is_checking and purpose == "compare":
            return "a round"
        return ""

    unused = []
    for row in connection.execute(query.order_by(images.c.seq)).all():
        if use := use_of(row):
            used[use] += 1
        else:
            unused += read_all(connection, (row,), lambda row: read(Image, row, images))
    return DeletedPictures(tuple(unused), dict(used))


_is_picked = (
    sa.select(picks.c.id)
    .join(pairs, picks.c.pair_id == pairs.c.id)
    # Also a pick that was taken back: a round may be learning from it.
    .where(
        sa.or_(pairs.c.left_image_id == images.c.id, pairs.c.right_image_id == images.c.id),
        picks.c.choice.is_not(None),
    )
    .exists()
    .label("is_picked")
)
_is_examined = (
    sa.exists()
    .where(
        sa.or_(
            exam_pairs.c.base_image_id == images.c.id, exam_pairs.c.tuned_image_id == images.c.id
        )
    )
    .label("is_examined")
)


def _being_learned(connection: sa.Connection, session_id: str) -> set[str]:
    """The favourites of open rounds: the star may be gone since the round began."""
    query = sa.select(rounds.c.favourite_ids).where(
        rounds.c.session_id == session_id, rounds.c.state.in_(OPEN_ROUND_STATES)
    )
    return {id_ for ids in connection.scalars(query) if isinstance(ids, tuple) for id_ in ids}


def _compared(connection: sa.Connection, session_id: str) -> set[str]:
    """The pictures that Compare can show: of all grids, and of its newest other jobs."""
    query = (
        sa.select(jobs)
        .where(jobs.c.session_id == session_id, jobs.c.kind.in_(("compare", "grid", "best_of")))
        .order_by(jobs.c.seq.desc())
    )
    found = connection.execute(query)
    known = read_all(connection, found, lambda row: read(Job, row, jobs))
    grids = [job for job in known if job.kind == "grid"]
    best = [job for job in known if job.kind == "best_of" and job.result.get("image_ids")]
    shown = {id_ for job in grids + best[:1] for id_ in job.result.get("image_ids", ())}
    newest = next((job for job in known if job.result.get("cells")), None)
    for cell in newest.result["cells"] if newest else ():
        shown |= {cell[side] for side in ("base", "tuned", "other") if side in cell}
    return shown


def _is_drawing(connection: sa.Connection, session_id: str) -> bool:
    """Whether a job may find a picture just now that its result does not name yet."""
    is_open = sa.exists().where(
        jobs.c.session_id == session_id,
        jobs.c.kind.in_(("compare", "grid", "best_of", "exam")),
        jobs.c.state.in_(OPEN_JOB_STATES),
    )
    return bool(connection.scalar(sa.select(is_open)))


def _is_checking(connection: sa.Connection, session_id: str) -> bool:
    """Whether a round has learned, and is judged by pictures that it may find just now."""
    is_open = sa.exists().where(
        rounds.c.session_id == session_id,
        rounds.c.adapter_id.is_not(None),
        rounds.c.state.in_(OPEN_ROUND_STATES),
    )
    return bool(connection.scalar(sa.select(is_open)))


def _few(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)]
