"""Picks say where on the pictures the artist saw what decided."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("picks", sa.Column("marks", sa.JSON, nullable=False, server_default="{}"))
