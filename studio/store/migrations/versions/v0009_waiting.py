"""The queue has an index of its own: answered pairs leave it, as discarded ones do."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "UPDATE pairs SET stale_at_s = strftime('%s', 'now') + 0.0 "
        "WHERE stale_at_s IS NULL AND EXISTS ("
        "SELECT 1 FROM picks WHERE picks.pair_id = pairs.id AND picks.choice IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM picks AS later WHERE later.supersedes = picks.id))"
    )
    op.create_index(
        "ix_pairs_waiting", "pairs", ["session_id"], sqlite_where=sa.text("stale_at_s IS NULL")
    )
