"""An archive into the store, as a new session."""

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
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from studio.files import free_bytes, move, remove
from studio.settings import SessionSettings
from studio.store import schema
from studio.store.archive.layout import (
    ADDED,
    FORMAT,
    READABLE_VERSIONS,
    ROWS_NAME,
    SPARE_BYTES,
    TABLES,
    VERSION,
    ArchiveError,
    chunks_of,
    is_plain,
    owned_files,
)
from studio.store.checked import checked_row, stored_columns
from studio.store.database import Database, set_value
from studio.store.errors import StoreError, StoreFull
from studio.store.files import full_sentence, is_full, write_atomically
from studio.store.rows import OPEN_JOB_STATES, OPEN_ROUND_STATES, Session
from studio.store.sessions import read_session
from studio.store.shapes import IMPORTED
from studio.store.waiting import retire_answered

LISTED_IDS = ("train_pick_ids", "held_out_pick_ids", "favourite_ids")  # columns of rounds
LARGEST_ROWS_BYTES = 64_000_000
LARGEST_RATIO = 200  # of a file to what it takes in the archive; pictures and weights hardly shrink


def import_session(store: Database, path: Path) -> Session:
    """Add the session of an archive to the store, as a new session.

    Raises `ArchiveError` if anything is wrong with the archive, or `StoreFull`; the store is then
    as it was before.
    """
    if not path.is_file():  # a device or a pipe might never end
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
        raise ArchiveError(f"{path.name} is damaged, or is not an archive of a session.") from error
    except sa.exc.IntegrityError as error:
        raise ArchiveError(f"The rows of {path.name} contradict each other.") from error


def _import(store: Database, archive: zipfile.ZipFile) -> Session:
    entries = _entries(archive)
    document = _read_document(archive, entries.pop(ROWS_NAME, None))
    rows, names = _renamed(document["tables"])
    files = _files_to_take(document["files"], entries, names)
    needed = sum(entry.file_size for entry, _, _ in files)
    if needed + SPARE_BYTES > free_bytes(store.home):
        raise StoreFull(
            f"This session takes {needed // 1_000_000} MB, and the disk that holds {store.home} "
            "has less room. Make some room and try again; nothing was changed."
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
        with store.writing() as connection:
            # Rows and files in one transaction: `set_orphans_aside` takes the same lock.
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            for table, values in rows:
                if values:
                    keys = {name: column.key for name, column in stored_columns(table).items()}
                    by_key = [{keys[name]: row[name] for name in row} for row in values]
                    connection.execute(sa.insert(table), by_key)
            retire_answered(connection, session_id)
            last_pick = connection.scalar(sa.select(sa.func.max(schema.picks.c.seq))) or 0
            set_value(connection, f"{IMPORTED}{session_id}", last_pick)  # they start no round
            move(waiting, store.session_path(session_id))
    except BaseException:
        # After a disk error during the commit, only the rows tell whether it took place.
        with store.reading() as connection:
            added = sa.select(schema.sessions.c.id).where(schema.sessions.c.id == session_id)
            is_added = connection.scalar(added) is not None
        if not is_added:
            for folder in (waiting, store.session_path(session_id)):
                remove(folder)
            raise
    with store.reading() as connection:
        return read_session(connection, session_id)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name; no two names are equal on any system."""
    found: dict[str, zipfile.ZipInfo] = {}
    alike: set[str] = set()
    for entry in archive.infolist():
        name = entry.filename
        if entry.is_dir():
            continue
        if not is_plain(name):
            raise ArchiveError(f"The archive holds a file outside of itself: {name[:80]!r}.")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ArchiveError(f"The archive holds something other than a file: {name[:80]!r}.")
        if entry.file_size > LARGEST_RATIO * max(entry.compress_size, 1000):
            raise ArchiveError(f"The archive grows too much when unpacked: {name[:80]!r}.")
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in alike:
            raise ArchiveError(f"The archive holds two files of one name: {name[:80]!r}.")
        alike.add(folded)
        found[name] = entry
    return found


def _read_document(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> dict[str, Any]:
    if entry is None:
        raise ArchiveError("This is not an archive of a session: session.json is missing.")
    if entry.file_size > LARGEST_ROWS_BYTES:
        raise ArchiveError("The archive's session.json is larger than a session can be.")
    with archive.open(entry) as file:
        text = file.read(LARGEST_ROWS_BYTES + 1)
    if len(text) > entry.file_size:
        raise ArchiveError("The archive is larger than it states.")
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArchiveError("This is not an archive of a session.")
    if document.get("version") not in READABLE_VERSIONS:
        raise ArchiveError(
            f"The archive was written by another version of the studio (format "
            f"{str(document.get('version'))[:20]}; this one reads {VERSION}). Update the studio."
        )
    tables, files = document.get("tables"), document.get("files")
    if not isinstance(tables, dict) or not isinstance(files, dict):
        raise ArchiveError("The archive's session.json is incomplete.")
    if set(tables) != {table.name for table in TABLES}:
        raise ArchiveError("The archive has other tables than it should.")
    if not all(isinstance(found, list) for found in tables.values()):
        raise ArchiveError("The archive's session.json is incomplete.")
    for last, table, column, value in ADDED:
        for row in tables[table] if document["version"] <= last else ():
            if isinstance(row, dict):
                row.setdefault(column, value)
    return document


Names = dict[str, str]  # of a file: in the archive, and below the new session's folder


def _renamed(
    tables: dict[str, list[dict[str, Any]]],
) -> tuple[list[tuple[sa.Table, list[dict[str, Any]]]], Names]:
    """The rows, checked and with new ids, and the new names of the files that they own."""
    if len(tables["sessions"]) != 1:
        raise ArchiveError("An archive holds one session.")
    rows: list[tuple[sa.Table, list[dict[str, Any]]]] = []
    ids: dict[str, str] = {}
    for table in TABLES:
        found = tables[table.name]
        if "seq" in table.c:  # stored as "place"; an archive leaves it out
            found = [row | {"place": 1} if isinstance(row, dict) else row for row in found]
        checked = [checked_row(table, row) for row in found]
        for row in checked:
            row.pop("place", None)
            if "id" not in row:
                continue
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", row["id"]) or row["id"] in ids:
                raise ArchiveError(f"The archive has an invalid id: {row['id'][:80]!r}.")
            ids[row["id"]] = uuid.uuid4().hex
        rows.append((table, checked))
    for export in next(found for table, found in rows if table is schema.exports):
        for name in export["files"]:
            if "/" in name or not is_plain(name):
                raise ArchiveError(f"An export in the archive has an invalid name: {name[:80]!r}.")
    before = owned_files(tables)
    for table, checked in rows:
        for row in checked:
            _rename_row(table, row, ids)
    return rows, dict(zip(before, owned_files({t.name: found for t, found in rows}), strict=True))


def _rename_row(table: sa.Table, row: dict[str, Any], ids: dict[str, str]) -> None:
    session_id = next(iter(ids.values()))  # the first id of the first table
    for name, column in stored_columns(table).items():
        if name not in row or row[name] is None:
            continue
        if name == "session_id":
            row[name] = session_id
        elif name == "id" or column.foreign_keys:
            if row[name] not in ids:
                raise ArchiveError(f"A row of {table.name} refers to one that is not there.")
            row[name] = ids[row[name]]
        elif table is schema.rounds and name in LISTED_IDS:
            row[name] = [ids.get(one, one) for one in row[name]]
    if table is schema.jobs:  # their payloads and results contain ids
        row |= {name: _replaced(row[name], ids) for name in ("payload", "result")}
        if row["state"] in OPEN_JOB_STATES:  # an archive starts nothing
            row |= {"state": "cancelled", "message": "Imported.", "finished_at_s": time.time()}
    elif table is schema.exams and row["mix"] is not None:
        parts = [_without_network_path(part) for part in _replaced(row["mix"]["parts"], ids)]
        row["mix"] = {**row["mix"], "parts": parts}
    elif table is schema.sessions:
        row["deleted_at_s"] = None
        row["updated_at_s"] = time.time()
        row["settings"] = _without_network_paths(row["settings"])
    elif table is schema.rounds and row["state"] in OPEN_ROUND_STATES:
        # It must not start by itself, on a machine that it has never run on.
        row |= {"state": "paused", "updates_done": 0, "attempts": 0, "message": "Imported."}


def _without_network_paths(settings: SessionSettings) -> SessionSettings:
    """Settings whose model, LoRA and folder lie on no other machine: of a path the name is left.

    Merely looking for a file of a Windows share sends the artist's credentials to its server. So
    the model counts as missing until the artist chooses it.
    """
    start = settings.start
    if start is not None and _is_network_path(start.path):
        start = replace(start, path=_last_name(start.path))
    base_model = settings.base_model
    if _is_network_path(base_model):
        base_model = _last_name(base_model)
    # A folder of another machine is none that the artist wants watched on this one.
    return replace(settings, base_model=base_model, start=start, folder="", watch_folder=False)


def _without_network_path(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a mix of which no file of another machine is looked for: see above."""
    path = part.get("path")
    return part | {"path": _last_name(path)} if path and _is_network_path(path) else part


def _is_network_path(path: str) -> bool:
    """A path that begins like \\\\server\\share, //server/share or smb://server/share."""
    path = path.strip().replace("\\", "/")
    return path.startswith("//") or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) is not None


def _last_name(path: str) -> str:
    names = [name for name in re.split(r"[/\\]", path.strip()) if name.strip()]
    return names[-1] if names else "missing"


def _replaced(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(one, ids) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, ids) for one in value]
    return ids.get(value, value) if isinstance(value, str) else value


def _files_to_take(
    listed: dict[str, Any], entries: dict[str, zipfile.ZipInfo], names: Names
) -> list[tuple[zipfile.ZipInfo, str, str]]:
    """(entry, target, checksum) of every file; a file that no row owns is an error."""
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
    """Copy a file; raise as soon as it differs from its announced size or checksum."""
    digest, left = hashlib.sha256(), entry.file_size
    for chunk in chunks_of(source):
        left -= len(chunk)
        if left < 0:
            raise ArchiveError("The archive is larger than it states.")
        digest.update(chunk)
        sink.write(chunk)
    if digest.hexdigest() != expected:
        raise ArchiveError(f"A file in the archive is damaged: {entry.filename}.")
