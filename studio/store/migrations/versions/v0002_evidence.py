"""Pairs that are asked again, and checks of an adapter's pictures."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Alembic adds a column with a foreign key by copying the table, which its own rows refer to.
    op.execute("ALTER TABLE pairs ADD COLUMN repeat_of VARCHAR REFERENCES pairs (id)")
    op.add_column("adapters", sa.Column("checks", sa.JSON, nullable=False, server_default="{}"))
