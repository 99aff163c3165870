"""Picks by a judge, a function that scores pictures, have its name."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("picks", sa.Column("judge", sa.String))
