"""Pictures can be deleted; the gallery finds them, and what was picked of them, by indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("deleted_at_s", sa.Float))
    op.add_column("images", sa.Column("erased_at_s", sa.Float))
    op.create_index("ix_images_prompt", "images", ["session_id", "prompt"])
    op.create_index("ix_images_adapter", "images", ["session_id", "adapter_id"])
    for name, holds in (("favourite", "favourite"), ("deleted", "deleted_at_s IS NOT NULL")):
        op.create_index(f"ix_images_{name}", "images", ["session_id"], sqlite_where=sa.text(holds))
    for side in ("left", "right"):
        op.create_index(f"ix_pairs_{side}_image_id", "pairs", [f"{side}_image_id"])
