"""A complete studio, served for a benchmark."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("a red apple", "a lion", "a sailboat", "a teapot")
PATIENCE_S = 600.0

Result = TypeVar("Result")


class BenchError(Exception):
    """The measurement cannot be made; the message says why."""


def start(home: Path, *options: str) -> tuple[subprocess.Popen, str]:
    """A studio that has just opened, and its address."""
    command = [sys.executable, "-u", "-m", "studio", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser", *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if "open at" in line:
            return process, line.split()[-1]
    process.wait()
    raise BenchError("The studio did not start. Its output:\n" + "".join(lines))


@contextmanager
def studio(home: Path) -> Iterator[str]:
    """Run a complete studio with its worker; gives its address."""
    process, url = start(home)
    try:
        yield url
    finally:
        process.terminate()
        process.wait()


def wait_for(poll: Callable[[], Result | None], what: str) -> Result:
    """Poll until there is a result."""
    until_s = time.monotonic() + PATIENCE_S
    while (result := poll()) is None:
        if time.monotonic() > until_s:
            raise BenchError(f"Waited {PATIENCE_S:.0f} s in vain for {what}.")
        time.sleep(0.2)
    return result
