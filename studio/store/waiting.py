"""The queue: which questions wait for an answer, as functions of a connection."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa

from studio.store.rows import OWN_ART
from studio.store.schema import images, pairs, picks, question_id

_later = picks.alias("later")
# The last pick of a pair's chain; it holds unless its choice is None.
is_last_pick = ~sa.exists().where(_later.c.supersedes == picks.c.id)
holds = sa.and_(is_last_pick, picks.c.choice.is_not(None))
# Not a pick of the artist's own art, which nobody made a choice for.
is_clicked = sa.func.coalesce(picks.c.judge, "") != OWN_ART


def is_of_question(ids: Sequence[str]) -> sa.ColumnElement[bool]:
    """The pairs of these questions, found by their indexes."""
    indexed = sa.or_(pairs.c.id.in_(ids), pairs.c.grid_id.in_(ids))
    return sa.and_(indexed, question_id.in_(ids))


_has_deleted_picture = sa.exists().where(
    images.c.id.in_((pairs.c.left_image_id, pairs.c.right_image_id)),
    images.c.deleted_at_s.is_not(None),
)


def waiting_ids(session_id: str) -> sa.Select[tuple[str]]:
    """The ids of the questions that wait for an answer: those withdrawn last, then by age.

    A question with a deleted picture waits again when the picture is brought back.
    """
    return _unanswered_ids(session_id).having(sa.func.max(_has_deleted_picture) == 0)


def _unanswered_ids(session_id: str) -> sa.Select[tuple[str]]:
    """The ids of the questions that would wait if no picture were deleted, in the same order.

    Its cost grows with the number that waits, and not with the number answered: an answer sets
    `stale_at_s`, and the pairs where it is not set have an index of their own.
    """
    withdrawn = (
        sa.select(sa.func.max(picks.c.seq)).where(picks.c.pair_id == pairs.c.id).scalar_subquery()
    )
    return (
        sa.select(question_id)
        .where(
            pairs.c.session_id == session_id,
            pairs.c.stale_at_s.is_(None),
            ~sa.exists().where(picks.c.pair_id == pairs.c.id, holds),
        )
        .group_by(question_id)
        .order_by(sa.func.max(withdrawn).desc().nulls_last(), sa.func.min(pairs.c.seq))
    )


def discard_waiting(
    connection: sa.Connection,
    session_id: str,
    *,
    keep: int = 0,
    unless_prompt_in: Sequence[str] = (),
) -> None:
    """Stop asking the waiting questions, except the first `keep` and those of the prompts given."""
    ids = connection.scalars(_unanswered_ids(session_id)).all()[keep:]
    connection.execute(
        sa.update(pairs)
        .where(is_of_question(ids), pairs.c.prompt.not_in(unless_prompt_in))
        .values(stale_at_s=time.time())
    )


def retire_answered(connection: sa.Connection, session_id: str) -> None:
    """Set `stale_at_s` of answered pairs where an earlier version of the studio did not."""
    connection.execute(
        sa.update(pairs)
        .where(
            pairs.c.session_id == session_id,
            pairs.c.stale_at_s.is_(None),
            sa.exists().where(picks.c.pair_id == pairs.c.id, holds),
        )
        .values(stale_at_s=time.time())
    )
