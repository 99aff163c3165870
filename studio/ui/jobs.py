"""Jobs that a tab has asked the worker for."""

from __future__ import annotations

from typing import Any

from studio.messages import _, told
from studio.store import Store
from studio.store.rows import OPEN_JOB_STATES, Job
from studio.ui import words
from studio.ui.snapshot import StoreSnapshot


def is_open(job: Job | None) -> bool:
    """Whether there is a job and it is queued or running."""
    return job is not None and job.state in OPEN_JOB_STATES


def cancel_open(store: Store, session_id: str, kind: str) -> None:
    """Cancel every open job of this kind."""
    for job in store.jobs(session_id, kind=kind):
        if is_open(job):
            store.cancel_job(job.id)


def cancel_queued(store: Store, session_id: str, kind: str) -> None:
    """Cancel every job of this kind that has not started yet."""
    for job in store.jobs(session_id, kind=kind):
        if job.state == "queued":
            store.cancel_job(job.id)


def words_of(snapshot: StoreSnapshot, job: Job) -> str:
    """What is done for an open job now, or what it waits for, and how long that takes."""
    if job.state != "queued":
        return told(job.message) or _("Beginning")
    tone, line = snapshot.worker_line
    if tone == "idle":
        return _("Waiting for the painter")
    if tone != "busy":
        return line
    return _("Waiting for the painter: {line}", line=words.lowered(line))


def progress(snapshot: StoreSnapshot, job: Job | None) -> dict[str, Any] | None:
    """A job's state for the browser; while it is open, the message says what is done now."""
    if job is None:
        return None
    message = words_of(snapshot, job) if is_open(job) else told(job.message)
    return {"state": job.state, "progress": job.progress, "message": message}
