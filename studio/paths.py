"""Paths and names of models as people write, paste and drag them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

QUOTES = (
    ('"', '"'),
    ("'", "'"),
    ("`", "`"),
    ("“", "”"),
    ("„", "“"),
    ("„", "”"),
    ("”", "”"),
    ("‘", "’"),
    ("‚", "‘"),
    ("«", "»"),
    ("»", "«"),
    ("‹", "›"),
    ("「", "」"),
)
APOSTROPHES = ("'\\''", "'\"'\"'")  # how shells write one inside single quotes
WINDOWS = re.compile(r"([A-Za-z]):[\\/](.*)", re.DOTALL)
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


def typed(text: str) -> str:
    """The path or the hub's name that somebody means: without the quotes of a file manager or a
    word processor, from an address of the hub or of a file, and without a shell's backslashes. A
    path of Windows is found from its Linux (WSL).

    A path that is there as it was written is never changed.
    """
    text = text.strip()
    while (bare := _unquoted(text)) != text and not _is_there(text):
        text = bare
    scheme, _, _ = text.partition("://")
    if scheme.lower() in ("http", "https"):
        return _hub_name(text) or text
    if text.lower().startswith("file:"):
        return _path_of(text)
    is_share = text.startswith("\\\\")  # `\\server\share`
    if os.name == "nt" or "\\" not in text or is_share or _is_there(text):
        return text
    if match := WINDOWS.fullmatch(text):
        return _mounted(*match.groups()) or text
    return re.sub(r"\\(.)", r"\1", text)  # `my\ model`, as a terminal writes it


def expanded(path: str | Path) -> Path:
    """With the home of a user in the place of `~` or `~name`; as it is where nobody has the name"""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _unquoted(text: str) -> str:
    for first, last in QUOTES:
        if len(text) >= 2 and text.startswith(first) and text.endswith(last):
            bare = text[1:-1].strip()
            for apostrophe in APOSTROPHES if first == "'" else ():
                bare = bare.replace(apostrophe, "'")
            return bare
    return text


def _mounted(drive: str, rest: str) -> str | None:
    """Where Windows' `C:\\models` is inside its Linux (WSL); None where there is no such drive."""
    root = Path("/mnt") / drive.lower()
    return str(root / rest.replace("\\", "/")) if root.is_dir() else None


def _hub_name(address: str) -> str | None:
    """`owner/name` of an address such as https://huggingface.co/owner/name/tree/main."""
    try:
        parts = urlsplit(address)
        words = [word for word in unquote(parts.path).split("/") if word]
        is_hub = parts.hostname in HUB_HOSTS
    except ValueError:
        return None
    if not is_hub or len(words) < 2 or words[0] in ("datasets", "spaces"):
        return None
    return "/".join(words[:2])


def _path_of(address: str) -> str:
    """Of `file:///home/me/a%20b`; of one on another computer the address itself."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if parts.netloc not in ("", "localhost"):
        return address
    return url2pathname(parts.path)


def _is_there(text: str) -> bool:
    try:
        return expanded(text).exists()
    except (OSError, ValueError):
        return False
