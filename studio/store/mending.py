"""Damaged rows: repaired where the right value is known, and set aside otherwise.

A snapshot of the database is taken first and kept for ever, so that nothing is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from studio.settings import SessionSettings, SettingsError
from studio.store import schema
from studio.store.checked import odd_columns
from studio.store.shapes import IMPORTED
from studio.store.snapshots import take_snapshot

Stored = dict[str, Any]  # a row as it is in the database


@dataclass(frozen=True)
class RowReport:
    """What was done to damaged rows; each is named by its table and its id."""

    looked_at: int
    mended: list[str]
    set_aside: list[str]
    kept_in: Path | None  # the snapshot from before; None if no row was damaged


def mend_rows(home: Path) -> RowReport:
    """Check every row of a readable database; nothing else may use the home meanwhile."""
    database = home / "studio.sqlite"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        # Text that is not UTF-8 is read too, and found to be damaged.
        connection.text_factory = lambda found: found.decode("utf-8", "surrogateescape")
        odd = {table: list(_odd_rows(connection, table)) for table in schema.metadata.sorted_tables}
        looked_at = sum(
            connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] for table in odd
        )
        if not any(odd.values()):
            return RowReport(looked_at, [], [], None)
        # as it is: a damaged key leaves references that dangle
        kept_in = take_snapshot(home, "before-mending", must_be_sound=False)
        mended, aside = [], []
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in odd.items():
            for rowid, row, columns in rows:
                if table is schema.picks:
                    _ask_again(connection, row)
                shown = f"{table.name}: {_name(table, row)} ({', '.join(columns)})"
                if _mend(connection, table, rowid, row, columns):
                    mended.append(shown)
                else:
                    connection.execute(f"DELETE FROM {table.name} WHERE rowid = ?", (rowid,))
                    aside.append(shown)
        aside += _without_dangling_rows(connection)
        connection.execute("COMMIT")
    take_snapshot(home, "mended")  # later checks compare rows with this one
    return RowReport(looked_at, mended, aside, kept_in)


def _odd_rows(
    connection: sqlite3.Connection, table: sa.Table
) -> list[tuple[int, Stored, list[str]]]:
    """(rowid, row, names of the damaged columns) of every damaged row."""
    columns = ", ".join(f'"{name}"' for name in _names(table))
    found = []
    for rowid, *values in connection.execute(f"SELECT rowid, {columns} FROM {table.name}"):
        row = dict(zip(_names(table), values, strict=True))
        if odd := odd_columns(table, row, stored=True):
            found.append((rowid, row, odd))
    return found


def _name(table: sa.Table, row: Stored) -> str:
    return " ".join(str(row[key])[:80] for key in (["id"] if "id" in row else _keys(table)))


def _names(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns]


def _keys(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key]


# --- mending -------------------------------------------------------------------------------------


def _mend(
    connection: sqlite3.Connection, table: sa.Table, rowid: int, row: Stored, odd: list[str]
) -> bool:
    """Repair the damaged columns; returns False if one of them cannot be repaired."""
    changes: Stored = {}
    for name in odd:
        neutral = NEUTRAL.get((table.name, name), NEUTRAL.get(("", name)))
        if neutral is None:
            return False
        changes[name] = neutral(connection, row)
    if odd_columns(table, row | changes, stored=True):
        return False
    assigned = ", ".join(f'"{name}" = ?' for name in changes)
    connection.execute(
        f"UPDATE {table.name} SET {assigned} WHERE rowid = ?", (*changes.values(), rowid)
    )
    return True


def _ask_again(connection: sqlite3.Connection, pick: Stored) -> None:
    """Put the pair of a damaged pick back into the queue."""
    connection.execute(
        "UPDATE pairs SET stale_at_s = NULL WHERE id = ?", (str(pick.get("pair_id")),)
    )


def _settings(_: sqlite3.Connection, row: Stored) -> str:
    """Those settings of a session that are valid; the others as in a new session."""
    try:
        written = json.loads(row["settings"])
    except (TypeError, ValueError, RecursionError):
        written = None
    return json.dumps(SessionSettings.from_dict(_usable(SessionSettings, written)).to_dict())


def _usable(kind: Any, written: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(kind)):
        if not isinstance(written, dict) or name not in written:
            continue
        nested = kind.nested.get(name)
        attempts = [written[name]] + ([_usable(nested, written[name])] if nested else [])
        for value in attempts:
            try:
                kind.from_dict({**found, name: value})
            except SettingsError:
                continue
            found[name] = value
            break
    return found


def _of_its_round(column: str) -> Callable[[sqlite3.Connection, Stored], Any]:
    """An adapter has the settings and the number of its round."""

    def find(connection: sqlite3.Connection, row: Stored) -> Any:
        query = f"SELECT {column} FROM rounds WHERE id = ?"
        found = connection.execute(query, (str(row["round_id"]),)).fetchone()
        return found and found[0]

    return find


def _of_its_adapter(connection: sqlite3.Connection, row: Stored) -> Any:
    """A round has the settings of the adapter that it made."""
    query = "SELECT settings FROM adapters WHERE round_id = ?"
    found = connection.execute(query, (str(row["id"]),)).fetchone()
    return found and found[0]


def _state(_: sqlite3.Connection, row: Stored) -> str:
    return "stopped" if row["adapter_id"] is None else "done"


def _import_mark(connection: sqlite3.Connection, row: Stored) -> Any:
    """The mark of an imported session: no pick up to now starts a round. None for other values."""
    if not str(row["name"]).startswith(IMPORTED):
        return None
    return connection.execute("SELECT coalesce(max(place), 0) FROM picks").fetchone()[0]


def _is(value: Any) -> Callable[[sqlite3.Connection, Stored], Any]:
    return lambda connection, row: value


def _now(_: sqlite3.Connection, row: Stored) -> float:
    return time.time()


# A neutral value for a damaged column, by table and name; "" stands for any table. Columns that are
# not listed have none: any other value would be false, so the row is set aside.
NEUTRAL: dict[tuple[str, str], Callable[[sqlite3.Connection, Stored], Any]] = {
    ("", "created_at_s"): _now,
    ("", "message"): _is(""),
    ("", "checks"): _is("{}"),
    ("", "attempts"): _is(0),
    ("", "started_at_s"): _is(None),
    ("", "finished_at_s"): _is(None),
    ("sessions", "name"): _is("Mended session"),
    ("sessions", "settings"): _settings,
    ("sessions", "current_adapter_id"): _is(None),
    ("sessions", "updated_at_s"): _now,
    ("sessions", "deleted_at_s"): _is(None),
    ("images", "favourite"): _is(0),
    ("images", "picture_sha256"): _is(""),
    ("images", "trajectory_sha256"): _is(""),
    ("images", "beside"): _is("{}"),
    ("images", "deleted_at_s"): _is(None),
    ("images", "erased_at_s"): _is(None),
    ("pairs", "note"): _is(""),
    ("pairs", "stale_at_s"): _now,
    ("picks", "choice"): _is(None),  # it is asked again
    ("picks", "much_better"): _is(0),
    ("picks", "reason"): _is(None),
    ("picks", "judge"): _is("unknown"),
    ("picks", "marks"): _is("{}"),
    ("rounds", "state"): _state,
    ("rounds", "settings"): _of_its_adapter,
    ("rounds", "train_pick_ids"): _is("[]"),
    ("rounds", "held_out_pick_ids"): _is("[]"),
    ("rounds", "favourite_ids"): _is("[]"),
    ("rounds", "updates_done"): _is(0),
    ("rounds", "updates_total"): _is(0),
    ("adapters", "number"): _of_its_round("number"),
    ("adapters", "settings"): _of_its_round("settings"),
    ("adapters", "picks"): _is(0),
    ("adapters", "sha256"): _is(""),
    ("adapters", "config_sha256"): _is(""),
    ("jobs", "progress"): _is(0.0),
    ("jobs", "result"): _is("{}"),
    ("exports", "name"): _is("Mended export"),
    ("exports", "files"): _is("[]"),
    ("exams", "left_at_s"): _now,
    ("state", "value"): _import_mark,
}

# References that may be empty. A row that has lost any other reference is set aside too.
OPTIONAL = {
    ("sessions", "current_adapter_id"),
    ("rounds", "adapter_id"),
    ("exam_pairs", "base_image_id"),
    ("exam_pairs", "tuned_image_id"),
}


def _without_dangling_rows(connection: sqlite3.Connection) -> list[str]:
    """Set aside rows that refer to missing rows, until none is left."""
    aside: list[str] = []
    while lost := connection.execute("PRAGMA foreign_key_check").fetchall():
        for table, rowid, _, number in lost:
            links = connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
            column = next(link[3] for link in links if link[0] == number)
            if (table, column) in OPTIONAL:
                connection.execute(
                    f'UPDATE {table} SET "{column}" = NULL WHERE rowid = ?', (rowid,)
                )
            elif connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,)).rowcount:
                aside.append(f"{table}: row {rowid} ({column} is gone)")
    return aside
