"""Jobs for the worker, and the status it reports."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from studio.store.database import (
    Database,
    changed,
    first_readable,
    get_value,
    read,
    read_all,
    set_value,
)
from studio.store.errors import StoreError
from studio.store.rows import (
    BACKGROUND_JOBS,
    JOB_KINDS,
    OPEN_JOB_STATES,
    Job,
    JobKind,
)
from studio.store.schema import jobs, rounds
from studio.store.sessions import read_session
from studio.store.status import RoundProgress, WorkerStatus

MOST_ATTEMPTS = 2  # a job that was started as often and never ended kills the worker

_in_background = jobs.c.kind.in_(BACKGROUND_JOBS)
_open = jobs.c.state.in_(OPEN_JOB_STATES)


class Jobs(Database):
    """Work that the web process requests from the worker."""

    def add_job(self, session_id: str, kind: JobKind, payload: dict[str, Any]) -> Job:
        """Add a job for the worker."""
        if kind not in JOB_KINDS:
            raise StoreError(f"A job is one of {', '.join(JOB_KINDS)}.")
        with self.writing() as connection:
            read_session(connection, session_id)
            return insert_job(connection, session_id, kind, payload)

    def claim_job(self) -> Job | None:
        """Start the oldest queued job, and return it."""
        query = sa.select(jobs).where(jobs.c.state == "queued", ~_in_background)
        with self.writing() as connection:
            # A damaged job waits for the doctor; the others go on.
            queued = connection.execute(query.order_by(jobs.c.seq)).all()
            job = first_readable(connection, queued, lambda row: read(Job, row, jobs))
            if job is None:
                return None
            begun = {"state": "running", "message": "", "attempts": jobs.c.attempts + 1}
            return _update_job(connection, job.id, **begun)

    def update_job(self, job_id: str, **fields: Any) -> Job:
        """Change state, progress, message or result. A finished job stays as it is."""
        fields = changed(fields, frozenset({"state", "progress", "message", "result"}))
        with self.writing() as connection:
            return _update_job(connection, job_id, **fields)

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job; the worker stops before its next picture."""
        return self.update_job(job_id, state="cancelled", message="Cancelled.")

    def job(self, job_id: str) -> Job:
        """One job."""
        with self.reading() as connection:
            return _job(connection, job_id)

    def jobs(self, session_id: str, kind: JobKind | None = None, limit: int = 20) -> list[Job]:
        """Jobs of a session, the newest first."""
        query = sa.select(jobs).where(jobs.c.session_id == session_id)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        with self.reading() as connection:
            found = connection.execute(query.order_by(jobs.c.seq.desc()).limit(limit))
            return read_all(connection, found, lambda row: read(Job, row, jobs))

    def open_downloads(self) -> list[Job]:
        """The open downloads of models, the oldest first."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(jobs).where(_in_background, _open).order_by(jobs.c.seq)
            )
            return read_all(connection, found, lambda row: read(Job, row, jobs))

    def requeue_running(self) -> None:
        """Queue the jobs of a worker that died; fail those that have killed it twice."""
        with self.writing() as connection:
            running = sa.select(jobs).where(jobs.c.state == "running", ~_in_background)
            for found in connection.execute(running).all():
                if not isinstance(found.attempts, int):
                    continue
                if found.attempts < MOST_ATTEMPTS:
                    _update_job(connection, found.id, state="queued", attempts=found.attempts)
                else:
                    _update_job(
                        connection,
                        found.id,
                        state="failed",
                        message=f"The worker stopped {MOST_ATTEMPTS} times while doing this.",
                    )

    def give_work_back(self) -> None:
        """Queue what a worker is in the middle of that is asked to end, as if never begun."""
        with self.writing() as connection:
            for table in (jobs, rounds):
                running = sa.update(table).where(table.c.state == "running")
                if table is jobs:
                    running = running.where(~_in_background)
                connection.execute(running.values(state="queued", attempts=0))

    def set_worker_status(self, status: WorkerStatus) -> None:
        """Set the worker's status. A mere heartbeat does not change `version`."""
        before = self.worker_status()
        same = before is not None and status == replace(
            before, heartbeat_at_s=status.heartbeat_at_s
        )
        with self.writing(counts=not same) as connection:
            set_value(connection, "worker", asdict(status))

    def worker_status(self) -> WorkerStatus | None:
        """The last status of the worker, or None if no worker has ever run."""
        with self.reading() as connection:
            value = get_value(connection, "worker")
        if value is None:
            return None
        round_ = value.get("round")
        return WorkerStatus(**value | {"round": round_ and RoundProgress(**round_)})

    def measured_seconds(self) -> dict[str, float]:
        """How long this machine takes for a unit of each kind of work, as it was measured."""
        with self.reading() as connection:
            return get_value(connection, "seconds") or {}

    def set_measured_seconds(self, seconds: dict[str, float]) -> None:
        """Keep them for the next worker. That does not change `version`."""
        with self.writing(counts=False) as connection:
            set_value(connection, "seconds", seconds)


def insert_job(
    connection: sa.Connection, session_id: str, kind: JobKind, payload: dict[str, Any]
) -> Job:
    """Add a job within a larger transaction."""
    job = Job(
        id=uuid.uuid4().hex,
        session_id=session_id,
        kind=kind,
        payload=payload,
        state="queued",
        progress=0.0,
        message="Waiting for the worker.",
        result={},
        created_at_s=time.time(),
        finished_at_s=None,
    )
    connection.execute(sa.insert(jobs).values(**vars(job), attempts=0))
    return job


def _job(connection: sa.Connection, job_id: str) -> Job:
    found = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).first()
    if found is None:
        raise StoreError("This job does not exist.")
    return read(Job, found, jobs)


def _update_job(connection: sa.Connection, job_id: str, **values: Any) -> Job:
    if values.get("state", "queued") not in OPEN_JOB_STATES:
        values["finished_at_s"] = time.time()
    if values.get("state") == "queued":
        values.setdefault("attempts", 0)  # the worker put it back, and did not die
    if values:
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id, _open).values(**values))
    return _job(connection, job_id)
