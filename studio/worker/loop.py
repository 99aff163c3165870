"""The main loop: `Worker.run`, and `Worker.work` with the order of work."""

from __future__ import annotations

import logging
import threading
import time

from studio import models
from studio.engine.distributed import SINGLE_PROCESS, ProcessGroup, ProcessLost
from studio.store import (
    RowDamaged,
    Store,
    StoreError,
    StoreFull,
    set_orphans_aside,
    take_daily_snapshot,
)
from studio.worker.disk_space import require_disk_space
from studio.worker.downloads import Downloads
from studio.worker.folder_watch import FolderWatch
from studio.worker.jobs import Jobs
from studio.worker.own_art import OwnArt
from studio.worker.pair_queue import PairQueue
from studio.worker.renderer import Renderer
from studio.worker.rounds import Rounds
from studio.worker.status import StatusReporter

log = logging.getLogger("studio.worker")

IDLE_S = 0.15  # between two polls of the store's version
RETRY_S = 5.0  # before failed work is tried again, unless the store changes earlier
SNAPSHOT_CHECK_S = 600.0  # between two checks whether a new snapshot is due


class Worker:
    """Does the work of one store, piece by piece. A home has at most one worker at a time."""

    def __init__(
        self,
        store: Store,
        device: str | None = None,
        processes: ProcessGroup = SINGLE_PROCESS,
        stopping: threading.Event | None = None,
    ) -> None:
        device = device or models.best_device()
        self.store = store
        self.stopping = stopping or threading.Event()
        self.status = StatusReporter(store, device)
        self.renderer = Renderer(store, device, self.status)
        self.pair_queue = PairQueue(store, self.renderer, self.status, self.stopping, processes)
        self.rounds = Rounds(
            store, self.renderer, self.pair_queue, self.status, processes, self.stopping
        )
        self.jobs = Jobs(store, self.renderer, self.pair_queue, self.status, self.stopping)
        self.folder_watch = FolderWatch(store, self.renderer, self.status)
        self.own_art = OwnArt(store, self.renderer, self.status, self.stopping)
        self.downloads = Downloads(store, self.status, self.stopping)
        self._snapshot_due_s = 0.0

    def run(self) -> None:
        """Work until `stopping` is set, then save everything that the next worker needs."""
        try:
            for path in set_orphans_aside(self.store):
                log.warning("Set aside, because no row names it: %s", path)
        except OSError:
            log.warning("Files that no row names could not be set aside", exc_info=True)
        beat = threading.Thread(
            target=self.status.beat, args=(self.stopping,), name="heartbeat", daemon=True
        )
        beat.start()
        while not self.stopping.is_set():
            version = self.store.version()
            try:
                self._require_room()
                self._keep_snapshot()
                if self.work():
                    continue
                self.status.report("idle", "Ready.")
            except ProcessLost:
                self.rounds.put_down()
                raise
            except Exception as error:
                self.status.report("error", self.status.sentence(error))
                version = self.store.version()  # without the worker's own report
            self._wait_for_news(version)
        self.rounds.put_down()
        self.downloads.leave()

    def _keep_snapshot(self) -> None:
        """Copy the database once a day. A failure is logged and does not stop the other work."""
        if time.monotonic() < self._snapshot_due_s:
            return
        self._snapshot_due_s = time.monotonic() + SNAPSHOT_CHECK_S
        try:
            take_daily_snapshot(self.store.home)
        except (OSError, StoreError):
            log.warning("No snapshot was taken", exc_info=True)

    def work(self) -> bool:
        """Do one piece of the most urgent work; False if there is none.

        A failing piece does not stop the others: its error is raised after all of them were tried.
        """
        failure: Exception | None = None
        for piece in (
            self.downloads.poll,
            self.jobs.run_next,
            self.rounds.go_on,
            self.rounds.begin,
            self.pair_queue.add_pair,
            self.pair_queue.draw_tuned_preview,
            self.pair_queue.draw_base_preview,
            self.folder_watch.read_next,
            self.own_art.draw_next,
        ):
            try:
                if piece():
                    return True
            except RowDamaged as error:  # work that does not need that row goes on
                failure = failure or error
            except (StoreError, ProcessLost):
                raise  # a full disk, for example, would stop all other work too
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return False

    def _wait_for_news(self, version: int) -> None:
        until_s = time.monotonic() + RETRY_S
        while not self.stopping.wait(IDLE_S):
            if self.store.version() != version or time.monotonic() > until_s:
                return

    def _require_room(self) -> None:
        try:
            require_disk_space(self.store.home)
        except StoreFull as error:
            self.rounds.say_why_it_waits(str(error))
            raise
