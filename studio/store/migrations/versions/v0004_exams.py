"""Blind exams, their pairs and the answers to them."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
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


def upgrade() -> None:
    _entity(
        "exams",
        _reference("session_id", "sessions.id", nullable=False, index=True),
        _reference("adapter_id", "adapters.id", nullable=False, index=True),
        sa.Column("strength", sa.Float, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("left_at_s", sa.Float),
    )
    _entity(
        "exam_pairs",
        _reference("exam_id", "exams.id", nullable=False, index=True),
        sa.Column("prompt", sa.String, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("tuned_side", sa.String, nullable=False),
        _reference("base_image_id", "images.id"),
        _reference("tuned_image_id", "images.id"),
    )
    _entity(
        "exam_answers",
        _reference("exam_pair_id", "exam_pairs.id", nullable=False, index=True),
        sa.Column("choice", sa.String),
    )
