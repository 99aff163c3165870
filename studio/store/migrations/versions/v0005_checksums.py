"""Checksums of all files; those of adapters' weights are older."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What was written before is of unknown checksum: "".
    for name in ("picture_sha256", "trajectory_sha256"):
        op.add_column("images", sa.Column(name, sa.String, nullable=False, server_default=""))
    op.add_column(
        "adapters", sa.Column("config_sha256", sa.String, nullable=False, server_default="")
    )
