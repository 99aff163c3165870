"""Checks everything in a home and repairs what it can.

It deletes no file but those of pictures that the artist deleted for good.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, TEMPORARY_PREFIX
from studio.store import schema
from studio.store.checked import checked_row
from studio.store.database import Database, read, read_all
from studio.store.deleting import erase_files
from studio.store.errors import StoreDamaged, StoreError
from studio.store.files import require_whole, set_aside, write_atomically
from studio.store.rows import Adapter, Export, Image
from studio.store.shapes import IMPORTED
from studio.store.snapshots import database_complaints

ADAPTER_FILES = ((ADAPTER_FILE, "sha256"), (ADAPTER_CONFIG_FILE, "config_sha256"))
JOURNALS = ("-journal", "-wal", "-shm")


@dataclass(frozen=True)
class FileReport:
    """The result of checking the files of a home; damaged and orphaned ones were set aside."""

    looked_at: int
    without_checksum: int
    missing: list[str]
    damaged: list[str]
    orphaned: list[str]


def examine_files(store: Database) -> FileReport:
    """Compare every file of the home with its row; nothing else may use the home meanwhile."""
    looked_at, without = 0, 0
    missing: list[str] = []
    damaged: list[str] = []
    for path, expected in _expected_files(store):
        shown = str(path.relative_to(store.home))
        looked_at += 1
        without += not expected
        try:
            require_whole(path, expected)
            if not path.is_file():
                missing.append(shown)
        except FileNotFoundError:
            missing.append(shown)
        except (OSError, StoreDamaged):
            damaged.append(shown)
            set_aside(store.home, path)
    orphaned = set_orphans_aside(store)
    for folder in ("imports", "snapshots"):
        for draft in (store.home / folder).glob(f"{TEMPORARY_PREFIX}*"):
            set_aside(store.home, draft)
            orphaned.append(draft)
    return FileReport(
        looked_at, without, missing, damaged, [str(one.relative_to(store.home)) for one in orphaned]
    )


def _expected_files(store: Database) -> list[tuple[Path, str]]:
    """Every file that a row of a live session names, with its checksum, or "" if unknown."""
    found: list[tuple[Path, str]] = []
    with store.reading() as connection:

        def rows(kind: type, table: sa.Table) -> list[Any]:
            live = sa.select(schema.sessions.c.id).where(schema.sessions.c.deleted_at_s.is_(None))
            query = sa.select(table).where(table.c.session_id.in_(live)).order_by(table.c.seq)
            found = connection.execute(query)
            return read_all(connection, found, lambda row: read(kind, row, table))

        images, adapters, exports = (
            rows(Image, schema.images),
            rows(Adapter, schema.adapters),
            rows(Export, schema.exports),
        )
    for image in images:
        if image.erased_at_s is not None:
            continue
        found.append((store.image_path(image), image.picture_sha256))
        if image.purpose == "pair":
            found.append((store.trajectory_path(image), image.trajectory_sha256))
    for adapter in adapters:
        folder = store.adapter_path(adapter)
        found += [(folder / name, getattr(adapter, kept)) for name, kept in ADAPTER_FILES]
    for export in exports:
        folder = store.export_path(export.session_id, export.id)
        found += [(folder / name, "") for name in export.files]
    return found


def set_orphans_aside(store: Database) -> list[Path]:
    """Move files that no row names to `home/aside`, and the folders of deleted sessions.

    The worker calls it when it starts. Only an import may write files at that time, and it moves
    them into place within the transaction of its rows. Files of erased pictures, which a crash
    left behind, are removed. Returns the paths that were moved.
    """
    with store.writing(counts=False) as connection:
        live = set(
            connection.scalars(
                sa.select(schema.sessions.c.id).where(schema.sessions.c.deleted_at_s.is_(None))
            )
        )
        named = {
            id_
            for table in (schema.images, schema.adapters, schema.exports, schema.rounds)
            for id_ in connection.scalars(sa.select(table.c.id))
        }
        erased = sa.select(schema.images).where(schema.images.c.erased_at_s.is_not(None))
        gone = {image.id: image for image in _images(connection, erased)}
        moved: list[Path] = []
        for session in _entries(store.home / "sessions"):
            if session.name not in live:
                candidates = [session]
            else:
                inside = [entry for folder in _entries(session) for entry in _entries(folder)]
                for entry in inside:
                    if entry.stem in gone:
                        erase_files(store, gone[entry.stem])
                candidates = [
                    entry
                    for entry in inside
                    if entry.name.startswith(TEMPORARY_PREFIX) or entry.stem not in named
                ]
            for path in candidates:
                set_aside(store.home, path)
                moved.append(path)
    return moved


def _images(connection: sa.Connection, query: sa.Select[Any]) -> list[Image]:
    found = connection.execute(query)
    return read_all(connection, found, lambda row: read(Image, row, schema.images))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def restore(home: Path, snapshot: Path) -> int:
    """Replace the database by a snapshot, and keep the old one in `home/aside`.

    Rows of the old database that the snapshot lacks and that can be read are carried over; returns
    their number. Nothing else may use the home. Raises `StoreError` if the snapshot is damaged.
    """
    if not snapshot.is_file():
        raise StoreError(f"There is no snapshot at {snapshot}.")
    if complaints := database_complaints(snapshot):
        raise StoreError(f"{snapshot} is damaged itself ({complaints[0]}): choose another one.")
    database = home / "studio.sqlite"
    kept = home / "aside" / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{uuid.uuid4().hex[:8]}.sqlite"
    for ending in ("", *JOURNALS):
        old = Path(f"{database}{ending}")
        if old.exists():
            write_atomically(Path(f"{kept}{ending}"), partial(shutil.copy, old))
    carried = 0

    def put(draft: Path) -> None:
        nonlocal carried
        shutil.copy(snapshot, draft)
        if database.exists():
            carried = _carry_over(database, draft)
        # A journal of the old database must not be applied to the new one.
        for ending in JOURNALS:
            Path(f"{database}{ending}").unlink(missing_ok=True)

    write_atomically(database, put)
    return carried


def _carry_over(old: Path, new: Path) -> int:
    """Copy those rows from `old` that `new` lacks and that are valid; returns their number."""
    with (
        contextlib.closing(sqlite3.connect(old)) as source,
        contextlib.closing(sqlite3.connect(new, isolation_level=None)) as target,
    ):
        source.text_factory = bytes  # damaged text may be no UTF-8
        target.execute("BEGIN")
        carried = 0
        for table in schema.metadata.tables.values():
            # The snapshot may be from before the last migration; what both know is carried over.
            names = sorted(_columns(source, table.name) & _columns(target, table.name))
            if not names:
                continue
            columns = ", ".join(f'"{name}"' for name in names)
            marks = ", ".join("?" for _ in names)
            for found in _readable_rows(source, f"SELECT {columns} FROM {table.name}"):
                try:
                    values = [v.decode() if isinstance(v, bytes) else v for v in found]
                    row = dict(zip(names, values, strict=True))
                    checked_row(table, row, stored=True)
                except (StoreError, UnicodeDecodeError):
                    continue
                # Of single values, only the marks of imported sessions: they start no round.
                if table is schema.state and not row["name"].startswith(IMPORTED):
                    continue
                carried += target.execute(
                    f"INSERT OR IGNORE INTO {table.name} ({columns}) VALUES ({marks})", values
                ).rowcount
        while lost := target.execute("PRAGMA foreign_key_check").fetchall():
            for table_name, rowid, *_ in lost:
                target.execute(f"DELETE FROM {table_name} WHERE rowid = ?", (rowid,))
                carried -= 1
        target.execute("COMMIT")
    return carried


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    try:
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    except sqlite3.DatabaseError:
        return set()
    return {name.decode() if isinstance(name, bytes) else name for name in found}


def _readable_rows(source: sqlite3.Connection, query: str) -> list[tuple]:
    """The rows before the first unreadable one, and those after the last."""
    found: dict[tuple, None] = {}
    for order in ("", " ORDER BY rowid DESC"):
        try:
            for row in source.execute(query + order):
                found[row] = None
        except sqlite3.DatabaseError:
            continue
    return list(found)
