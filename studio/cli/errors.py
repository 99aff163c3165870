"""Console output of the commands, whose failures never end the work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterable

log = logging.getLogger("studio")


class CommandError(Exception):
    """A command cannot be carried out; the message is a sentence for the user."""


def let_no_print_fail() -> None:
    """Print characters that the console lacks, such as one with cp1252, as escapes.

    `say` handles a closed pipe, such as after `| head -1`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(*words: object, end: str = "\n", to_errors: bool = False) -> None:
    """Like `print`, but a failure is not raised: all further output is dropped."""
    stream = sys.stderr if to_errors else sys.stdout
    try:
        print(*words, end=end, file=stream, flush=True)
    except (OSError, ValueError):  # a closed pipe or stream, or a full disk
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def progress(line: str, last: bool = False) -> None:
    """A line that the next one overwrites in a terminal; elsewhere only the last is printed."""
    if sys.stdout.isatty():
        say(f"\r\x1b[K{line}", end="\n" if last else "")
    elif last:
        say(line)


def print_list(lines: Iterable[str], indent: str = "  ") -> None:
    for line in lines:
        say(f"{indent}{line}")
