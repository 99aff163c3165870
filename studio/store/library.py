"""Base models: where they are looked for, what was found, and which of them a session is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from studio.settings import SessionSettings
from studio.store.database import get_value, read, read_all, set_value
from studio.store.errors import StoreError
from studio.store.exams import Exams
from studio.store.rows import KnownModel, Session
from studio.store.schema import models, sessions
from studio.store.sessions import discard_waiting, read_session, stop_rounds, use_adapter

FOLDERS = "model_folders"  # a value of the whole store: paths, in the order in which they came

MOST_SHOWN = 1000


class Library(Exams):
    """What the worker knows of base models, for the pages to show."""

    # --- folders ---------------------------------------------------------------------------------

    def model_folders(self) -> list[str]:
        """Folders of other tools, or any, in which models are looked for."""
        with self._reading() as connection:
            return list(get_value(connection, FOLDERS) or ())

    def set_model_folders(self, folders: Sequence[str]) -> None:
        """Look for models in these from now on."""
        with self._writing() as connection:
            set_value(connection, FOLDERS, list(dict.fromkeys(folders)))

    # --- models ----------------------------------------------------------------------------------

    def remember_model(self, known: KnownModel) -> None:
        """Keep what is known of a model, in the place of what was; the hash of weights that are
        the same since is not forgotten."""
        self.remember_models([known])

    def remember_models(self, found: Sequence[KnownModel], gone: Sequence[str] = ()) -> None:
        """As `remember_model`, all at once; and forget those that are `gone`."""
        with self._writing() as connection:
            connection.execute(sa.delete(models).where(models.c.base_model.in_(gone)))
            for known in found:
                before = _known(connection, known.base_model)
                if before is not None and not known.base_hash and _same_weights(before, known):
                    known = replace(known, base_hash=before.base_hash)  # noqa: PLW2901
                if known == before:
                    continue
                connection.execute(sa.delete(models).where(models.c.base_model == known.base_model))
                connection.execute(sa.insert(models).values(vars(known)))

    def known_model(self, base_model: str) -> KnownModel | None:
        """What is known of a model, or None if it was never looked at."""
        with self._reading() as connection:
            return _known(connection, base_model)

    def known_models(self) -> list[KnownModel]:
        """All of which anything is known, by name."""
        with self._reading() as connection:
            found = connection.execute(sa.select(models).order_by(sa.func.lower(models.c.name)))
            return read_all(connection, found, lambda row: read(KnownModel, row, models))

    def usable_models(self) -> list[KnownModel]:
        """Those that can be drawn with, as far as anybody wants to see at once."""
        query = sa.select(models).where(models.c.family != "", models.c.base_model != "starter")
        with self._reading() as connection:
            found = connection.execute(
                query.order_by(sa.func.lower(models.c.name)).limit(MOST_SHOWN)
            )
            return read_all(connection, found, lambda row: read(KnownModel, row, models))

    # --- the model of a session ------------------------------------------------------------------

    def remember_model_of(
        self, session_id: str, base_model: str, weights_hash: str, weights_bytes: int
    ) -> None:
        """Which weights the model of a session had when it was first used."""
        now = {"model_hash": weights_hash, "model_bytes": weights_bytes}
        with self._writing() as connection:
            settings = read_session(connection, session_id).settings
            if settings.base_model == base_model and not settings.model_hash:
                _write(connection, session_id, replace(settings, **now))

    def move_model_of(self, session_id: str, base_model: str) -> Session:
        """Go on with the same weights from another place: all that was learned and drawn stays.

        Raises StoreError where they are not the same.
        """
        with self._writing() as connection:
            settings = read_session(connection, session_id).settings
            known = _known(connection, base_model)
            if known is None or not known.base_hash or known.base_hash != settings.model_hash:
                raise StoreError("This is not the model that the session was begun with.")
            _write(connection, session_id, replace(settings, base_model=base_model))
            return read_session(connection, session_id)

    def take_changed_model(self, session_id: str) -> Session:
        """Go on with what now lies where the session's model was: as with another model, what was
        learned stays with the one before."""
        with self._writing() as connection:
            settings = read_session(connection, session_id).settings
            stop_rounds(connection, session_id)
            use_adapter(connection, session_id, None)
            discard_waiting(connection, session_id)
            _write(connection, session_id, replace(settings, model_hash="", model_bytes=0))
            return read_session(connection, session_id)


def _known(connection: sa.Connection, base_model: str) -> KnownModel | None:
    found = connection.execute(sa.select(models).where(models.c.base_model == base_model)).first()
    rows = () if found is None else (found,)
    known = read_all(connection, rows, lambda row: read(KnownModel, row, models))
    return known[0] if known else None  # what makes no sense is found out again


def _write(connection: sa.Connection, session_id: str, settings: SessionSettings) -> None:
    connection.execute(
        sa.update(sessions).where(sessions.c.id == session_id).values(settings=settings)
    )


def _same_weights(one: KnownModel, other: KnownModel) -> bool:
    return (one.bytes, one.mtime_ns) == (other.bytes, other.mtime_ns)
