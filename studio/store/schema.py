"""The tables as they are now; `migrations` holds how they came to be.

`place` counts up in the order of insertion and is never reused, so that order does not depend on a
clock. Columns bear the names of the fields in `rows`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    func,
)

from studio.settings import SamplingSettings, SessionSettings, TrainingSettings

metadata = MetaData()


class Unreadable(ValueError):
    """A column does not hold what was written into it."""


class Settings(TypeDecorator[Any]):
    """A settings dataclass, kept as JSON."""

    impl = JSON
    cache_ok = True

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> dict[str, Any]:
        return value.to_dict()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        try:
            return self.kind.from_dict(value)
        except (TypeError, ValueError) as error:  # one letter of it is another
            raise Unreadable(str(error)) from error


class Tuple(TypeDecorator[tuple[str, ...]]):
    """A tuple of strings, kept as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise Unreadable("not a list")
        return tuple(value)


class Texts(TypeDecorator[dict[str, str]]):
    """Texts by name, kept as a JSON object."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, str]:
        if not isinstance(value, dict):
            raise Unreadable("not texts by name")
        return value


def _entity(name: str, *columns: Any, **options: Any) -> Table:
    """A table of things that have an id and are kept for ever."""
    return Table(
        name,
        metadata,
        Column("place", Integer, primary_key=True, autoincrement=True),
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
    Column("settings", Settings(SessionSettings), nullable=False),
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
    Column("sampling", Settings(SamplingSettings), nullable=False),
    Column("base_hash", String, nullable=False),
    Column("favourite", Boolean, nullable=False),
    Column("picture_sha256", String, nullable=False),  # "": not known
    Column("trajectory_sha256", String, nullable=False),
    Column("beside", Texts, nullable=False),
)

pairs = _entity(
    "pairs",
    _session(),
    Column("prompt", String, nullable=False),
    Column("left_image_id", ForeignKey("images.id"), nullable=False),
    Column("right_image_id", ForeignKey("images.id"), nullable=False),
    Column("adapter_id", ForeignKey("adapters.id")),
    Column("stale_at_s", Float),  # set: kept, but not shown any more
    Column("repeat_of", ForeignKey("pairs.id")),  # set: that pair asked again, sides swapped
    Column("note", String, nullable=False),
    # Set: one of the pairs of a grid, all of which are asked at once; the first of them names it.
    Column("grid_id", ForeignKey("pairs.id"), index=True),
)
question_id = func.coalesce(pairs.c.grid_id, pairs.c.id)  # what is asked at once: a pair or a grid

# The picks of a pair form one chain: a single first one, and each superseded at most once.
picks = _entity(
    "picks",
    Column("pair_id", ForeignKey("pairs.id"), nullable=False, index=True),
    Column("choice", String),
    Column("much_better", Boolean, nullable=False),
    Column("reason", String),
    Column("supersedes", ForeignKey("picks.id"), unique=True),
)
Index("ix_picks_first", picks.c.pair_id, unique=True, sqlite_where=picks.c.supersedes.is_(None))

adapters = _entity(
    "adapters",
    _session(),
    Column("round_id", ForeignKey("rounds.id", use_alter=True), nullable=False),
    Column("number", Integer, nullable=False),
    Column("settings", Settings(TrainingSettings), nullable=False),
    Column("base_hash", String, nullable=False),
    Column("picks", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("config_sha256", String, nullable=False),
    Column("checks", JSON, nullable=False),
)

rounds = _entity(
    "rounds",
    _session(),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("settings", Settings(TrainingSettings), nullable=False),
    Column("train_pick_ids", Tuple, nullable=False),
    Column("held_out_pick_ids", Tuple, nullable=False),
    Column("updates_done", Integer, nullable=False),
    Column("updates_total", Integer, nullable=False),
    Column("adapter_id", ForeignKey("adapters.id")),
    Column("message", String, nullable=False),
    Column("attempts", Integer, nullable=False),  # times taken up without getting any further
    Column("started_at_s", Float),
    Column("finished_at_s", Float),
    UniqueConstraint("session_id", "number"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("update", Integer, primary_key=True),
    Column("values", JSON, nullable=False),
)

jobs = _entity(
    "jobs",
    _session(),
    Column("kind", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("progress", Float, nullable=False),
    Column("message", String, nullable=False),
    Column("result", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("finished_at_s", Float),
)

exports = _entity(
    "exports",
    _session(),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("files", Tuple, nullable=False),
    Column("checks", JSON, nullable=False),
)

exams = _entity(
    "exams",
    _session(),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False, index=True),
    Column("strength", Float, nullable=False),
    Column("sampling", Settings(SamplingSettings), nullable=False),
    Column("left_at_s", Float),  # set: not taken to its end, and never counted
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

# The newest answer to a pair holds; a choice of None takes back the one before.
exam_answers = _entity(
    "exam_answers",
    Column("exam_pair_id", ForeignKey("exam_pairs.id"), nullable=False, index=True),
    Column("choice", String),
)

# What the worker found when it looked at base models; nothing refers to them.
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
)

# Single values of the whole store: "changes", "last_session_id", "worker".
state = Table(
    "state",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", JSON, nullable=False),
)
