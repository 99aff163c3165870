"""Folders of pictures that other programs made: which files are read, and how."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".avif")
LARGEST_BYTES = 200_000_000  # of a file; a larger one is no picture that a model drew
HIDDEN = 2  # Windows' FILE_ATTRIBUTE_HIDDEN


def picture_paths(folder: Path) -> Iterator[Path]:
    """The picture files in a folder and in those inside it, in the order of their names.

    Hidden files and links are left alone, so that nothing outside the folder is ever read. A folder
    that may not be read is passed over. Raises OSError if `folder` itself cannot be read.
    """
    folder = folder.resolve()
    os.scandir(folder).close()
    for place, inner, names in os.walk(folder):  # it follows no links
        here = Path(place)
        inner[:] = sorted(name for name in inner if is_plain(here / name, folder))
        for name in sorted(names):
            path = here / name
            if is_picture(path) and is_plain(path, folder):
                yield path


def is_picture(path: Path) -> bool:
    """Whether its name is that of a picture."""
    return path.suffix.lower() in ENDINGS


def is_plain(path: Path, folder: Path) -> bool:
    """Whether it is a file or folder inside `folder`, and neither hidden nor a link."""
    try:
        found = path.lstat()
        is_inside = path.resolve().is_relative_to(folder)  # no junction of Windows, for example
    except OSError:
        return False
    is_hidden = path.name.startswith(".") or getattr(found, "st_file_attributes", 0) & HIDDEN
    is_kind = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return is_kind and is_inside and not is_hidden
