"""Base models: what was found when they were looked at."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from studio.store.database import read
from studio.store.exams import Exams
from studio.store.rows import KnownModel
from studio.store.schema import models


class Library(Exams):
    """What the worker knows of base models, for the pages to show."""

    def remember_model(self, known: KnownModel) -> None:
        """Keep what is known of a model, in the place of what was; the hash of weights that are
        the same since is not forgotten."""
        with self._writing() as connection:
            found = _known(connection, known.base_model)
            if found is not None and not known.base_hash and _same_weights(found, known):
                known = replace(known, base_hash=found.base_hash)
            if found == known:
                return
            connection.execute(sa.delete(models).where(models.c.base_model == known.base_model))
            connection.execute(sa.insert(models).values(vars(known)))

    def known_model(self, base_model: str) -> KnownModel | None:
        """What is known of a model, or None if it was never looked at."""
        with self._reading() as connection:
            return _known(connection, base_model)


def _known(connection: sa.Connection, base_model: str) -> KnownModel | None:
    found = connection.execute(sa.select(models).where(models.c.base_model == base_model)).first()
    return None if found is None else read(KnownModel, found, models)


def _same_weights(one: KnownModel, other: KnownModel) -> bool:
    return (one.bytes, one.mtime_ns) == (other.bytes, other.mtime_ns)
