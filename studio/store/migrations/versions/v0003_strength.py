"""How much better a picture is and why; favourites; notes on pairs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    no = sa.false()
    op.add_column("picks", sa.Column("much_better", sa.Boolean, nullable=False, server_default=no))
    op.add_column("picks", sa.Column("reason", sa.String))
    op.add_column("images", sa.Column("favourite", sa.Boolean, nullable=False, server_default=no))
    op.add_column("pairs", sa.Column("note", sa.String, nullable=False, server_default=""))
