"""All pictures of a session, page by page, the newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from studio.store.database import Database, read, read_all
from studio.store.exams import is_newest_answer
from studio.store.images import ANY
from studio.store.rows import MIX, Image, Verdict
from studio.store.schema import exam_answers, exam_pairs, exams, images, pairs, picks
from studio.store.waiting import holds

PAGE = 60  # pictures


@dataclass(frozen=True)
class GalleryFilter:
    """Which pictures are shown; those that are set all apply.

    adapter_id: of the round that drew them; None: of the base model alone.
    verdict: of your picks. A picture is "chosen" if it was better than another and worse than none,
    "passed_over" if it was worse than another or both were bad, otherwise "undecided".
    deleted: those that were deleted and can be brought back, instead of the others.
    """

    prompt: str | None = None
    adapter_id: str | None = ANY
    favourites: bool = False
    verdict: Verdict | None = None
    deleted: bool = False


@dataclass(frozen=True)
class GalleryIndex:
    """total: the number of pictures. starts: the `seq` of the first picture of each page."""

    total: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class GalleryPicture:
    """A picture, and what was picked of it; None if it was never asked about."""

    image: Image
    verdict: Verdict | None


class Gallery(Database):
    """Reading a page costs the same however many pictures there are.

    `gallery_index` is read once for a filter. It counts the pictures, and names where each page
    begins; so any page is read without those before it, and what is drawn meanwhile moves none.
    """

    def gallery_index(self, session_id: str, wanted: GalleryFilter) -> GalleryIndex:
        """Where the pages begin."""
        newest_first = images.c.seq.desc()
        numbered = (
            sa.select(
                images.c.seq,
                sa.func.row_number().over(order_by=newest_first).label("number"),
                sa.func.count().over().label("total"),
            )
            .where(*_matches(session_id, wanted))
            .subquery()
        )
        starts = (
            sa.select(numbered.c.seq, numbered.c.total)
            .where((numbered.c.number - 1) % PAGE == 0)
            .order_by(numbered.c.number)
        )
        with self.reading() as connection:
            found = connection.execute(starts).all()
        return GalleryIndex(found[0].total if found else 0, tuple(row.seq for row in found))

    def gallery_page(
        self, session_id: str, wanted: GalleryFilter, start: int, before: int = 0
    ) -> list[GalleryPicture]:
        """The page that begins at the `seq` `start`; it ends where the next one begins.

        before: the `seq` at which the next page begins; 0 if there is none.
        """
        query = (
            sa.select(images, _won.label("won"), _lost.label("lost"))
            .where(*_matches(session_id, wanted), images.c.seq <= start, images.c.seq > before)
            .order_by(images.c.seq.desc())
            .limit(PAGE)
        )
        with self.reading() as connection:
            return read_all(connection, connection.execute(query), _read_gallery_picture)

    def gallery_prompts(self, session_id: str, limit: int = 200) -> list[str]:
        """The prompts of the session's pictures in alphabetical order, at most `limit`.

        Each is found by a step in the index, however many pictures it has.
        """
        first = sa.select(sa.func.min(images.c.prompt).label("prompt")).where(
            images.c.session_id == session_id
        )
        found = first.cte("found", recursive=True)
        following = first.where(images.c.prompt > found.c.prompt).scalar_subquery()
        found = found.union_all(sa.select(following).where(found.c.prompt.is_not(None)))
        query = sa.select(found.c.prompt).where(found.c.prompt.is_not(None)).limit(limit)
        with self.reading() as connection:
            return list(connection.scalars(query))

    def newest_image_seq(self, session_id: str) -> int:
        """A number that grows with every picture of the session; 0 if there is none."""
        query = sa.select(sa.func.max(images.c.seq)).where(images.c.session_id == session_id)
        with self.reading() as connection:
            return connection.scalar(query) or 0


def _picked_of(picture: sa.ColumnElement[Any], as_left: list[str], as_right: list[str]) -> Any:
    """Whether a pick that holds says one of these of the picture, by the side that it was on."""

    def on(side: sa.ColumnElement[Any], said: list[str]) -> Any:
        picked = sa.select(picks.c.id).join(pairs, picks.c.pair_id == pairs.c.id)
        return picked.where(side == picture, holds, picks.c.choice.in_(said)).exists()

    return sa.or_(on(pairs.c.left_image_id, as_left), on(pairs.c.right_image_id, as_right))


_won = _picked_of(images.c.id, ["left"], ["right"])
_lost = _picked_of(images.c.id, ["right", "both_bad"], ["left", "both_bad"])
_VERDICTS = {
    "chosen": sa.and_(_won, ~_lost),
    "passed_over": _lost,
    "undecided": ~sa.or_(_won, _lost),
}


def _matches(session_id: str, wanted: GalleryFilter) -> list[sa.ColumnElement[bool]]:
    """The conditions of a filter."""
    found = [images.c.session_id == session_id, _is_no_secret(session_id)]
    if wanted.deleted:
        found += [images.c.deleted_at_s.is_not(None), images.c.erased_at_s.is_(None)]
    else:
        found.append(images.c.deleted_at_s.is_(None))
    if wanted.prompt is not None:
        found.append(images.c.prompt == wanted.prompt)
    if wanted.adapter_id is not ANY:
        found.append(images.c.adapter_id.is_not_distinct_from(wanted.adapter_id))
        if wanted.adapter_id is None:
            # as a text: a damaged row must not end the query
            found.append(sa.func.instr(images.c.companions, f'"{MIX}":') == 0)
    if wanted.favourites:
        found.append(images.c.favourite)
    if wanted.verdict is not None:
        found += [images.c.purpose == "pair", _VERDICTS[wanted.verdict]]
    return found


def _is_no_secret(session_id: str) -> sa.ColumnElement[bool]:
    """Not a picture of an exam that is open: the gallery says who drew what.

    A picture that belongs to no pair yet is one: its exam is being drawn.
    """
    asked = exam_pairs.alias("asked")
    is_answered = (
        sa.exists()
        .where(exam_answers.c.exam_pair_id == asked.c.id, is_newest_answer)
        .where(exam_answers.c.choice.is_not(None))
    )
    is_open = sa.and_(
        exams.c.left_at_s.is_(None),
        sa.select(asked.c.id).where(asked.c.exam_id == exams.c.id, ~is_answered).exists(),
    )

    def sides(*where: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
        return sa.union_all(
            *(
                sa.select(side)
                .join(exams, exams.c.id == exam_pairs.c.exam_id)
                .where(exams.c.session_id == session_id, side.is_not(None), *where)
                for side in (exam_pairs.c.base_image_id, exam_pairs.c.tuned_image_id)
            )
        )

    is_asked = sa.and_(images.c.id.in_(sides()), images.c.id.not_in(sides(is_open)))
    return sa.or_(images.c.purpose != "exam", is_asked)


def _read_gallery_picture(row: sa.Row[Any]) -> GalleryPicture:
    image = read(Image, row, images)
    if image.purpose != "pair":
        return GalleryPicture(image, None)
    verdict: Verdict = "passed_over" if row.lost else "chosen" if row.won else "undecided"
    return GalleryPicture(image, verdict)
