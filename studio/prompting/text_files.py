"""Text files of artists (captions, lists, styles) in any common encoding.

UTF-16 and UTF-32 are recognised by their byte order mark, and UTF-8 is tried next. Other encodings
can only be guessed: Windows' Western encoding if most bytes are ASCII, else the guess of
charset-normalizer.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from charset_normalizer import from_bytes

MOST_BYTES = 4_000_000
GUESSED_BYTES = 20_000  # from the start of a file: enough for a guess
MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "cp1252"
OTHERS = ["cp1250", "cp1251", "cp1253", "shift_jis", "gb18030", "big5", "euc_kr"]
PLAIN = ("utf-8", "utf-8-sig", "utf-16", "utf-32")  # recognised with certainty

log = logging.getLogger("studio.prompting.text_files")


@dataclass(frozen=True)
class Text:
    """The text of a file, and its encoding by Python's name."""

    text: str
    encoding: str

    @property
    def is_guess(self) -> bool:
        return self.encoding not in PLAIN


def read(path: Path, most_bytes: int = MOST_BYTES) -> Text:
    """Read a text file. Raises OSError, or ValueError if it is no text or too long."""
    if not path.is_file():
        raise OSError(f"{path.name} is not a file that can be read")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"{path.name} is longer than {most_bytes:,} bytes")
    text = decoded(content)
    if text.is_guess:
        log.warning("%s is not UTF-8; it was read as %s", path.name, text.encoding)
    return text


def decoded(content: bytes) -> Text:
    """Decode bytes. Raises ValueError if they are no text."""
    encoding = _encoding(content)
    text = content.decode(encoding)
    if "\0" in text:
        raise ValueError("it is no text")
    return Text(text, encoding)


def _encoding(content: bytes) -> str:
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    if content.count(0) * 4 >= len(content) > 0:  # UTF-16 without a mark is half zeros
        return "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
    start = content[:GUESSED_BYTES]
    is_western = 3 * sum(byte >= 0x80 for byte in start) <= len(start)
    for encoding in ("utf-8", *([WESTERN] if is_western else [])):
        with contextlib.suppress(UnicodeDecodeError):
            content.decode(encoding)
            return encoding
    guess = from_bytes(start, cp_isolation=OTHERS).best()
    if guess is None:
        raise ValueError("its encoding is not known: save it as UTF-8")
    return guess.encoding


def encoding_of(path: Path) -> str:
    """The encoding of a file, cached until the file changes. Raises like `read`."""
    status = path.stat()
    return _cached_encoding(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1000)
def _cached_encoding(path: Path, _size_bytes: int, _mtime_ns: int) -> str:
    return read(path).encoding
