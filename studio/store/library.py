"""Base models: the folders with them, what is known of each, and the model of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from studio.settings import STARTER_SIZE_PX, SessionSettings
from studio.store.database import Database, get_value, read, read_all, set_value
from studio.store.errors import StoreError
from studio.store.rows import KnownModel, Session
from studio.store.schema import models, sessions
from studio.store.sessions import read_session, stop_rounds, use_adapter
from studio.store.waiting import discard_waiting

FOLDERS = "model_folders"  # the name of a single value: paths, in the order they were added

MOST_SHOWN = 1000


class Library(Database):
    """What the worker found out about base models."""

    # --- folders ---------------------------------------------------------------------------------

    def model_folders(self) -> list[str]:
        """The folders that are searched for models."""
        with self.reading() as connection:
            return list(get_value(connection, FOLDERS) or ())

    def set_model_folders(self, folders: Sequence[str]) -> None:
        """Set the folders that are searched for models."""
        with self.writing() as connection:
            set_value(connection, FOLDERS, list(dict.fromkeys(folders)))

    # --- models ----------------------------------------------------------------------------------

    def remember_model(self, known: KnownModel) -> None:
        """Replace the facts about a model; the hash of unchanged weights is kept."""
        self.remember_models([known])

    def remember_models(self, found: Sequence[KnownModel], gone: Sequence[str] = ()) -> None:
        """As `remember_model`, for all at once; models that are `gone` are removed."""
        with self.writing() as connection:
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
        """The facts about a model, or None if it was never inspected."""
        with self.reading() as connection:
            return _known(connection, base_model)

    def known_models(self) -> list[KnownModel]:
        """All inspected models, by name."""
        with self.reading() as connection:
            found = connection.execute(sa.select(models).order_by(sa.func.lower(models.c.name)))
            return read_all(connection, found, lambda row: read(KnownModel, row, models))

    def usable_models(self) -> list[KnownModel]:
        """The models that can be used, by name; at most `MOST_SHOWN`."""
        query = sa.select(models).where(models.c.family != "", models.c.base_model != "starter")
        with self.reading() as connection:
            found = connection.execute(
                query.order_by(sa.func.lower(models.c.name)).limit(MOST_SHOWN)
            )
            return read_all(connection, found, lambda row: read(KnownModel, row, models))

    # --- the model of a session ------------------------------------------------------------------

    def remember_model_of(
        self, session_id: str, base_model: str, weights_hash: str, weights_bytes: int
    ) -> None:
        """Store the hash of the session's model when it is first used."""
        now = {"model_hash": weights_hash, "model_bytes": weights_bytes}
        with self.writing() as connection:
            settings = read_session(connection, session_id).settings
            if settings.base_model == base_model and not settings.model_hash:
                write_settings(connection, session_id, replace(settings, **now))

    def move_model_of(self, session_id: str, base_model: str) -> Session:
        """Use another copy of the same weights; adapters and pictures stay valid.

        Raises StoreError if the weights differ.
        """
        with self.writing() as connection:
            settings = read_session(connection, session_id).settings
            known = _known(connection, base_model)
            if known is None or not known.base_hash or known.base_hash != settings.model_hash:
                raise StoreError("This is not the model that the session started with.")
            write_settings(connection, session_id, replace(settings, base_model=base_model))
            return read_session(connection, session_id)

    def take_changed_model(self, session_id: str) -> Session:
        """Accept that the session's model file has changed, as if it were another model: adapters
        stay with the old one, and the starter has a size of its own."""
        with self.writing() as connection:
            settings = read_session(connection, session_id).settings
            stop_rounds(connection, session_id)
            use_adapter(connection, session_id, None)
            discard_waiting(connection, session_id)
            settings = replace(settings, model_hash="", model_bytes=0)
            if settings.base_model == "starter":
                sides = {"width_px": STARTER_SIZE_PX, "height_px": STARTER_SIZE_PX}
                settings = replace(settings, sampling=replace(settings.sampling, **sides))
            write_settings(connection, session_id, settings)
            return read_session(connection, session_id)


def _known(connection: sa.Connection, base_model: str) -> KnownModel | None:
    found = connection.execute(sa.select(models).where(models.c.base_model == base_model)).first()
    rows = () if found is None else (found,)
    known = read_all(connection, rows, lambda row: read(KnownModel, row, models))
    return known[0] if known else None  # a damaged one is inspected again


def write_settings(connection: sa.Connection, session_id: str, settings: SessionSettings) -> None:
    connection.execute(
        sa.update(sessions).where(sessions.c.id == session_id).values(settings=settings)
    )


def _same_weights(one: KnownModel, other: KnownModel) -> bool:
    return (one.bytes, one.mtime_ns) == (other.bytes, other.mtime_ns)
