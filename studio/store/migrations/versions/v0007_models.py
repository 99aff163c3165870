"""Facts about inspected base models."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("base_model", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("family", sa.String, nullable=False),
        sa.Column("words", sa.String, nullable=False),
        sa.Column("size_px", sa.Integer, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("base_hash", sa.String, nullable=False),
        sa.Column("problem", sa.String, nullable=False),
        sa.Column("preview", sa.String, nullable=False),
    )
