"""Rounds, their metrics and their adapters."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from studio.settings import FEWEST_PICKS
from studio.store.database import Database, changed, first_readable, read, read_all
from studio.store.errors import StoreError
from studio.store.lone_pictures import LonePictures
from studio.store.material import read_material, too_few
from studio.store.rows import (
    OPEN_ROUND_STATES,
    Adapter,
    Metric,
    Round,
)
from studio.store.schema import adapters, metrics, picks, rounds, sessions
from studio.store.sessions import read_session, use_adapter

MOST_ATTEMPTS = 3  # times a round is resumed without progress before it fails

_open = rounds.c.state.in_(OPEN_ROUND_STATES)
_is_of_open_round = sa.exists().where(rounds.c.id == adapters.c.round_id, _open)


def has_learned(round_: Round) -> bool:
    """Whether all updates are made: what remains is to measure and to look at the pictures."""
    return round_.adapter_id is not None or 0 < round_.updates_total == round_.updates_done


class Rounds(Database):
    """The rounds and adapters of all sessions."""

    def request_round(self, session_id: str) -> Round:
        """Request a round over the present picks, or return the round that is still open.

        It learns from the picks that may share a round with the newest one, by base model and
        settings. A pick that was once held out is never trained on, and one that was trained on is
        never held out. If its settings say so, it learns from lone pictures too. Where there are
        too few picks, but favourites, it learns from these alone.
        """
        with self.writing() as connection:
            session = read_session(connection, session_id)
            earlier = _rounds_of(connection, session_id)
            for round_ in earlier:
                if round_.state in OPEN_ROUND_STATES:
                    return round_
            settings = session.settings.training
            material = read_material(connection, session, earlier)
            lone = material.lone if settings.lone_pictures else LonePictures()
            if not lone.are_enough:
                lone = LonePictures()
                if len(material.usable) < FEWEST_PICKS:
                    if not material.favourites_are_enough:
                        raise StoreError(too_few(material))
                    lone = LonePictures(material.lone.favourites)
                    settings = replace(settings, favourites_alone=True)
            train = material.train + tuple(one.pick.id for one in lone.both_bad)
            taught = [one for one in (*material.usable, *lone.both_bad) if one.pick.id in train]
            questions = len({one.pair.question_id for one in taught}) + len(lone.favourites)
            made = Round(
                id=uuid.uuid4().hex,
                session_id=session_id,
                number=1 + max((round_.number for round_ in earlier), default=0),
                state="queued",
                settings=settings,
                train_pick_ids=train,
                held_out_pick_ids=material.held_out,
                favourite_ids=tuple(image.id for image in lone.favourites),
                updates_done=0,
                updates_total=settings.updates(questions),
                adapter_id=None,
                message="Waiting for the worker.",
                created_at_s=time.time(),
                started_at_s=None,
                finished_at_s=None,
            )
            connection.execute(sa.insert(rounds).values(**vars(made), attempts=0))
        return made

    def lone_pictures(self, session_id: str) -> LonePictures:
        """Those that a round could learn from now, whether or not its settings say so."""
        with self.reading() as connection:
            session = read_session(connection, session_id)
            return read_material(connection, session, _rounds_of(connection, session_id)).lone

    def claim_round(self) -> Round | None:
        """Start or resume the oldest round that is queued, or whose worker died.

        A round at which the worker died several times without progress fails. A round in state
        "stopping" is returned too, so that the worker ends it.
        """
        with self.writing() as connection:
            waiting = connection.execute(
                sa.select(rounds)
                .where(rounds.c.state.in_(("queued", "running", "stopping")))
                .order_by(rounds.c.seq)
            ).all()
            first = first_readable(connection, waiting, lambda row: read(Round, row, rounds))
            if first is None:
                return None
            found = next(row for row in waiting if row.id == first.id)
            if found.attempts >= MOST_ATTEMPTS:
                _update_round(
                    connection,
                    found.id,
                    state="failed",
                    message=f"The worker stopped {MOST_ATTEMPTS} times at the same place of this "
                    "round. Smaller micro-batches, or a look into the log, may help.",
                )
                return None
            values: dict[str, Any] = {"attempts": found.attempts + 1}
            if found.state == "queued":
                values |= {"state": "running", "message": ""}
            if found.started_at_s is None:
                values["started_at_s"] = time.time()
            return _update_round(connection, found.id, **values)

    def update_round(self, round_id: str, **fields: Any) -> Round:
        """Change state, message or the updates. A finished round stays as it is."""
        allowed = frozenset({"state", "message", "updates_done", "updates_total"})
        fields = changed(fields, allowed)
        with self.writing() as connection:
            return _update_round(connection, round_id, **fields)

    def rounds(self, session_id: str) -> list[Round]:
        """The rounds of a session, the oldest first."""
        with self.reading() as connection:
            return _rounds_of(connection, session_id)

    def newest_round(self, session_id: str) -> Round | None:
        """The newest round of a session, or None."""
        query = sa.select(rounds).where(rounds.c.session_id == session_id)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(rounds.c.number.desc()))
            return first_readable(connection, rows, lambda row: read(Round, row, rounds))

    def round(self, round_id: str) -> Round:
        """One round."""
        with self.reading() as connection:
            return _round(connection, round_id)

    def pause_round(self, round_id: str) -> Round:
        """Ask the worker to pause a round."""
        return self._request(round_id, {"queued": "paused", "running": "paused"}, "Paused.")

    def resume_round(self, round_id: str) -> Round:
        """Ask the worker to resume a paused round."""
        return self._request(round_id, {"paused": "queued"}, "Waiting for the worker.")

    def release_round(self, round_id: str) -> Round:
        """For the worker: put a round back into the queue, to be resumed later."""
        return self._request(round_id, {"running": "queued"}, "Waiting for the worker.")

    def stop_round(self, round_id: str) -> Round:
        """Ask the worker to end a round: without an adapter, or, if it has learned, with what it
        has learned and without the rest."""
        at_rest = "stopping" if has_learned(self.round(round_id)) else "stopped"
        return self._request(
            round_id,
            {"queued": at_rest, "paused": at_rest, "running": "stopping"},
            "Stopped. The adapter from before it stays in use.",
        )

    def add_metric(self, round_id: str, update: int, values: dict[str, float]) -> None:
        """Store the metrics of an update, and that the round has reached it.

        A round that resumes from its last checkpoint stores some updates a second time.
        """
        with self.writing() as connection:
            round_ = _round(connection, round_id)
            statement = insert(metrics).values(
                {"round_id": round_id, "update": update, "values": values}
            )
            connection.execute(
                statement.on_conflict_do_update(
                    ["round_id", "update"], set_={"values": statement.excluded["values"]}
                )
            )
            if update > round_.updates_done:
                _update_round(connection, round_id, updates_done=update, attempts=1)

    def metrics(self, round_id: str) -> list[Metric]:
        """The metrics of a round, update by update."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(metrics)
                .where(metrics.c.round_id == round_id)
                .order_by(metrics.c["update"])
            )
            return read_all(connection, found, lambda row: read(Metric, row, metrics))

    def keep_adapter(self, round_id: str, adapter: Adapter) -> Round:
        """Add the adapter of a round that goes on, and whose pictures are to be looked at next.

        Its files are already written. `adapters` lists it once the round is finished. Raises
        StoreError if the round has been ended in the meantime.
        """
        with self.writing() as connection:
            _require_open(connection, round_id)
            connection.execute(sa.insert(adapters).values(vars(adapter)))
            return _update_round(connection, round_id, adapter_id=adapter.id, attempts=1)

    def finish_round(
        self, round_id: str, adapter: Adapter, message: str = "Done.", *, held_back: bool = False
    ) -> Round:
        """Add the adapter of a round, whose files are already written, or, if it is there, its
        checks; and make it current.

        If it draws the pairs, all waiting ones but the next few are discarded. The adapter of a
        round that is held back does not become current. Raises StoreError if the round has been
        stopped in the meantime.
        """
        with self.writing() as connection:
            if _require_open(connection, round_id).adapter_id is None:
                connection.execute(sa.insert(adapters).values(vars(adapter)))
            else:
                same = adapters.c.id == adapter.id
                connection.execute(sa.update(adapters).where(same).values(checks=adapter.checks))
            done = _update_round(
                connection,
                round_id,
                state="held_back" if held_back else "done",
                adapter_id=adapter.id,
                message=message,
            )
            if not held_back:
                use_adapter(connection, adapter.session_id, adapter.id)
        return done

    def withdrawn(self, round_: Round) -> int:
        """How many picks that a round learned from were withdrawn or changed since."""
        later = picks.alias()
        with self.reading() as connection:
            return connection.scalar(
                sa.select(sa.func.count()).where(
                    picks.c.id.in_(round_.train_pick_ids),
                    sa.exists().where(later.c.supersedes == picks.c.id),
                )
            )

    def adapters(self, session_id: str) -> list[Adapter]:
        """The adapters of a session's finished rounds, the oldest first."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(adapters)
                .where(adapters.c.session_id == session_id, ~_is_of_open_round)
                .order_by(adapters.c.seq)
            )
            return read_all(connection, found, lambda row: read(Adapter, row, adapters))

    def tastes(self, base_hash: str) -> list[tuple[str, Adapter]]:
        """The adapters of all finished rounds for a base model, the newest first, each with the
        name of its session."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(adapters, sessions.c.name)
                .join(sessions, sessions.c.id == adapters.c.session_id)
                .where(
                    adapters.c.base_hash == base_hash,
                    sessions.c.deleted_at_s.is_(None),
                    ~_is_of_open_round,
                )
                .order_by(adapters.c.seq.desc())
            )
            return read_all(
                connection,
                found,
                lambda row: (row._mapping[sessions.c.name], read(Adapter, row, adapters)),
            )

    def adapter(self, adapter_id: str) -> Adapter:
        """One adapter."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(adapters).where(adapters.c.id == adapter_id)
            ).first()
        if found is None:
            raise StoreError("This adapter does not exist.")
        return read(Adapter, found, adapters)

    def _request(self, round_id: str, moves: dict[str, str], message: str) -> Round:
        with self.writing() as connection:
            round_ = _round(connection, round_id)
            if round_.state not in moves:
                return round_
            return _update_round(
                connection, round_id, state=moves[round_.state], message=message, attempts=0
            )


def _rounds_of(connection: sa.Connection, session_id: str) -> list[Round]:
    found = connection.execute(
        sa.select(rounds).where(rounds.c.session_id == session_id).order_by(rounds.c.seq)
    )
    return read_all(connection, found, lambda row: read(Round, row, rounds))


def _round(connection: sa.Connection, round_id: str) -> Round:
    found = connection.execute(sa.select(rounds).where(rounds.c.id == round_id)).first()
    if found is None:
        raise StoreError("This round does not exist.")
    return read(Round, found, rounds)


def _require_open(connection: sa.Connection, round_id: str) -> Round:
    round_ = _round(connection, round_id)
    if round_.state not in OPEN_ROUND_STATES:
        raise StoreError("This round was ended before its adapter was ready.")
    return round_


def _update_round(connection: sa.Connection, round_id: str, **values: Any) -> Round:
    if values.get("state", "queued") not in OPEN_ROUND_STATES:
        values["finished_at_s"] = time.time()
    if values:
        connection.execute(sa.update(rounds).where(rounds.c.id == round_id, _open).values(**values))
    return _round(connection, round_id)
