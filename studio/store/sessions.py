"""Sessions: created, opened, renamed, duplicated and deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from studio.settings import SessionSettings
from studio.store.database import Database, first_readable, get_value, read, read_all, set_value
from studio.store.errors import StoreError
from studio.store.files import set_aside
from studio.store.rows import OPEN_JOB_STATES, OPEN_ROUND_STATES, Session
from studio.store.schema import adapters, jobs, rounds, sessions
from studio.store.waiting import discard_waiting

MAX_NAME_CHARACTERS = 200
READY_PAIRS_KEPT = 2  # by a new adapter: the artist goes on while it draws pairs of its own


def read_session(connection: sa.Connection, session_id: str) -> Session:
    """A session that has not been deleted, or a StoreError."""
    found = connection.execute(
        sa.select(sessions).where(sessions.c.id == session_id, sessions.c.deleted_at_s.is_(None))
    ).first()
    if found is None:
        raise StoreError("This session does not exist any more.")
    return read(Session, found, sessions)


def use_adapter(connection: sa.Connection, session_id: str, adapter_id: str | None) -> None:
    """Make an adapter current. If it draws the pairs, all but the next few are discarded."""
    connection.execute(
        sa.update(sessions)
        .where(sessions.c.id == session_id)
        .values(current_adapter_id=adapter_id, updated_at_s=time.time())
    )
    if read_session(connection, session_id).settings.pairs_by == "newest":
        discard_waiting(connection, session_id, keep=READY_PAIRS_KEPT)


class Sessions(Database):
    """The sessions of a store."""

    def create_session(self, name: str, settings: SessionSettings) -> Session:
        """Create a session."""
        now_s = time.time()
        made = Session(
            id=uuid.uuid4().hex,
            name=_named(name),
            settings=settings,
            current_adapter_id=None,
            created_at_s=now_s,
            updated_at_s=now_s,
        )
        with self.writing() as connection:
            connection.execute(sa.insert(sessions).values(vars(made)))
        return made

    def sessions(self) -> list[Session]:
        """All sessions, the newest first."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(sessions)
                .where(sessions.c.deleted_at_s.is_(None))
                .order_by(sessions.c.seq.desc())
            )
            return read_all(connection, found, lambda row: read(Session, row, sessions))

    def session(self, session_id: str) -> Session:
        """One session."""
        with self.reading() as connection:
            return read_session(connection, session_id)

    def has_session(self, session_id: str) -> bool:
        """Whether the session exists and has not been deleted."""
        with self.reading() as connection:
            there = sa.select(sessions.c.id).where(
                sessions.c.id == session_id, sessions.c.deleted_at_s.is_(None)
            )
            return connection.execute(there).first() is not None

    def rename_session(self, session_id: str, name: str) -> Session:
        """Give a session another name."""
        return self._update_session(session_id, name=_named(name))

    def duplicate_session(self, session_id: str, name: str) -> Session:
        """Create a session with the settings and prompts of another.

        Picks, pictures and adapters stay with the original.
        """
        return self.create_session(name, self.session(session_id).settings)

    def delete_session(self, session_id: str) -> None:
        """Hide a session for good. Its rows stay, and its folder moves to `home/aside`."""
        now_s = time.time()
        with self.writing() as connection:
            read_session(connection, session_id)
            connection.execute(
                sa.update(sessions).where(sessions.c.id == session_id).values(deleted_at_s=now_s)
            )
            for table, open_states, state in (
                (rounds, OPEN_ROUND_STATES, "stopped"),
                (jobs, OPEN_JOB_STATES, "cancelled"),
            ):
                connection.execute(
                    sa.update(table)
                    .where(table.c.session_id == session_id, table.c.state.in_(open_states))
                    .values(state=state, message="The session was deleted.", finished_at_s=now_s)
                )
        self._set_session_aside(session_id)

    def update_settings(self, session_id: str, settings: SessionSettings) -> Session:
        """Replace all settings; see `change_settings`."""
        return self.change_settings(session_id, lambda _: settings)

    def change_settings(
        self, session_id: str, change: Callable[[SessionSettings], SessionSettings]
    ) -> Session:
        """Replace the settings by `change(settings)`, and discard waiting pairs that no longer fit.

        Both happen in one transaction, so that two fields saved at the same moment are both kept.
        A change of the base model, or of the LoRA to start from, also deselects the adapter and
        stops the round: both belong to the old base.
        """
        with self.writing() as connection:
            before = read_session(connection, session_id)
            settings = change(before.settings)
            if settings.base_model == before.settings.base_model:  # only `Library` changes the hash
                known = before.settings
                settings = replace(
                    settings, model_hash=known.model_hash, model_bytes=known.model_bytes
                )
            after = replace(before, settings=settings, updated_at_s=time.time())
            if settings.base != before.settings.base:
                after = replace(after, current_adapter_id=None)
                stop_rounds(connection, session_id)
            connection.execute(
                sa.update(sessions)
                .where(sessions.c.id == session_id)
                .values(
                    settings=after.settings,
                    updated_at_s=after.updated_at_s,
                    current_adapter_id=after.current_adapter_id,
                )
            )
            same_pictures = (
                settings.base == before.settings.base
                and settings.sampling == before.settings.sampling
                and settings.pictures == before.settings.pictures
                and settings.pairs_by == before.settings.pairs_by
                and settings.pairs_of == before.settings.pairs_of
            )
            kept = settings.prompts if same_pictures else ()
            discard_waiting(connection, session_id, unless_prompt_in=kept)
        return after

    def set_current_adapter(self, session_id: str, adapter_id: str | None) -> Session:
        """Use an adapter of the session from now on, or with None the base model."""
        with self.writing() as connection:
            read_session(connection, session_id)
            if adapter_id is not None:
                owner = sa.select(adapters.c.session_id).where(adapters.c.id == adapter_id)
                if connection.scalar(owner) != session_id:
                    raise StoreError("This adapter does not belong to the session.")
            use_adapter(connection, session_id, adapter_id)
            return read_session(connection, session_id)

    def last_session_id(self) -> str | None:
        """The session that was opened last; if it was deleted, the newest one; or None."""
        with self.reading() as connection:
            last = get_value(connection, "last_session_id")
            found = connection.execute(
                sa.select(sessions)
                .where(sessions.c.deleted_at_s.is_(None))
                .order_by((sessions.c.id == last).desc(), sessions.c.seq.desc())
            )
            first = first_readable(connection, found, lambda row: read(Session, row, sessions))
            return first and first.id

    def set_last_session(self, session_id: str) -> None:
        """Remember which session is open: the worker draws pairs for it."""
        with self.writing() as connection:
            read_session(connection, session_id)
            set_value(connection, "last_session_id", session_id)

    def _set_session_aside(self, session_id: str) -> None:
        folder = self.session_path(session_id)
        try:
            if folder.exists():
                set_aside(self.home, folder)
        except OSError:
            pass  # a file of it is still open somewhere; `set_orphans_aside` tries again

    def _update_session(self, session_id: str, **values: object) -> Session:
        with self.writing() as connection:
            read_session(connection, session_id)
            connection.execute(
                sa.update(sessions)
                .where(sessions.c.id == session_id)
                .values(**values, updated_at_s=time.time())
            )
            return read_session(connection, session_id)


def stop_rounds(connection: sa.Connection, session_id: str) -> None:
    """Stop the open rounds of a session whose base model has changed."""
    connection.execute(
        sa.update(rounds)
        .where(rounds.c.session_id == session_id, rounds.c.state.in_(OPEN_ROUND_STATES))
        .values(
            state="stopped",
            message="Stopped: the base model was changed.",
            finished_at_s=time.time(),
        )
    )


def _named(name: str) -> str:
    name = " ".join(name.split())
    if not name:
        raise StoreError("Give the session a name.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise StoreError(f"A session's name has at most {MAX_NAME_CHARACTERS} characters.")
    return name
