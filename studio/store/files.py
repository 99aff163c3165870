"""Files of the home: written whole or not at all, and on the disk before any row names them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from studio.store.errors import StoreDamaged, StoreError, StoreFull

TEMPORARY_PREFIX = ".writing-"


def free_bytes(home: Path) -> int:
    """Bytes that can still be written below `home`."""
    return shutil.disk_usage(home).free


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Have `writer` write to a temporary path beside `path`, then put the result in its place.

    `writer` may make a file or a folder. Raises `StoreFull` when the disk is full, whatever the
    library that was writing made of it, `StoreError` when the place cannot be written to, and
    leaves nothing behind.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        for path_of_it in (*temporary.rglob("*"), temporary):
            _sync(path_of_it)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        remove(temporary)
        if is_full(error):
            raise StoreFull(full_sentence(path.parent)) from error
        if isinstance(error, OSError):
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
        raise


def sha256(path: Path) -> str:
    """The checksum of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_whole(path: Path, expected: str) -> None:
    """Raise `StoreDamaged` when the file's checksum is not `expected`; "" is not known, and passes.

    Raises OSError when it cannot be read.
    """
    if expected and sha256(path) != expected:
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
    """Whether `error` comes from a full disk; not every library raises an OSError then."""
    if isinstance(error, StoreFull):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def full_sentence(place: Path) -> str:
    """What the artist is told when the disk that holds `place` is full."""
    return (
        f"The disk that holds {place} is full. Make some room and go on: "
        "everything up to here is kept."
    )


def move(path: Path, target: Path) -> None:
    """Give a file or folder another place, which is on the disk before any row names it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    _sync(target.parent)
    _sync(path.parent)


def set_aside(home: Path, path: Path) -> None:
    """Move a file or folder of the home to `home/aside`, under the same name in it."""
    target = home / "aside" / path.relative_to(home)
    if target.exists():
        target = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Take away what was only a draft, as far as the system lets it."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
