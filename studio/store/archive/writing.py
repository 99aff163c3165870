"""A session out of the store, into an archive."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from studio import __version__
from studio.files import free_bytes, sha256
from studio.store import schema
from studio.store.archive.layout import (
    FORMAT,
    OWNERS,
    ROWS_NAME,
    SPARE_BYTES,
    TABLES,
    VERSION,
    chunks_of,
    owned_files,
)
from studio.store.checked import odd_columns, stored_columns
from studio.store.database import Database
from studio.store.errors import RowDamaged, StoreError, StoreFull
from studio.store.files import write_atomically
from studio.store.rows import OPEN_JOB_STATES
from studio.store.sessions import read_session


@dataclass(frozen=True)
class Outgoing:
    """An archive that is about to be written.

    needed_bytes: its size without compression. missing: the number of files that rows name and the
    disk lacks. parts: its content, from the first byte to the last, to be iterated once.
    """

    needed_bytes: int
    missing: int
    parts: Iterator[bytes]


def export_session(store: Database, session_id: str, path: Path) -> int:
    """Write a session into a new archive; returns how many of its files are missing.

    Raises `StoreError` if `path` exists or cannot be written, and `StoreFull`, before anything is
    written, if the disk is too full.
    """
    if path.exists():
        raise StoreError(f"There is a file at {path} already: choose another name.")
    outgoing = outgoing_archive(store, session_id)
    folder = next((one for one in path.absolute().parents if one.exists()), path)
    free = free_bytes(folder)
    if outgoing.needed_bytes + SPARE_BYTES > free:
        raise StoreFull(
            f"The archive takes {outgoing.needed_bytes // 1_000_000} MB, and {folder} has room for "
            f"{free // 1_000_000} MB, of which {SPARE_BYTES // 1_000_000} are kept free. Make some "
            "room, or choose another disk."
        )

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            file.writelines(outgoing.parts)

    write_atomically(path, write)
    return outgoing.missing


def outgoing_archive(store: Database, session_id: str) -> Outgoing:
    """The archive of a session in its present state. Raises `StoreError` if it does not exist."""
    with store.reading() as connection:
        read_session(connection, session_id)
        tables = {table.name: _rows_of(connection, table, session_id) for table in TABLES}
    folder = store.session_path(session_id)
    owned = owned_files(tables)
    names = [name for name in owned if (folder / name).is_file()]
    needed = [name for name in owned if not name.startswith("display/")]  # small pictures have none
    missing = len(set(needed) - set(names))
    sizes = {name: (folder / name).stat().st_size for name in names}
    return Outgoing(sum(sizes.values()), missing, _parts(folder, sizes, tables))


class _Pipe:
    """A file that hands over its content and keeps none of it."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._written = bytes(self._written), bytearray()
        return taken


def _parts(
    folder: Path, sizes: dict[str, int], tables: dict[str, list[dict[str, Any]]]
) -> Iterator[bytes]:
    files = {name: {"bytes": size, "sha256": sha256(folder / name)} for name, size in sizes.items()}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "studio": __version__,
        "tables": tables,
        "files": files,
    }
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
        text = json.dumps(document, ensure_ascii=False)
        archive.writestr(ROWS_NAME, text, zipfile.ZIP_DEFLATED)
        for name in sizes:
            entry = zipfile.ZipInfo.from_file(folder / name, name)  # pictures do not shrink
            with archive.open(entry, "w") as sink, (folder / name).open("rb") as source:
                for chunk in chunks_of(source):
                    sink.write(chunk)
                    yield pipe.take()
            yield pipe.take()
    yield pipe.take()


def _rows_of(connection: sa.Connection, table: sa.Table, session_id: str) -> list[dict[str, Any]]:
    query = sa.select(table)
    if table is schema.sessions:
        query = query.where(table.c.id == session_id)
    elif table in OWNERS:
        joined: sa.FromClause = table
        for owner in OWNERS[table]:
            joined = joined.join(owner)
        query = query.select_from(joined).where(OWNERS[table][-1].c.session_id == session_id)
    else:
        query = query.where(table.c.session_id == session_id)
    if table is schema.jobs:
        query = query.where(table.c.state.not_in(OPEN_JOB_STATES))
    found = []
    for row in connection.execute(query.order_by(*table.primary_key)):  # `seq` in most tables
        values = {name: row._mapping[column] for name, column in stored_columns(table).items()}
        values |= {name: v.to_dict() for name, v in values.items() if hasattr(v, "to_dict")}
        values |= {name: list(v) for name, v in values.items() if isinstance(v, tuple)}
        if odd := odd_columns(table, values, stored=False):  # nobody could take it in
            raise RowDamaged(table.name, str(values.get("id", "")), odd[0])
        values.pop("place", None)
        found.append(values)
    return found
