"""Picks by judges: how many hold, and taking back all picks of one."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from studio.store.answers import insert_pick
from studio.store.database import Database
from studio.store.schema import pairs, picks, question_id
from studio.store.waiting import holds, is_clicked


class Judged(Database):
    """What was picked by functions instead of the artist; not own art, see `own_pictures`."""

    def judged_counts(self, session_id: str) -> dict[str, int]:
        """The number of questions whose answer by a judge holds, by the name of the judge."""
        count = sa.func.count(question_id.distinct())
        query = _of_judges(session_id, picks.c.judge, count).group_by(picks.c.judge)
        with self.reading() as connection:
            return dict(map(tuple, connection.execute(query)))

    def withdraw_judge(self, session_id: str, judge: str) -> int:
        """Take back all picks by a judge that hold; returns how many questions they answered.

        They are not asked again: the queue would be full of them. Picks that the artist has changed
        are the artist's, and stay.
        """
        query = _of_judges(session_id, picks.c.pair_id, question_id).where(picks.c.judge == judge)
        with self.writing() as connection:
            found = connection.execute(query.order_by(picks.c.seq)).all()
            for pair_id, _ in found:
                insert_pick(connection, uuid.uuid4().hex, pair_id, None)
        return len({question for _, question in found})


def _of_judges(session_id: str, *columns: sa.ColumnElement) -> sa.Select:
    return (
        sa.select(*columns)
        .select_from(picks.join(pairs, picks.c.pair_id == pairs.c.id))
        .where(pairs.c.session_id == session_id, picks.c.judge.is_not(None), holds, is_clicked)
    )
