"""The first schema: sessions, images, pairs, picks, rounds, adapters, jobs, exports."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _entity(name: str, *columns: Any) -> None:
    op.create_table(
        name,
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        *columns,
        sa.Column("created_at_s", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )


def _reference(name: str, target: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String, sa.ForeignKey(target), **options)


def _session() -> sa.Column[Any]:
    return _reference("session_id", "sessions.id", nullable=False, index=True)


def upgrade() -> None:
    _entity(
        "sessions",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        _reference("current_adapter_id", "adapters.id"),
        sa.Column("updated_at_s", sa.Float, nullable=False),
        sa.Column("deleted_at_s", sa.Float),
    )
    _entity(
        "images",
        _session(),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("prompt", sa.String, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        _reference("adapter_id", "adapters.id"),
        sa.Column("strength", sa.Float, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("base_hash", sa.String, nullable=False),
    )
    _entity(
        "pairs",
        _session(),
        sa.Column("prompt", sa.String, nullable=False),
        _reference("left_image_id", "images.id", nullable=False),
        _reference("right_image_id", "images.id", nullable=False),
        _reference("adapter_id", "adapters.id"),
        sa.Column("stale_at_s", sa.Float),
    )
    _entity(
        "picks",
        _reference("pair_id", "pairs.id", nullable=False, index=True),
        sa.Column("choice", sa.String),
        _reference("supersedes", "picks.id", unique=True),
    )
    op.create_index(
        "ix_picks_first",
        "picks",
        ["pair_id"],
        unique=True,
        sqlite_where=sa.text("supersedes IS NULL"),
    )
    _entity(
        "adapters",
        _session(),
        _reference("round_id", "rounds.id", nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("base_hash", sa.String, nullable=False),
        sa.Column("picks", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
    )
    _entity(
        "rounds",
        _session(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("train_pick_ids", sa.JSON, nullable=False),
        sa.Column("held_out_pick_ids", sa.JSON, nullable=False),
        sa.Column("updates_done", sa.Integer, nullable=False),
        sa.Column("updates_total", sa.Integer, nullable=False),
        _reference("adapter_id", "adapters.id"),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("started_at_s", sa.Float),
        sa.Column("finished_at_s", sa.Float),
        sa.UniqueConstraint("session_id", "number"),
    )
    op.create_table(
        "metrics",
        _reference("round_id", "rounds.id", primary_key=True),
        sa.Column("update", sa.Integer, primary_key=True),
        sa.Column("values", sa.JSON, nullable=False),
    )
    _entity(
        "jobs",
        _session(),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("finished_at_s", sa.Float),
    )
    _entity(
        "exports",
        _session(),
        _reference("adapter_id", "adapters.id", nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("checks", sa.JSON, nullable=False),
    )
    op.create_table(
        "state",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
