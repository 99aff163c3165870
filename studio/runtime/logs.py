"""Log files with details for developers: `home/logs`, one file per process, of limited size."""

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
    """Write the log of this process ("web", "worker" or "command") to its file.

    If the file cannot be written, as in a read-only home, log nothing: the process may still be
    able to do its work.
    """
    path = log_path(home, process)
    handler: logging.Handler = logging.NullHandler()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            path, maxBytes=LARGEST_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.raiseExceptions = False  # a failing log, on a full disk, must not stop the work
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
