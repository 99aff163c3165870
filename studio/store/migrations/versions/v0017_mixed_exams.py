"""Exams ask about mixes too."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("exams", sa.Column("mix", sa.JSON, nullable=False, server_default="null"))
