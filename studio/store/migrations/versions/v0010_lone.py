"""Rounds learn from favourites too, which may change while a round is open."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "rounds", sa.Column("favourite_ids", sa.JSON, nullable=False, server_default="[]")
    )
