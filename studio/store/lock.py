"""One studio per home at a time, ensured by a lock of the operating system."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from studio.store.errors import StoreError, StoreLocked


class StudioLock:
    """Held by the process that serves `home`; the kernel releases it however that process ends.

    Use as a context manager, or call `acquire` and `release`.
    """

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        self._lock = FileLock(self.home / "studio.lock", thread_local=False)

    def acquire(self) -> Self:
        """Take the lock, or raise `StoreLocked` at once."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreLocked(
                f"Another D3PO Studio is already running on {self.home}. "
                "Use that one, or start this one with another --home."
            ) from None
        except OSError as error:
            raise StoreError(f"The folder {self.home} cannot be used: {error.strerror}.") from error
        return self

    def release(self) -> None:
        """Release the lock; harmless if it is not held."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
