"""What an archive holds: its tables, its files and their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import sqlalchemy as sa

from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from studio.store import schema
from studio.store.errors import StoreError

FORMAT, VERSION = "d3po-studio-session", 8
READABLE_VERSIONS = (1, 2, 3, 4, 5, 6, 7, 8)
# What the rows of an older version lack: (the last such version, table, column, value).
ADDED: tuple[tuple[int, str, str, Any], ...] = (
    (1, "pairs", "grid_id", None),
    (2, "images", "beside", {}),
    (3, "rounds", "favourite_ids", []),
    (4, "picks", "judge", None),
    (5, "images", "deleted_at_s", None),
    (5, "images", "erased_at_s", None),
    (6, "picks", "marks", {}),
    (7, "exams", "mix", None),
)
ROWS_NAME = "session.json"
SPARE_BYTES = 100_000_000  # of the disk, which stay free
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
    """An archive that cannot be imported; the message is a sentence."""


def owned_files(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The names of all files that the rows can own, relative to the session's folder."""
    names = []
    for image in tables["images"]:
        if image["erased_at_s"] is not None:
            continue
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


def is_plain(name: str) -> bool:
    """Whether a name is a relative path on every system, inside the folder that it starts from."""
    parts = name.split("/")
    return (
        all(part not in ("", ".", "..") and not part.endswith((".", " ")) for part in parts)
        and name.isprintable()
        and not re.search(r'[\\:*?"<>|]', name)
        and len(name.encode()) <= 255
    )


def chunks_of(source: IO[bytes]) -> Iterator[bytes]:
    """The content of a file, a part at a time."""
    while chunk := source.read(CHUNK_BYTES):
        yield chunk
