"""Folders, shown in the system's own way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def show_folder(path: Path) -> bool:
    """Open a folder in the system's file manager; False when there is none."""
    command = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    try:
        process = subprocess.Popen(
            [command, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return False
    try:
        # A file manager that stays open has worked; explorer's exit status says nothing.
        return process.wait(timeout=2) == 0 or command == "explorer"
    except subprocess.TimeoutExpired:
        return True
