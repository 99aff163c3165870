"""A pick of another program, and the limits on its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from studio.settings import Choice, Reason

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LARGEST_PICTURE_BYTES = 200_000_000
LARGEST_JSON_BYTES = 64_000_000
MOST_CHARACTERS = 200  # of the name of a judge


class ExchangeError(Exception):
    """Picks that cannot be read or written; the message is a sentence."""


@dataclass(frozen=True)
class ForeignPick:
    """A pick of another program: two encoded pictures and the choice between them."""

    prompt: str
    left: bytes
    right: bytes
    choice: Choice
    much_better: bool = False
    reason: Reason | None = None
    judge: str | None = None  # the function that picked, if it was no artist
    name: str = ""  # by which the artist knows it
    problem: str = ""  # why it cannot be used, if its reader knows
    remark: str = ""  # for the artist, about a pick that can be used


def judge_name(value: object) -> str | None:
    """The name of a judge in a file of anybody's, cut to a reasonable length."""
    return value[:MOST_CHARACTERS] if isinstance(value, str) and value else None


def picture_content(path: Path) -> bytes:
    """The content of a picture file; b"" if it cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_PICTURE_BYTES:
            return b""  # a pipe, say, might never end
        return path.read_bytes()
    except OSError:
        return b""
