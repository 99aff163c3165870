"""Pictures of folders, and the artist's own finished art, are found by indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, key in (("folder", "Source hash"), ("own", "Own art hash")):
        found = f"instr(beside, '\"{key}\":') > 0"
        op.create_index(f"ix_images_{name}", "images", ["session_id"], sqlite_where=sa.text(found))
