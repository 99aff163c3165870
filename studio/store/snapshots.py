"""Copies of the database in `home/snapshots`: one a day, and one before each migration."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from studio.store.errors import StoreDamaged, StoreError
from studio.store.files import write_atomically

DAILY_KEPT = 10  # snapshots from before a migration are kept for ever
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Snapshot:
    """A copy of the database at a time."""

    path: Path
    taken_at_s: float
    picks: int


def take_snapshot(home: Path, name: str = "", must_be_sound: bool = True) -> Path:
    """Copy the database, which may be in use. Raises `StoreDamaged` if the copy is damaged and
    must be sound, and `StoreFull` or `StoreError` if it cannot be written; no copy is kept then.
    """
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    path = home / "snapshots" / f"{stamp}{name and f'-{name}'}.sqlite"

    def copy(draft: Path) -> None:
        try:
            with (
                contextlib.closing(sqlite3.connect(home / "studio.sqlite")) as source,
                contextlib.closing(sqlite3.connect(draft)) as target,
            ):
                source.backup(target)
            complaints = database_complaints(draft) if must_be_sound else []
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise OSError(28, "No space left on device") from error
            raise StoreError(f"No copy of the database could be made: {error}.") from error
        if complaints:
            raise StoreDamaged(f"{home / 'studio.sqlite'} is damaged: {complaints[0]}")

    write_atomically(path, copy)
    return path


def take_daily_snapshot(home: Path) -> Path | None:
    """Take a snapshot if the last one is a day old, and delete the oldest ones; else None."""
    daily = sorted(_daily(home), key=lambda path: path.stat().st_mtime)
    # A clock that was set back must not stop them.
    if daily and abs(time.time() - daily[-1].stat().st_mtime) < DAY_S:
        return None
    made = take_snapshot(home)
    for path in daily[: max(0, len(daily) + 1 - DAILY_KEPT)]:
        path.unlink(missing_ok=True)
    return made


def snapshots(home: Path) -> list[Snapshot]:
    """The undamaged snapshots, the newest first."""
    found = []
    for path in (home / "snapshots").glob("*.sqlite"):
        if path.name.startswith(".") or database_complaints(path):
            continue
        with contextlib.closing(sqlite3.connect(path)) as connection:
            try:
                [picks] = connection.execute("SELECT count(*) FROM picks").fetchone()
            except sqlite3.DatabaseError:  # another program's file
                continue
        found.append(Snapshot(path, path.stat().st_mtime, picks))
    return sorted(found, key=lambda one: one.taken_at_s, reverse=True)


def database_complaints(path: Path, most: int = 20) -> list[str]:
    """SQLite's complaints about a database, and its dangling references; empty if it is sound."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = [row[0] for row in connection.execute(f"PRAGMA integrity_check({most})")]
            found = [] if found == ["ok"] else found
            for table, _, target, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(
                most - len(found) or 1
            ):
                found.append(f"a row of {table} refers to one of {target} that is not there")
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return found


# Tables whose rows never change, except for the columns named.
KEPT_FOR_EVER: dict[str, set[str]] = {
    "images": {"favourite", "deleted_at_s", "erased_at_s"},
    "pairs": {"stale_at_s"},
    "picks": set(),
    "adapters": set(),
    "exports": set(),
}


def differing_rows(database: Path, snapshot: Path) -> list[str]:
    """Rows of a snapshot that the database lacks, or that differ there.

    SQLite has no checksums: only a comparison reveals a changed letter in a row.
    """
    found = []
    contents = []
    for path in (database, snapshot):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.text_factory = bytes
            connection.row_factory = sqlite3.Row
            try:
                contents.append(
                    {
                        table: {row["place"]: dict(row) for row in connection.execute(query)}
                        for table in KEPT_FOR_EVER
                        for query in [f"SELECT * FROM {table}"]
                    }
                )
            except sqlite3.DatabaseError as error:
                return [str(error)]
    now, then = contents
    for table, may_change in KEPT_FOR_EVER.items():
        for place, row in then[table].items():
            names = set(row) - may_change
            here = now[table].get(place, {})
            if any(name not in here or here[name] != row[name] for name in names):
                found.append(f"{table}: row {place} is not what it was in {snapshot.name}")
    return found


def _daily(home: Path) -> list[Path]:
    return [
        path
        for path in (home / "snapshots").glob("*.sqlite")
        if "-before-" not in path.name and not path.name.startswith(".")
    ]
