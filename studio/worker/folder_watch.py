"""A watched folder: its new pictures are read one by one while there is nothing else to do."""

from __future__ import annotations

import time
from pathlib import Path

from studio.paths import expanded
from studio.pictures.watched import Stat, WatchedFolder
from studio.store import Session, Store
from studio.worker.disk_space import require_disk_space
from studio.worker.folder_reading import FolderReader
from studio.worker.foreign_pictures import LeftOut
from studio.worker.renderer import Renderer
from studio.worker.status import StatusReporter

LOOK_EVERY_S = 4.0  # a file that is still written changes more often


class FolderWatch:
    """Watches the folder of the open session, if it is wished."""

    def __init__(self, store: Store, renderer: Renderer, status: StatusReporter) -> None:
        self.store, self.renderer, self.status = store, renderer, status
        self._watched: WatchedFolder | None = None
        self._watch: tuple[object, ...] = ()  # decides which files are new, and how they are read
        self._found: list[tuple[Path, Stat]] = []  # new files, to be read
        self._reader: FolderReader | None = None
        self._due_s = 0.0

    def read_next(self) -> bool:
        """Read a new picture, or look for new ones if that is due; False if there is none."""
        session_id = self.store.last_session_id()
        session = None if session_id is None else self.store.session(session_id)
        if session is None or not (session.settings.watch_folder and session.settings.folder):
            self._begin(())
            return False
        if (watch := self._watch_of(session)) != self._watch:
            self._begin(watch)
        if not self._found and time.monotonic() >= self._due_s:
            self._look(session)
        if not self._found:
            return False
        self._read_one(session)
        return True

    def _watch_of(self, session: Session) -> tuple[object, ...]:
        settings = session.settings
        # A reading by hand may have read the same files.
        read = self.store.jobs(session.id, "read_folder", limit=1)
        about = settings.folder, settings.base, settings.sampling
        return session.id, *about, *((job.id, job.finished_at_s) for job in read)

    def _begin(self, watch: tuple[object, ...]) -> None:
        """Watch another folder, or for another model or size, or none."""
        self._watch, self._watched, self._reader = watch, None, None
        self._found, self._due_s = [], 0.0

    def _look(self, session: Session) -> None:
        self._due_s = time.monotonic() + LOOK_EVERY_S
        try:
            if self._watched is None:
                seen = self.store.seen_files(session.id, session.settings.folder)
                known = {file.name: (file.bytes, file.mtime_ns) for file in seen}
                self._watched = WatchedFolder(expanded(session.settings.folder), known)
            self._found = self._watched.look()
        except (OSError, ValueError):  # a drive that is unplugged: it may come back
            self._found = []

    def _read_one(self, session: Session) -> None:
        assert self._watched is not None
        require_disk_space(self.store.home)
        if self._reader is None:
            self.status.report("starting", "Reading new pictures of the folder.")
            self._reader = FolderReader(self.renderer, self.store, session, session.settings.folder)
        path, stat = self._found.pop(0)
        try:
            self._reader.read(path, stat)
            self._watched.done(path, stat)
        except LeftOut:  # it is remembered why
            self._watched.refuse(path, stat)
        self._reader.remember()
        if not self._found:
            self._reader = None  # its pictures may change before the next ones come
