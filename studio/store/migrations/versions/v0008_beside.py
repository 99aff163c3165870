"""Files that took part in drawing a picture besides the model: its VAE, textual inversions."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("beside", sa.JSON, nullable=False, server_default="{}"))
