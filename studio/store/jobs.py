"""Jobs for the worker, exports it made, and what it says of itself."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from studio.files import TEMPORARY_PREFIX
from studio.store.database import changed, first_readable, get_value, read, read_all, set_value
from studio.store.errors import StoreError
from studio.store.files import set_aside
from studio.store.rounds import Rounds
from studio.store.rows import (
    BESIDE_OTHERS,
    JOB_KINDS,
    OPEN_JOB_STATES,
    Export,
    Job,
    JobKind,
    WorkerStatus,
)
from studio.store.schema import adapters, exports, images, jobs, rounds, sessions
from studio.store.sending import send, tool_folder
from studio.store.sessions import read_session

MOST_ATTEMPTS = 2  # times a job is begun, before it is given up as one that kills the worker

_beside_others = jobs.c.kind.in_(BESIDE_OTHERS)
_open = jobs.c.state.in_(OPEN_JOB_STATES)


class Jobs(Rounds):
    """What the web process asks of the worker, and what it hears back."""

    def add_job(self, session_id: str, kind: JobKind, payload: dict[str, Any]) -> Job:
        """Ask the worker to do something."""
        if kind not in JOB_KINDS:
            raise StoreError(f"A job is one of {', '.join(JOB_KINDS)}.")
        with self._writing() as connection:
            read_session(connection, session_id)
            return insert_job(connection, session_id, kind, payload)

    def claim_job(self) -> Job | None:
        """Take the oldest queued job, which is then running."""
        query = sa.select(jobs).where(jobs.c.state == "queued", ~_beside_others)
        with self._writing() as connection:
            # One that is damaged waits for the doctor, and the others do not wait for it.
            queued = connection.execute(query.order_by(jobs.c.place)).all()
            job = first_readable(connection, queued, lambda row: read(Job, row, jobs))
            if job is None:
                return None
            begun = {"state": "running", "message": "", "attempts": jobs.c.attempts + 1}
            return _update_job(connection, job.id, **begun)

    def update_job(self, job_id: str, **fields: Any) -> Job:
        """Change state, progress, message or result. A finished job does not change any more."""
        fields = changed(fields, frozenset({"state", "progress", "message", "result"}))
        with self._writing() as connection:
            return _update_job(connection, job_id, **fields)

    def cancel_job(self, job_id: str) -> Job:
        """Ask for a job to be left; the worker looks between two pictures."""
        return self.update_job(job_id, state="cancelled", message="Cancelled.")

    def job(self, job_id: str) -> Job:
        """One job."""
        with self._reading() as connection:
            return _job(connection, job_id)

    def jobs(self, session_id: str, kind: JobKind | None = None, limit: int = 20) -> list[Job]:
        """Jobs of a session, the newest first."""
        query = sa.select(jobs).where(jobs.c.session_id == session_id)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        with self._reading() as connection:
            found = connection.execute(query.order_by(jobs.c.place.desc()).limit(limit))
            return read_all(connection, found, lambda row: read(Job, row, jobs))

    def open_downloads(self) -> list[Job]:
        """Models that are asked for and not there yet, the oldest first."""
        with self._reading() as connection:
            found = connection.execute(
                sa.select(jobs).where(_beside_others, _open).order_by(jobs.c.place)
            )
            return read_all(connection, found, lambda row: read(Job, row, jobs))

    def requeue_running(self) -> None:
        """Queue again what a worker that died was doing; give up what has killed it twice."""
        with self._writing() as connection:
            running = sa.select(jobs).where(jobs.c.state == "running", ~_beside_others)
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

    def add_export(self, export: Export) -> Export:
        """Keep an export whose files are already on the disk."""
        with self._writing() as connection:
            connection.execute(sa.insert(exports).values(vars(export)))
        return export

    def exports(self, session_id: str) -> list[Export]:
        """The exports of a session, the newest first."""
        with self._reading() as connection:
            found = connection.execute(
                sa.select(exports)
                .where(exports.c.session_id == session_id)
                .order_by(exports.c.place.desc())
            )
            return read_all(connection, found, lambda row: read(Export, row, exports))

    def export_path(self, session_id: str, export_id: str) -> Path:
        """The folder of an export's files."""
        return self.session_path(session_id) / "exports" / export_id

    def lora_folder(self) -> str:
        """Where another tool of the artist keeps its LoRAs; "" when none was named."""
        with self._reading() as connection:
            return get_value(connection, "lora_folder") or ""

    def set_lora_folder(self, written: str) -> None:
        """Remember it; raises StoreError with a sentence when there is no such folder."""
        folder = str(tool_folder(written)) if written.strip() else ""
        with self._writing() as connection:
            set_value(connection, "lora_folder", folder)

    def send_export(self, session_id: str, export_id: str) -> Path:
        """Copy an export into that folder, beside what is there; gives the path of the LoRA."""
        found = {one.id: one for one in self.exports(session_id)}
        if export_id not in found:
            raise StoreError("This export is not there any more.")
        names = (Path(file).stem for file in found[export_id].files if file.endswith(".json"))
        name = next(names, "")
        return send(self.export_path(session_id, export_id), name, tool_folder(self.lora_folder()))

    def set_worker_status(self, status: WorkerStatus) -> None:
        """Say what the worker does. A mere heartbeat leaves `version` as it was."""
        before = self.worker_status()
        same = before is not None and status == replace(
            before, heartbeat_at_s=status.heartbeat_at_s
        )
        with self._writing(counts=not same) as connection:
            set_value(connection, "worker", asdict(status))

    def worker_status(self) -> WorkerStatus | None:
        """What the worker last said of itself, or None when there never was one."""
        with self._reading() as connection:
            value = get_value(connection, "worker")
        return None if value is None else WorkerStatus(**value)

    def set_orphans_aside(self) -> list[Path]:
        """Move files that no row names to `home/aside`, and the folders of deleted sessions.

        For the worker, when it starts: nobody else writes files then, but for an import, which puts
        its files in place within the transaction of its rows. Returns what was moved.
        """
        with self._writing(counts=False) as connection:
            live = set(
                connection.scalars(
                    sa.select(sessions.c.id).where(sessions.c.deleted_at_s.is_(None))
                )
            )
            named = {
                id_
                for table in (images, adapters, exports, rounds)
                for id_ in connection.scalars(sa.select(table.c.id))
            }
            moved: list[Path] = []
            for session in _entries(self.home / "sessions"):
                if session.name not in live:
                    candidates = [session]
                else:
                    candidates = [
                        entry
                        for folder in _entries(session)
                        if folder.is_dir()
                        for entry in _entries(folder)
                        if entry.name.startswith(TEMPORARY_PREFIX) or entry.stem not in named
                    ]
                for path in candidates:
                    set_aside(self.home, path)
                    moved.append(path)
        return moved


def insert_job(
    connection: sa.Connection, session_id: str, kind: JobKind, payload: dict[str, Any]
) -> Job:
    """A job as a part of a larger transaction."""
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


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _job(connection: sa.Connection, job_id: str) -> Job:
    found = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).first()
    if found is None:
        raise StoreError("This job does not exist.")
    return read(Job, found, jobs)


def _update_job(connection: sa.Connection, job_id: str, **values: Any) -> Job:
    if values.get("state", "queued") not in OPEN_JOB_STATES:
        values["finished_at_s"] = time.time()
    if values.get("state") == "queued":
        values.setdefault("attempts", 0)  # it was left in good order
    if values:
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id, _open).values(**values))
    return _job(connection, job_id)
