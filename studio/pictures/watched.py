"""A folder that is looked into again and again: which picture files are new, and whole.

Only folders whose modification time has changed are listed, and only files that are new are asked
for their state, so that a look into ten thousand known pictures costs next to nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.pictures.folders import is_picture, is_plain

# A file system's clock may be as coarse: a folder that was changed just now may change unnoticed.
COARSE_NS = 3_000_000_000

Stat = tuple[int, int]  # bytes and modification time (ns) of a file


@dataclass(frozen=True)
class _Listed:
    """A folder as it was listed. is_settled: nothing can have changed at the same moment."""

    mtime_ns: int
    is_settled: bool
    folders: tuple[Path, ...]


class WatchedFolder:
    """known: the files that were read, by their names within the folder (`a/b.png`)."""

    def __init__(self, folder: Path, known: Mapping[str, Stat]) -> None:
        self.folder = folder.resolve()
        self._known = dict(known)
        self._listed: dict[Path, _Listed] = {}
        self._new: dict[Path, Stat | None] = {}  # not read yet, as they were at the last look
        self._refused: dict[Path, Stat] = {}  # of these, what could not be used

    def look(self) -> list[tuple[Path, Stat]]:
        """The new files that have not changed since the last look, the oldest first.

        A file that is still written has changed, and is asked again at the next look. So nothing is
        found by the first look. Raises OSError if the folder cannot be read.
        """
        os.scandir(self.folder).close()
        self._look_into(self.folder)
        whole: list[tuple[Path, Stat]] = []
        for path, before in list(self._new.items()):
            now = stat_of(path)
            if now is None:  # it was temporary
                del self._new[path]
                self._refused.pop(path, None)
            elif now == before and now[0] and self._refused.get(path) != now:
                whole.append((path, now))
            else:
                self._new[path] = now
        return sorted(whole, key=lambda one: (one[1][1], one[0]))

    def name(self, path: Path) -> str:
        """The name of a file within the folder, as it can be stored."""
        relative = path.relative_to(self.folder).as_posix()
        return relative.encode("utf-8", "replace").decode()  # it may hold lone surrogates

    def done(self, path: Path, stat: Stat) -> None:
        """A file was read: it is not found again."""
        self._known[self.name(path)] = stat
        self._new.pop(path, None)
        self._refused.pop(path, None)

    def refuse(self, path: Path, stat: Stat) -> None:
        """A file cannot be used: it is found again when it has changed, as one does whose copying
        stood still for a while."""
        self._refused[path] = stat

    def _look_into(self, folder: Path) -> None:
        try:
            mtime_ns = folder.stat().st_mtime_ns
            listed = self._listed.get(folder)
            if listed is None or not listed.is_settled or listed.mtime_ns != mtime_ns:
                listed = self._listed[folder] = self._list(folder, mtime_ns)
        except OSError:  # it is gone, or may not be read
            self._listed.pop(folder, None)
            return
        for inner in listed.folders:
            self._look_into(inner)

    def _list(self, folder: Path, mtime_ns: int) -> _Listed:
        is_settled = time.time_ns() - mtime_ns > COARSE_NS
        inner: list[Path] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if is_plain(path, self.folder):
                        inner.append(path)
                elif is_picture(path) and path not in self._new:
                    status = entry.stat(follow_symlinks=False)
                    found = status.st_size, status.st_mtime_ns
                    if self._known.get(self.name(path)) != found and is_plain(path, self.folder):
                        self._new[path] = None
        return _Listed(mtime_ns, is_settled, tuple(inner))


def stat_of(path: Path) -> Stat | None:
    """Of a file itself, not of what a link names; None if it is gone."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
