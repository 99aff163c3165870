"""Where details go that are no use to an artist: `home/logs`, one file a process, never growing."""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LARGEST_BYTES = 1_000_000
KEPT_FILES = 3


def log_path(home: Path, process: str) -> Path:
    return home / "logs" / f"{process}.log"


def set_up(home: Path, process: str) -> None:
    """Write all that is logged in this process ("web" or "worker") to its file.

    Where none can be written, as in a home that may only be read, nothing is logged: what the
    process is there for may be possible all the same, and else it says so itself.
    """
    path = log_path(home, process)
    handler: logging.Handler = logging.NullHandler()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            path, maxBytes=LARGEST_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.raiseExceptions = False  # a full disk must not stop what is only being logged
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
