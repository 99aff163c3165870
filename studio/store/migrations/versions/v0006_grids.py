"""Grids: several pictures of one prompt, stored as all pairs of them."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Alembic would copy the table, which its own rows refer to: see 0002.
    op.execute("ALTER TABLE pairs ADD COLUMN grid_id VARCHAR REFERENCES pairs (id)")
    op.create_index("ix_pairs_grid_id", "pairs", ["grid_id"])
