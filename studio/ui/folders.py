"""Folders are shown in the system's file manager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def show_folder(path: Path) -> bool:
    """Open a folder; False if no file manager could be started."""
    command = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    try:
        process = subprocess.Popen(
            [command, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return False
    try:
        # explorer's exit status means nothing. A file manager that stays open has worked.
        return process.wait(timeout=2) == 0 or command == "explorer"
    except subprocess.TimeoutExpired:
        return True
