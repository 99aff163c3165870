"""What the next round of a session could learn from, and what of it is held out."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from studio.settings import FEWEST_LONE, FEWEST_PICKS
from studio.store.answers import learnable_pick_ids, read_picked_pairs
from studio.store.lone_pictures import LonePictures, read_lone_pictures
from studio.store.rows import PickedPair, Round, Session
from studio.store.schema import pairs, picks, question_id


@dataclass(frozen=True)
class Material:
    """What the next round could learn from.

    usable: picks of left or right; train, held_out: the ids of those that it uses, by their use.
    """

    usable: list[PickedPair]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    lone: LonePictures

    @property
    def favourites_are_enough(self) -> bool:
        """Whether a round can learn from the favourites alone."""
        return len(self.lone.favourites) >= FEWEST_LONE


def read_material(connection: sa.Connection, session: Session, earlier: list[Round]) -> Material:
    learnable = set(learnable_pick_ids(connection, session.id))
    picked = read_picked_pairs(connection, session.id)
    usable = [one for one in picked if one.pick.id in learnable]
    fraction = session.settings.training.held_out_fraction
    train, held_out = _split(connection, session.id, usable, earlier, fraction)
    ever_held_out = {*held_out, *(id_ for round_ in earlier for id_ in round_.held_out_pick_ids)}
    lone = read_lone_pictures(connection, session.id, picked, usable, ever_held_out)
    return Material(usable, train, held_out, lone)


def too_few(material: Material) -> str:
    """Why no round can begin, and what it lacks."""
    return (
        f"A round needs at least {FEWEST_PICKS} picks of left or right; "
        f"there are {len(material.usable)} so far. "
        f"Or it needs {FEWEST_LONE} favourites; there are {len(material.lone.favourites)}."
    )


def _split(
    connection: sa.Connection,
    session_id: str,
    usable: list[PickedPair],
    earlier: list[Round],
    fraction: float,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the picks to train on and of those to hold out, in the order of picking.

    A grid is on one side as a whole. Of a grid that is held out only one pick is used: its pairs
    share their pictures, and would count the same opinion several times.
    """

    def questions_of(pick_ids: set[str]) -> set[str]:
        found = connection.execute(
            sa.select(picks.c.id, question_id.label("question_id"))
            .join(pairs, picks.c.pair_id == pairs.c.id)
            .where(pairs.c.session_id == session_id)
        )
        return {row.question_id for row in found if row.id in pick_ids}

    trained_before = questions_of({pick for round_ in earlier for pick in round_.train_pick_ids})
    held_before = questions_of({pick for round_ in earlier for pick in round_.held_out_pick_ids})
    favourites = {id_ for round_ in earlier for id_ in round_.favourite_ids}
    trained_before |= {
        one.pair.question_id
        for one in usable
        if not favourites.isdisjoint(image.id for image in one.images)
    }
    questions: dict[str, list[str]] = {}
    for one in usable:
        questions.setdefault(one.pair.question_id, []).append(one.pick.id)
    train: list[str] = []
    held_out: list[str] = []
    for number, (question, pick_ids) in enumerate(questions.items(), start=1):
        due = len(held_out) + 1 <= fraction * number + 1e-9  # one in five, not one in six
        if question in held_before or (question not in trained_before and due):
            held_out.append(pick_ids[0])
        else:
            train += pick_ids
    return tuple(train), tuple(held_out)
