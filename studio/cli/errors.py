"""What the commands say: sentences on the console, which never end the work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterable

log = logging.getLogger("studio")


class CommandError(Exception):
    """A command that cannot be carried out; the message is a sentence for whoever typed it."""


def let_no_print_fail() -> None:
    """A console may lack letters, as those of cp1252 do: they are written as their numbers then.

    Where nobody reads any more, as after `| head -1`, the work still goes on: see `say`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(*words: object, end: str = "\n", to_errors: bool = False) -> None:
    """`print`, which never ends the work: from the first failure on, nothing is said."""
    stream = sys.stderr if to_errors else sys.stdout
    try:
        print(*words, end=end, file=stream, flush=True)
    except (OSError, ValueError):  # the reader is gone, the disk behind it full, or it is closed
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def progress(line: str, last: bool = False) -> None:
    """One line that is written over in a terminal; elsewhere only the last one is of use."""
    if sys.stdout.isatty():
        say(f"\r\x1b[K{line}", end="\n" if last else "")
    elif last:
        say(line)


def print_list(lines: Iterable[str], indent: str = "  ") -> None:
    for line in lines:
        say(f"{indent}{line}")
