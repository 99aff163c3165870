"""Files of the home: on the disk before any row names them, checked by their checksums."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from studio import files
from studio.store.errors import StoreDamaged, StoreError, StoreFull


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """As `studio.files.write_atomically`, with the store's errors.

    Raises `StoreFull` when the disk is full, whatever the library that was writing made of it, and
    `StoreError` when the place cannot be written to.
    """
    try:
        files.write_atomically(path, writer)
    except BaseException as error:
        if is_full(error):
            raise StoreFull(full_sentence(path.parent)) from error
        if isinstance(error, OSError):
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
        raise


def require_whole(path: Path, expected: str) -> None:
    """Raise `StoreDamaged` when the file's checksum is not `expected`; "" is not known, and passes.

    Raises OSError when it cannot be read.
    """
    if expected and files.sha256(path) != expected:
        raise StoreDamaged(f"{path} is damaged: it is not what was written.")


def write_sealed(path: Path, content: bytes) -> None:
    """For a file that no row describes: write `content` behind its own checksum."""
    write_atomically(
        path, lambda draft: draft.write_bytes(hashlib.sha256(content).digest() + content)
    )


def read_sealed(path: Path) -> bytes:
    """What `write_sealed` wrote. Raises `StoreDamaged` when it is anything else."""
    sealed = path.read_bytes()
    size = hashlib.sha256().digest_size
    seal, content = sealed[:size], sealed[size:]
    if hashlib.sha256(content).digest() != seal:
        raise StoreDamaged(f"{path} is damaged: it is not what was written.")
    return content


def is_full(error: BaseException) -> bool:
    """Whether `error` comes from a full disk."""
    return isinstance(error, StoreFull) or files.is_full(error)


def full_sentence(place: Path) -> str:
    """What the artist is told when the disk that holds `place` is full."""
    return (
        f"The disk that holds {place} is full. Make some room and go on: "
        "everything up to here is kept."
    )


def set_aside(home: Path, path: Path) -> None:
    """Move a file or folder of the home to `home/aside`, under the same name in it."""
    target = home / "aside" / path.relative_to(home)
    if target.exists():
        target = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
