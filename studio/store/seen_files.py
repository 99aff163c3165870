"""The files of watched folders that were looked at: a file that is unchanged is not read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from studio.store.database import Database, read, read_all
from studio.store.rows import SOURCE_HASH
from studio.store.schema import has_companion, images, seen_files
from studio.store.sessions import read_session


@dataclass(frozen=True)
class SeenFile:
    """A file of a session's folder as it was when it was read.

    name: within the folder. remark: why it was left out, as a sentence; "": it was read.
    """

    name: str
    bytes: int
    mtime_ns: int
    seen_at_s: float
    remark: str = ""


class SeenFiles(Database):
    """They are of this machine, so no archive takes them along."""

    def seen_files(self, session_id: str, folder: str) -> list[SeenFile]:
        """All of a folder."""
        query = sa.select(seen_files).where(
            seen_files.c.session_id == session_id, seen_files.c.folder == folder
        )
        with self.reading() as connection:
            rows = connection.execute(query)
            return read_all(connection, rows, lambda row: read(SeenFile, row, seen_files))

    def add_seen_files(self, session_id: str, folder: str, files: Sequence[SeenFile]) -> None:
        """Remember files, in place of what was known of those names."""
        if not files:
            return
        key = {"session_id": session_id, "folder": folder}
        statement = insert(seen_files).values([key | vars(file) for file in files])
        changes = {name: statement.excluded[name] for name in vars(files[0]) if name != "name"}
        with self.writing() as connection:
            read_session(connection, session_id)
            connection.execute(
                statement.on_conflict_do_update(["session_id", "folder", "name"], set_=changes)
            )

    def left_out_since(self, session_id: str, folder: str, since_s: float) -> list[str]:
        """Why files were left out that were seen since a moment, the newest first."""
        query = sa.select(seen_files.c.name, seen_files.c.remark).where(
            seen_files.c.session_id == session_id,
            seen_files.c.folder == folder,
            seen_files.c.remark != "",
            seen_files.c.seen_at_s > since_s,
        )
        with self.reading() as connection:
            rows = connection.execute(query.order_by(seen_files.c.seen_at_s.desc()).limit(50))
            return [f"{row.name}: {row.remark}" for row in rows]

    def folder_pictures_since(self, session_id: str, since_s: float) -> tuple[int, float]:
        """How many pictures of folders were read since a moment, and when the last one was."""
        query = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.max(images.c.created_at_s), 0.0)
        ).where(
            images.c.session_id == session_id,
            has_companion(images, SOURCE_HASH),
            images.c.created_at_s > since_s,
        )
        with self.reading() as connection:
            number, last_s = connection.execute(query).one()
            return number, last_s
