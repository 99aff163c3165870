"""The tables in their present form; `migrations` holds the steps that led to it.

`seq` counts up in the order of insertion and is never reused, so that order does not depend on a
clock. Columns have the names of the fields in `rows`. Two are stored under older names: `seq` as
`place`, and `companions` of images as `beside`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Float,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    func,
    literal_column,
)

from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store.rows import OWN_HASH, SOURCE_HASH
from studio.store.shapes import (
    ANYTHING,
    MARKS,
    MEASURED,
    MIXED,
    NAMES,
    NUMBERS,
    PAYLOAD,
    RESULT,
    TEXTS,
    Unreadable,
    require,
    settings_of,
)

metadata = MetaData()


class Json(TypeDecorator[Any]):
    """A value of some shape, stored as JSON.

    A value of another shape is read as an `Unreadable`, which is returned and not raised: one bad
    row must not prevent a query from returning the others. `database.read` checks for it.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, shape: TypeAdapter[Any], *, frozen: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.frozen = frozen  # values of this shape cannot change, so equal texts may share one

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value.to_dict() if hasattr(value, "to_dict") else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        def process(text: Any) -> Any:
            try:
                return self.read(text)
            except Unreadable as error:
                return error

        return process

    def read(self, text: Any) -> Any:
        """The value of a text in the database. Raises `Unreadable`."""
        if self.frozen and isinstance(text, str):
            return _read_frozen(self.shape, text)
        return _read(self.shape, text)


def _read(shape: TypeAdapter[Any], text: Any) -> Any:
    try:
        # SQLite stores the text of a number as a number.
        value = text if isinstance(text, int | float) else json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    return require(shape, value)


# Nearly all pictures have the same settings, and the picks of a round are read for every page.
_read_frozen = lru_cache(maxsize=64)(_read)


def _entity(name: str, *columns: Any, **options: Any) -> Table:
    """A table of entities with ids; their rows are never deleted."""
    return Table(
        name,
        metadata,
        Column("place", Integer, primary_key=True, autoincrement=True, key="seq"),
        Column("id", String, nullable=False, unique=True),
        *columns,
        Column("created_at_s", Float, nullable=False),
        sqlite_autoincrement=True,
        **options,
    )


def _session() -> Column[Any]:
    return Column("session_id", ForeignKey("sessions.id"), nullable=False, index=True)


sessions = _entity(
    "sessions",
    Column("name", String, nullable=False),
    Column("settings", Json(settings_of(SessionSettings), frozen=True), nullable=False),
    Column("current_adapter_id", ForeignKey("adapters.id", use_alter=True)),
    Column("updated_at_s", Float, nullable=False),
    Column("deleted_at_s", Float),
)

images = _entity(
    "images",
    _session(),
    Column("purpose", String, nullable=False),
    Column("prompt", String, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("adapter_id", ForeignKey("adapters.id")),
    Column("strength", Float, nullable=False),
    Column("sampling", Json(settings_of(SamplingSettings), frozen=True), nullable=False),
    Column("base_hash", String, nullable=False),
    Column("favourite", Boolean, nullable=False),
    Column("picture_sha256", String, nullable=False),  # "": not known
    Column("trajectory_sha256", String, nullable=False),
    Column("beside", Json(TEXTS), nullable=False, key="companions"),
    Column("deleted_at_s", Float),  # set: out of the gallery, and can be brought back
    Column("erased_at_s", Float),  # set too: its files are gone for good
)
# The gallery reads pages of these, the newest first: an index ends with the row's `seq`.
Index("ix_images_prompt", images.c.session_id, images.c.prompt)
Index("ix_images_adapter", images.c.session_id, images.c.adapter_id)
Index("ix_images_favourite", images.c.session_id, sqlite_where=images.c.favourite)
Index("ix_images_deleted", images.c.session_id, sqlite_where=images.c.deleted_at_s.is_not(None))


def has_companion(table: FromClause, key: str) -> ColumnElement[bool]:
    """Whether the companions of an image have a key: as SQLite finds it by a partial index."""
    return func.instr(table.c.companions, literal_column(f"'\"{key}\":'")) > literal_column("0")


Index("ix_images_folder", images.c.session_id, sqlite_where=has_companion(images, SOURCE_HASH))
Index("ix_images_own", images.c.session_id, sqlite_where=has_companion(images, OWN_HASH))

pairs = _entity(
    "pairs",
    _session(),
    Column("prompt", String, nullable=False),
    Column("left_image_id", ForeignKey("images.id"), nullable=False, index=True),
    Column("right_image_id", ForeignKey("images.id"), nullable=False, index=True),
    Column("adapter_id", ForeignKey("adapters.id")),
    Column("stale_at_s", Float),  # set: no longer in the queue, as it was answered or discarded
    Column("repeat_of", ForeignKey("pairs.id")),  # set: this pair repeats that one, sides swapped
    Column("note", String, nullable=False),
    # Set: a pair of a grid, whose id is that of its first pair.
    Column("grid_id", ForeignKey("pairs.id"), index=True),
)
Index("ix_pairs_waiting", pairs.c.session_id, sqlite_where=pairs.c.stale_at_s.is_(None))
question_id = func.coalesce(pairs.c.grid_id, pairs.c.id)  # of a pair or a grid

# The picks of a pair form one chain: a single first one, and each superseded at most once.
picks = _entity(
    "picks",
    Column("pair_id", ForeignKey("pairs.id"), nullable=False, index=True),
    Column("choice", String),
    Column("much_better", Boolean, nullable=False),
    Column("reason", String),
    Column("judge", String),
    Column("marks", Json(MARKS), nullable=False, server_default="{}"),
    Column("supersedes", ForeignKey("picks.id"), unique=True),
)
Index("ix_picks_first", picks.c.pair_id, unique=True, sqlite_where=picks.c.supersedes.is_(None))

adapters = _entity(
    "adapters",
    _session(),
    Column("round_id", ForeignKey("rounds.id", use_alter=True), nullable=False),
    Column("number", Integer, nullable=False),
    Column("settings", Json(settings_of(TrainingSettings), frozen=True), nullable=False),
    Column("base_hash", String, nullable=False),
    Column("picks", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("config_sha256", String, nullable=False),
    Column("checks", Json(NUMBERS), nullable=False),
)

rounds = _entity(
    "rounds",
    _session(),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("settings", Json(settings_of(TrainingSettings), frozen=True), nullable=False),
    Column("train_pick_ids", Json(NAMES, frozen=True), nullable=False),
    Column("held_out_pick_ids", Json(NAMES, frozen=True), nullable=False),
    Column("favourite_ids", Json(NAMES, frozen=True), nullable=False),
    Column("updates_done", Integer, nullable=False),
    Column("updates_total", Integer, nullable=False),
    Column("adapter_id", ForeignKey("adapters.id")),
    Column("message", String, nullable=False),
    Column("attempts", Integer, nullable=False),  # times resumed without progress
    Column("started_at_s", Float),
    Column("finished_at_s", Float),
    UniqueConstraint("session_id", "number"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("update", Integer, primary_key=True),
    Column("values", Json(MEASURED), nullable=False),
)

jobs = _entity(
    "jobs",
    _session(),
    Column("kind", String, nullable=False),
    Column("payload", Json(PAYLOAD), nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("progress", Float, nullable=False),
    Column("message", String, nullable=False),
    Column("result", Json(RESULT), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("finished_at_s", Float),
)

exports = _entity(
    "exports",
    _session(),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("files", Json(NAMES, frozen=True), nullable=False),
    Column("checks", Json(TEXTS), nullable=False),
)

exams = _entity(
    "exams",
    _session(),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False, index=True),
    Column("strength", Float, nullable=False),
    # Set: the adapter, at its strength in here, and others with it.
    Column("mix", Json(MIXED), nullable=False, server_default="null"),
    Column("sampling", Json(settings_of(SamplingSettings), frozen=True), nullable=False),
    Column("left_at_s", Float),  # set: abandoned, and never counted
)

exam_pairs = _entity(
    "exam_pairs",
    Column("exam_id", ForeignKey("exams.id"), nullable=False, index=True),
    Column("prompt", String, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("tuned_side", String, nullable=False),
    Column("base_image_id", ForeignKey("images.id")),  # these two: None until they are drawn
    Column("tuned_image_id", ForeignKey("images.id")),
)

# The newest answer to a pair holds; a choice of None withdraws the one before.
exam_answers = _entity(
    "exam_answers",
    Column("exam_pair_id", ForeignKey("exam_pairs.id"), nullable=False, index=True),
    Column("choice", String),
)

# Facts about base models that the worker has inspected; no other table refers to them.
models = Table(
    "models",
    metadata,
    Column("base_model", String, primary_key=True),  # as it stands in a session's settings
    Column("name", String, nullable=False),
    Column("family", String, nullable=False),
    Column("words", String, nullable=False),
    Column("size_px", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("base_hash", String, nullable=False),
    Column("problem", String, nullable=False),
    Column("preview", String, nullable=False),
    Column("licence", String, nullable=False, server_default=""),
)

# Files of watched folders, on this machine.
seen_files = Table(
    "seen_files",
    metadata,
    Column("session_id", ForeignKey("sessions.id"), primary_key=True),
    Column("folder", String, primary_key=True),
    Column("name", String, primary_key=True),  # within the folder
    Column("bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("seen_at_s", Float, nullable=False),
    Column("remark", String, nullable=False),  # "": it was read
)

# Single values of the whole store; `shapes.VALUES` names them.
state = Table(
    "state",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Json(ANYTHING), nullable=False),
)
