"""Pictures that a round learns from by themselves: favourites, and those of pairs both bad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from studio.settings import FEWEST_LONE
from studio.store.database import read, read_all
from studio.store.rows import Image, PickedPair
from studio.store.schema import images, pairs, picks, question_id


@dataclass(frozen=True)
class LonePictures:
    """Pictures that a round learns from by themselves.

    favourites: the good ones. both_bad: picks that say so of a pair.
    """

    favourites: tuple[Image, ...] = ()
    both_bad: tuple[PickedPair, ...] = ()

    @property
    def bad(self) -> tuple[Image, ...]:
        """The pictures of `both_bad`, each once, but not the favourites: a star is about one
        picture, and both_bad about two."""
        bad = {image.id: image for one in self.both_bad for image in one.images}
        good = {image.id for image in self.favourites}
        return tuple(image for id_, image in bad.items() if id_ not in good)

    @property
    def are_enough(self) -> bool:
        return min(len(self.favourites), len(self.bad)) >= FEWEST_LONE


def read_lone_pictures(
    connection: sa.Connection,
    session_id: str,
    picked: Sequence[PickedPair],
    usable: Sequence[PickedPair],
    held_out_pick_ids: Iterable[str],
) -> LonePictures:
    """Those of a session that may share a round with the `usable` picks of left or right.

    picked: the picks that hold. Without usable ones the last pick of both_bad decides. Pairs that
    were asked again are left out, and so is every picture of a question that was ever held out.
    """
    held_out = _pictures_of(connection, session_id, held_out_pick_ids)
    favourites = [one for one in _favourites(connection, session_id) if one.id not in held_out]
    both_bad = [
        one
        for one in picked
        if one.pick.choice == "both_bad"
        and one.pair.repeat_of is None
        and held_out.isdisjoint(image.id for image in one.images)
    ]
    decides = [*favourites, *(one.pair.left for one in (*both_bad, *usable))][-1:]

    def may_take_part(image: Image) -> bool:
        return all(
            image.base_hash == one.base_hash and image.sampling.may_share_a_round_with(one.sampling)
            for one in decides
        )

    return LonePictures(
        favourites=tuple(filter(may_take_part, favourites)),
        both_bad=tuple(one for one in both_bad if may_take_part(one.pair.left)),
    )


def _favourites(connection: sa.Connection, session_id: str) -> list[Image]:
    """In the order of drawing."""
    query = sa.select(images).where(
        images.c.session_id == session_id, images.c.purpose == "pair", images.c.favourite
    )
    rows = connection.execute(query.order_by(images.c.seq))
    return read_all(connection, rows, lambda row: read(Image, row, images))


def _pictures_of(connection: sa.Connection, session_id: str, pick_ids: Iterable[str]) -> set[str]:
    """The ids of all pictures of the questions that these picks answer."""
    wanted = set(pick_ids)
    answers = connection.execute(
        sa.select(picks.c.id, question_id.label("question_id"))
        .join(pairs, picks.c.pair_id == pairs.c.id)
        .where(pairs.c.session_id == session_id)
    )
    questions = {row.question_id for row in answers if row.id in wanted}
    shown = connection.execute(
        sa.select(
            pairs.c.left_image_id, pairs.c.right_image_id, question_id.label("question_id")
        ).where(pairs.c.session_id == session_id)
    )
    return {
        id_
        for row in shown
        if row.question_id in questions
        for id_ in (row.left_image_id, row.right_image_id)
    }
