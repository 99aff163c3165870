"""A report for requests for help: the last errors and the versions, without private data.

Warnings and errors in the log never contain prompts and names. The report also omits the messages
of exceptions, and everything that looks like a path or is in quotation marks.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from studio import __version__
from studio.files import free_bytes
from studio.runtime.logs import log_path

PROCESSES = ("web", "worker", "command")
PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "gradio", "sqlalchemy")
MOST_EVENTS = 20
READ_BYTES = 200_000  # of the end of each log
EVENT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (WARNING|ERROR|CRITICAL) (\S+): (.*)")
ANY_EVENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [A-Z]+ ")
FRAME = re.compile(r'  File "(.*)", line (\d+), in (\S+)')
EXCEPTION = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Failed|Warning|Full))\b")


def report(home: Path, device: str = "") -> str:
    """The report as text. `device`: of the worker, if known."""
    free_gb = free_bytes(home) / 1e9 if home.exists() else 0.0
    lines = [
        f"D3PO Studio {__version__}",
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        f"Device: {device or 'not known'}; {free_gb:.0f} GB free on the disk",
        "",
        "Last errors and warnings:",
    ]
    events = sorted(event for process in PROCESSES for event in _events(home, process))
    lines += [text for _, text in events[-MOST_EVENTS:]] or ["none in the logs"]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _events(home: Path, process: str) -> Iterator[tuple[str, str]]:
    """(time, text) of every warning and error of the studio at the end of a log."""
    try:
        with log_path(home, process).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - READ_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return
    when, text = "", ""
    for line in lines:
        if ANY_EVENT.match(line):
            if text:
                yield when, text
            when = text = ""
            event = EVENT.match(line)
            if event and event[3].partition(".")[0] == "studio":
                when = event[1]
                text = f"{when} {process} {event[2]} {event[3]}: {without_private(event[4])}"
        elif text and (frame := FRAME.match(line)):
            text += f"\n    {_short(frame[1])}:{frame[2]} {frame[3]}"
        elif text and (exception := EXCEPTION.match(line)):
            text += f"\n    {exception[1]}"
    if text:
        yield when, text


def without_private(message: str) -> str:
    """`message` up to its first path, without quoted texts."""
    message = re.sub(r"“[^”]*”?|\"[^\"]*\"?|'[^']*'", "“…”", message)
    slash = re.search(r"[\\/]", message)
    if slash is None:
        return message
    before = message[: slash.start()]
    return before[: len(before) - len(re.split(r"\s", before)[-1])] + "…"


def _short(path: str) -> str:
    """The path of a source file from its package on, without the folder of installation."""
    parts = re.split(r"[\\/]", path)
    for root in ("site-packages", "studio"):
        if root in parts:
            at = len(parts) - 1 - parts[::-1].index(root)
            return "/".join(parts[at + (root == "site-packages") :])
    return parts[-1]
