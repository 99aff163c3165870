"""Atomic writing of files, checksums, and free space on the disk.

Every stored file goes through `publish`: its content is on the disk before it gets its name, and
the name is on the disk before anything relies on it. A power cut between any two steps leaves
either the old file or the new one, complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

TEMPORARY_PREFIX = ".writing-"

# An adapter in peft's format: the weights, and a file with rank, alpha and layers.
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Have `writer` write a file or a folder to a temporary path beside `path`, then publish it.

    Makes the folder of `path`. Any exception, also of `writer`, leaves nothing behind.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        publish((temporary, path))
    except BaseException:
        remove(temporary)
        raise


def publish(*moves: tuple[Path, Path]) -> None:
    """Give finished drafts, files or folders, their final names: (draft, path) each, on one disk.

    All drafts are on the disk before the first gets its name. An existing file is replaced in one
    step. Raises OSError.
    """
    for draft, _ in moves:
        for path in (*draft.rglob("*"), draft):
            _sync(path)
    for draft, path in moves:
        os.replace(draft, path)
    for folder in dict.fromkeys(path.parent for _, path in moves):
        _sync(folder)


def move(path: Path, target: Path) -> None:
    """Move a file or folder; afterwards both folders are on the disk. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    _sync(target.parent)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a draft, as far as the system allows."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Checksum of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written below `folder`. Raises OSError."""
    return shutil.disk_usage(folder).free


def is_full(error: BaseException) -> bool:
    """Whether `error` comes from a full disk; some libraries raise no OSError for it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
