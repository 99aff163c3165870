"""Text files of artists: captions, lists, styles, in whatever encoding their editor wrote them.

UTF-8 is tried first, and UTF-16 and 32 by the mark at their start. What is left has no mark and can
only be guessed: where most letters are plain ones it is Windows' Western encoding, else the one
that charset-normalizer finds.
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
GUESSED_BYTES = 20_000  # from the start of a file: enough to tell
MARKS = (  # of UTF-32 first, whose mark begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "cp1252"
OTHERS = ["cp1250", "cp1251", "cp1253", "shift_jis", "gb18030", "big5", "euc_kr"]
PLAIN = ("utf-8", "utf-8-sig", "utf-16", "utf-32")  # of which there is no doubt

log = logging.getLogger("studio.prompting.text_files")


@dataclass(frozen=True)
class Text:
    """What a file says, and the encoding (Python's name of it) that it was read in."""

    text: str
    encoding: str

    @property
    def is_guess(self) -> bool:
        return self.encoding not in PLAIN


def read(path: Path, most_bytes: int = MOST_BYTES) -> Text:
    """A text file. Raises OSError; ValueError for what is no text, or longer than `most_bytes`."""
    if not path.is_file():
        raise OSError(f"{path.name} is not a file that can be read")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"{path.name} is longer than {most_bytes:,} bytes")
    found = decoded(content)
    if found.is_guess:
        log.warning("%s is not UTF-8; it was read as %s", path.name, found.encoding)
    return found


def decoded(content: bytes) -> Text:
    """Raises ValueError for what is no text."""
    encoding = _encoding(content)
    text = content.decode(encoding)
    if "\0" in text:
        raise ValueError("it is no text")
    return Text(text, encoding)


def _encoding(content: bytes) -> str:
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    if content.count(0) * 4 >= len(content) > 0:  # UTF-16 without its mark: half of it is zeros
        return "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
    start = content[:GUESSED_BYTES]
    is_western = 3 * sum(byte >= 0x80 for byte in start) <= len(start)
    for encoding in ("utf-8", *([WESTERN] if is_western else [])):
        with contextlib.suppress(UnicodeDecodeError):
            content.decode(encoding)
            return encoding
    found = from_bytes(start, cp_isolation=OTHERS).best()
    if found is None:
        raise ValueError("its encoding is not known: save it as UTF-8")
    return found.encoding


def encoding_of(path: Path) -> str:
    """In which a file is read; looked at again only when it has changed. Raises as `read` does."""
    status = path.stat()
    return _seen(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1000)
def _seen(path: Path, _size_bytes: int, _mtime_ns: int) -> str:
    return read(path).encoding
