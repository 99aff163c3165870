"""Disk space: work begins only if its result can be stored."""

from __future__ import annotations

from pathlib import Path

from studio.files import free_bytes
from studio.store import StoreFull

RESERVE_MB = 100  # with less free space no work begins, so that the work at hand can be stored


def require_disk_space(home: Path, needed_bytes: int = 0) -> None:
    """Raise StoreFull unless `needed_bytes` can be written with the reserve left over."""
    free_mb = free_bytes(home) // 1_000_000
    needed_mb = RESERVE_MB + needed_bytes // 1_000_000
    if free_mb < needed_mb:
        raise StoreFull(
            f"The disk that holds {home} is nearly full: {free_mb} MB are free, and "
            f"{needed_mb} MB are needed. Work goes on by itself as soon as there is room."
        )
