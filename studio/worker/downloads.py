"""Downloads of models from the hub, beside the other work."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from studio import models
from studio.store import Job, Store, StoreError
from studio.worker.model_library import describe
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled

log = logging.getLogger("studio.worker")

REPORT_S = 0.5  # between two reports of progress, which also check for cancellation
LEAVE_S = 5.0


class Downloads:
    """One download at a time, in its own thread; resumes what an earlier worker left."""

    def __init__(self, store: Store, status: StatusReporter, stopping: threading.Event) -> None:
        self._store, self._status, self._stopping = store, status, stopping
        self._thread: threading.Thread | None = None

    def poll(self) -> bool:
        """Begin a waiting download unless one is under way; False, as it is no work to wait for."""
        if not self.is_running:
            waiting = self._store.open_downloads()
            if waiting:
                self._thread = threading.Thread(
                    target=self._download, args=(waiting[0],), name="download", daemon=True
                )
                self._thread.start()
        return False

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the download under way has ended, or the time is over."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def leave(self) -> None:
        """Wait for the thread to end, once `stopping` is set."""
        self.wait(LEAVE_S)

    def _download(self, job: Job) -> None:
        """{"repo"} → the description of the model; meanwhile the message shows the bytes."""
        try:
            begun = self._store.update_job(job.id, state="running", message="Asking the hub.")
            if begun.state != "running":
                return  # cancelled
            result = self._fetch(job, job.payload["repo"])
            self._store.update_job(
                job.id, state="done", progress=1.0, message="Done.", result=result
            )
        except Cancelled:
            log.info("The download of %s is cancelled", job.payload)
        except Exception as error:
            try:
                sentence = self._status.sentence(error)
                self._store.update_job(job.id, state="failed", message=sentence)
            except StoreError:
                log.warning("The failure of a download could not be recorded", exc_info=True)

    def _fetch(self, job: Job, repo: str) -> dict[str, Any]:
        reported_at_s = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal reported_at_s
            if self._stopping.is_set():
                raise Cancelled
            if time.monotonic() < reported_at_s + REPORT_S:
                return
            reported_at_s = time.monotonic()
            fields = {"progress": done / max(total, 1), "message": _gigabytes(done, total)}
            if self._store.update_job(job.id, **fields).state == "cancelled":
                raise Cancelled

        def inspect(folder: Path) -> None:
            models.inspect(str(folder), has_weights=False)

        models.hub.download(repo, progress, inspect)
        return describe(self._store, repo)


def _gigabytes(done: int, total: int) -> str:
    if total < 1e9:
        return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
