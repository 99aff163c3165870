"""A session as one file, to keep or to go on with on another machine.

An archive is a zip, version 3 of which holds

    session.json                      the rows, and of each file its size and SHA-256
    images/ID.png  display/ID.jpg  trajectories/ID.safetensors
    adapters/ID/...  exports/ID/...   the files, as they lie in the session's folder

`session.json` is {"format": "d3po-studio-session", "version": 3, "studio": VERSION, "tables":
{TABLE: [ROW, ...]}, "files": {NAME: {"bytes": N, "sha256": HEX}}}, a row being {COLUMN: VALUE} with
all columns but `place`, in the order of `place`. Checkpoints are left out: a round that was under
way begins anew, and comes to the same adapter. What was asked of the worker and is not done is left
out too. Version 2 is the same without the column `beside` of images, and version 1 without that and
the column `grid_id` of pairs.

An archive may come from anybody. So nothing in it is a path: every file is one that a row owns, and
is written under an id that is made here; rows are taken only if the studio could have written them
itself; and until all of it has been looked at, nothing is where the studio would find it.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import struct
import time
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from studio import __version__
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, free_bytes, move, remove, sha256
from studio.store import schema
from studio.store.checked import checked_row, odd_columns
from studio.store.database import set_value
from studio.store.errors import RowDamaged, StoreError, StoreFull
from studio.store.files import full_sentence, is_full, write_atomically
from studio.store.jobs import Jobs
from studio.store.rows import OPEN_JOB_STATES, Session
from studio.store.sessions import read_session
from studio.store.shapes import IMPORTED

FORMAT, VERSION = "d3po-studio-session", 3
READABLE_VERSIONS = (1, 2, 3)  # 1 knew no grids; neither knew what lies beside a model
ROWS_NAME = "session.json"
LARGEST_ROWS_BYTES = 64_000_000
LARGEST_RATIO = 200  # of a file to what it takes in the archive; pictures and weights hardly shrink
SPARE_BYTES = 100_000_000
CHUNK_BYTES = 1_000_000

TABLES = (
    schema.sessions,
    schema.rounds,
    schema.adapters,
    schema.images,
    schema.pairs,
    schema.picks,
    schema.metrics,
    schema.jobs,
    schema.exports,
    schema.exams,
    schema.exam_pairs,
    schema.exam_answers,
)
# Rows that belong to a session by way of another table's: how to get there.
OWNERS: dict[sa.Table, tuple[sa.Table, ...]] = {
    schema.picks: (schema.pairs,),
    schema.metrics: (schema.rounds,),
    schema.exam_pairs: (schema.exams,),
    schema.exam_answers: (schema.exam_pairs, schema.exams),
}
ADAPTER_FILES = (ADAPTER_FILE, ADAPTER_CONFIG_FILE)


class ArchiveError(StoreError):
    """An archive that cannot be taken; the message is a sentence."""


# --- out -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outgoing:
    """An archive that is about to be written.

    needed_bytes: about what it takes. missing: how many files that rows name are not there.
    parts: its content, from the first byte to the last; to be gone through once.
    """

    needed_bytes: int
    missing: int
    parts: Iterator[bytes]


def export_session(store: Jobs, session_id: str, path: Path) -> int:
    """Write a session into a new archive; returns how many files that rows name were missing.

    Raises `StoreError` when there is a file at `path` already, or it cannot be written, and
    `StoreFull` before anything is written when there is no room for it.
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


def outgoing_archive(store: Jobs, session_id: str) -> Outgoing:
    """A session as an archive, as it is now. Raises `StoreError` when there is no such session."""
    with store._reading() as connection:
        read_session(connection, session_id)
        tables = {table.name: _rows_of(connection, table, session_id) for table in TABLES}
    folder = store.session_path(session_id)
    owned = _owned_files(tables)
    names = [name for name in owned if (folder / name).is_file()]
    needed = [name for name in owned if not name.startswith("display/")]  # small pictures have none
    missing = len(set(needed) - set(names))
    sizes = {name: (folder / name).stat().st_size for name in names}
    return Outgoing(sum(sizes.values()), missing, _parts(folder, sizes, tables))


class _Pipe:
    """What is written into it is taken out of it, and nothing is kept."""

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
                for chunk in _chunks(source):
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
    order = [table.c.place] if "place" in table.c else list(table.primary_key)
    found = []
    for row in connection.execute(query.order_by(*order)):
        values = {
            name: value.to_dict() if hasattr(value, "to_dict") else value
            for name, value in row._mapping.items()
        }
        values |= {name: list(v) for name, v in values.items() if isinstance(v, tuple)}
        if odd := odd_columns(table, values, stored=False):  # nobody could take it in
            raise RowDamaged(table.name, str(values.get("id", "")), odd[0])
        values.pop("place", None)
        found.append(values)
    return found


def _owned_files(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The name of every file that the rows can own, below the session's folder."""
    names = []
    for image in tables["images"]:
        for folder, ending in (
            ("images", "png"),
            ("display", "jpg"),
            ("trajectories", "safetensors"),
        ):
            if folder != "trajectories" or image["purpose"] == "pair":
                names.append(f"{folder}/{image['id']}.{ending}")
    for adapter in tables["adapters"]:
        names += [f"adapters/{adapter['id']}/{name}" for name in ADAPTER_FILES]
    names += [f"exports/{one['id']}/{name}" for one in tables["exports"] for name in one["files"]]
    return names


# --- in ------------------------------------------------------------------------------------------


def import_session(store: Jobs, path: Path) -> Session:
    """Take a session from an archive, as a new session of its own.

    Raises `ArchiveError` with a sentence when there is anything wrong with it, or `StoreFull`;
    nothing of it is in the store then.
    """
    if not path.is_file():  # nor a device or a pipe, which would be read for ever
        raise ArchiveError(f"There is no archive at {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _import(store, archive)
    except StoreError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        RuntimeError,  # encrypted; NotImplementedError is one too
        RecursionError,
        MemoryError,
        AttributeError,
        TypeError,
    ) as error:
        if is_full(error):
            raise StoreFull(full_sentence(store.home)) from error
        raise ArchiveError(f"{path.name} is damaged, or no archive of a session.") from error
    except sa.exc.IntegrityError as error:
        raise ArchiveError(f"The rows of {path.name} contradict each other.") from error


def _import(store: Jobs, archive: zipfile.ZipFile) -> Session:
    entries = _entries(archive)
    document = _read_document(archive, entries.pop(ROWS_NAME, None))
    rows, names = _renamed(document["tables"])
    files = _files_to_take(document["files"], entries, names)
    needed = sum(entry.file_size for entry, _, _ in files)
    if needed + SPARE_BYTES > free_bytes(store.home):
        raise StoreFull(
            f"This session takes {needed // 1_000_000} MB, and so much is not free on the disk "
            f"that holds {store.home}. Make some room and try again; nothing was changed."
        )
    session_id = rows[0][1][0]["id"]
    waiting = store.home / "imports" / session_id

    def unpack(draft: Path) -> None:
        draft.mkdir()
        for entry, name, expected in files:
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("xb") as sink:
                _copy_checked(source, sink, entry, expected)

    write_atomically(waiting, unpack)
    try:
        with store._writing() as connection:
            # In one step as far as `set_orphans_aside` can see, which takes the same lock.
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            for table, values in rows:
                if values:
                    connection.execute(sa.insert(table), values)
            last_pick = connection.scalar(sa.select(sa.func.max(schema.picks.c.place))) or 0
            set_value(
                connection, f"{IMPORTED}{session_id}", last_pick
            )  # none of them begins a round
            move(waiting, store.session_path(session_id))
    except BaseException:
        # A disk that fails while it commits leaves open whether it has: the rows decide.
        if session_id not in {one.id for one in store.sessions()}:
            for place in (waiting, store.session_path(session_id)):
                remove(place)
            raise
    return store.session(session_id)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name, none of which can be taken for another."""
    found: dict[str, zipfile.ZipInfo] = {}
    alike: set[str] = set()
    for entry in archive.infolist():
        name = entry.filename
        if entry.is_dir():
            continue
        if not _is_plain(name):
            raise ArchiveError(f"The archive holds a file outside of itself: {name[:80]!r}.")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ArchiveError(f"The archive holds something that is no file: {name[:80]!r}.")
        if entry.file_size > LARGEST_RATIO * max(entry.compress_size, 1000):
            raise ArchiveError(f"The archive blows up when it is opened: {name[:80]!r}.")
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in alike:
            raise ArchiveError(f"The archive holds two files of one name: {name[:80]!r}.")
        alike.add(folded)
        found[name] = entry
    return found


def _is_plain(name: str) -> bool:
    """A relative path on every system: no drive, no way up, no backslash, nothing unprintable."""
    parts = name.split("/")
    return (
        all(part not in ("", ".", "..") and not part.endswith((".", " ")) for part in parts)
        and name.isprintable()
        and not re.search(r'[\\:*?"<>|]', name)
        and len(name.encode()) <= 255
    )


def _read_document(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> dict[str, Any]:
    if entry is None:
        raise ArchiveError("This is no archive of a session: it has no session.json.")
    if entry.file_size > LARGEST_ROWS_BYTES:
        raise ArchiveError("The archive's session.json is larger than a session can be.")
    with archive.open(entry) as file:
        text = file.read(LARGEST_ROWS_BYTES + 1)
    if len(text) > entry.file_size:
        raise ArchiveError("The archive is larger than it says.")
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArchiveError("This is no archive of a session.")
    if document.get("version") not in READABLE_VERSIONS:
        raise ArchiveError(
            f"The archive was written by another version of the studio (format "
            f"{str(document.get('version'))[:20]}; this one reads {VERSION}). Update the studio."
        )
    tables, files = document.get("tables"), document.get("files")
    if not isinstance(tables, dict) or not isinstance(files, dict):
        raise ArchiveError("The archive's session.json is not whole.")
    if set(tables) != {table.name for table in TABLES}:
        raise ArchiveError("The archive has other tables than it should.")
    if not all(isinstance(found, list) for found in tables.values()):
        raise ArchiveError("The archive's session.json is not whole.")
    if document["version"] == 1:
        for row in filter(lambda row: isinstance(row, dict), tables["pairs"]):
            row.setdefault("grid_id", None)
    if document["version"] < 3:
        for row in filter(lambda row: isinstance(row, dict), tables["images"]):
            row.setdefault("beside", {})
    return document


Names = dict[str, str]  # of a file: in the archive, and below the new session's folder


def _renamed(
    tables: dict[str, list[dict[str, Any]]],
) -> tuple[list[tuple[sa.Table, list[dict[str, Any]]]], Names]:
    """The rows, checked and under new ids, and where the files go that they own."""
    if len(tables["sessions"]) != 1:
        raise ArchiveError("An archive holds one session.")
    rows: list[tuple[sa.Table, list[dict[str, Any]]]] = []
    ids: dict[str, str] = {}
    for table in TABLES:
        found = tables[table.name]
        if "place" in table.c:
            found = [row | {"place": 1} if isinstance(row, dict) else row for row in found]
        checked = [checked_row(table, row) for row in found]
        for row in checked:
            row.pop("place", None)
            if "id" not in row:
                continue
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", row["id"]) or row["id"] in ids:
                raise ArchiveError(f"The archive has an id that cannot be: {row['id'][:80]!r}.")
            ids[row["id"]] = uuid.uuid4().hex
        rows.append((table, checked))
    for export in next(found for table, found in rows if table is schema.exports):
        for name in export["files"]:
            if "/" in name or not _is_plain(name):
                raise ArchiveError(f"The archive has an export of a strange name: {name[:80]!r}.")
    before = _owned_files(tables)
    for table, checked in rows:
        for row in checked:
            _rename_row(table, row, ids)
    return rows, dict(zip(before, _owned_files({t.name: found for t, found in rows}), strict=True))


def _rename_row(table: sa.Table, row: dict[str, Any], ids: dict[str, str]) -> None:
    session_id = next(iter(ids.values()))  # the first id of the first table
    for name, column in table.c.items():
        if name not in row or row[name] is None:
            continue
        if name == "session_id":
            row[name] = session_id
        elif name == "id" or column.foreign_keys:
            if row[name] not in ids:
                raise ArchiveError(f"A row of {table.name} refers to one that is not there.")
            row[name] = ids[row[name]]
        elif table is schema.rounds and name in ("train_pick_ids", "held_out_pick_ids"):
            row[name] = [ids.get(one, one) for one in row[name]]
    if table is schema.jobs:  # what the worker was asked, and what came of it, name pictures
        row |= {name: _replaced(row[name], ids) for name in ("payload", "result")}
        if row["state"] in OPEN_JOB_STATES:  # what an archive asks for is not done
            row |= {"state": "cancelled", "message": "Imported.", "finished_at_s": time.time()}
    elif table is schema.sessions:
        row["deleted_at_s"] = None
        row["updated_at_s"] = time.time()
    elif table is schema.rounds and row["state"] in ("running", "paused", "queued", "stopping"):
        # Nobody works on it here; and it must not begin by itself, on a machine it has never seen.
        row |= {"state": "paused", "updates_done": 0, "attempts": 0, "message": "Imported."}


def _replaced(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(one, ids) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, ids) for one in value]
    return ids.get(value, value) if isinstance(value, str) else value


def _files_to_take(
    listed: dict[str, Any], entries: dict[str, zipfile.ZipInfo], names: Names
) -> list[tuple[zipfile.ZipInfo, str, str]]:
    """(entry, where to, checksum) of every file; one that no row owns is refused."""
    if set(listed) != set(entries):
        odd = min(set(listed) ^ set(entries))
        raise ArchiveError(f"The archive and its list of files differ: {odd[:80]!r}.")
    found = []
    for name, entry in entries.items():
        if name not in names:
            raise ArchiveError(f"The archive holds a file of no picture or LoRA: {name[:80]!r}.")
        about = listed[name]
        if about["bytes"] != entry.file_size or not isinstance(about["sha256"], str):
            raise ArchiveError(f"A file in the archive has another size than it should: {name}.")
        found.append((entry, names[name], about["sha256"]))
    return found


def _copy_checked(
    source: IO[bytes], sink: IO[bytes], entry: zipfile.ZipInfo, expected: str
) -> None:
    """Never more than was announced, and exactly what was."""
    digest, left = hashlib.sha256(), entry.file_size
    for chunk in _chunks(source):
        left -= len(chunk)
        if left < 0:
            raise ArchiveError("The archive is larger than it says.")
        digest.update(chunk)
        sink.write(chunk)
    if digest.hexdigest() != expected:
        raise ArchiveError(f"A file in the archive is damaged: {entry.filename}.")


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk
