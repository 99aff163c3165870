"""Files of the home: written before their rows, and checked by their checksums."""

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

    Raises `StoreFull` if the disk is full, even if a library has hidden that error behind its own,
    and `StoreError` if `path` cannot be written.
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
    """Raise `StoreDamaged` if the file's checksum is not `expected`; "" accepts any file.

    Raises OSError if it cannot be read.
    """
    if expected and files.sha256(path) != expected:
        raise StoreDamaged(f"{path} is damaged: it has changed since it was written.")


def write_sealed(path: Path, content: bytes) -> None:
    """Write `content` after its own checksum, for a file without a row."""
    write_atomically(
        path, lambda draft: draft.write_bytes(hashlib.sha256(content).digest() + content)
    )


def read_sealed(path: Path) -> bytes:
    """Read the content of a file by `write_sealed`. Raises `StoreDamaged` if it has changed."""
    sealed = path.read_bytes()
    size = hashlib.sha256().digest_size
    seal, content = sealed[:size], sealed[size:]
    if hashlib.sha256(content).digest() != seal:
        raise StoreDamaged(f"{path} is damaged: it has changed since it was written.")
    return content


def is_full(error: BaseException) -> bool:
    """Whether a full disk caused `error`."""
    return isinstance(error, StoreFull) or files.is_full(error)


def full_sentence(path: Path) -> str:
    """The message that the disk with `path` is full."""
    return (
        f"The disk that holds {path} is full. Make some room and go on: "
        "everything up to here is kept."
    )


def set_aside(home: Path, path: Path) -> None:
    """Move a file or folder of the home to `home/aside`, under the same name in it."""
    target = home / "aside" / path.relative_to(home)
    if target.exists():
        target = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
