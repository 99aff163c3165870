"""`train`, `export` and `sessions`: work on a session without a browser."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.cli.arguments import FORMATS
from studio.cli.errors import CommandError, progress, say
from studio.cli.home import find_session, open_store, wait_for_worker
from studio.durations import with_time_left
from studio.settings import SessionSettings, TrainingSettings
from studio.store import Adapter, Session, Store, export_session, import_session
from studio.store.rows import CHECK_PICTURE, OPEN_JOB_STATES, OPEN_ROUND_STATES, Job, Round


def train(arguments: argparse.Namespace) -> int:
    """Train one round and wait for it; a running studio on the same home does the work itself."""
    with open_store(arguments) as store:
        session = find_session(store, arguments.session)
        _change_training(store, session, arguments.set)
        round_id = store.resume_round(store.request_round(session.id).id).id

        def poll() -> Round | None:
            round_ = store.round(round_id)
            status = store.worker_status()
            at = status and status.round
            words = with_time_left(at.step, at.left_s) if at else "getting ready"
            progress(f"Round {round_.number}: {words}")
            return None if round_.state in OPEN_ROUND_STATES else round_

        round_ = wait_for_worker(store.home, poll)
        progress(f"Round {round_.number}: {round_.message}", last=True)
    return 0 if round_.state == "done" else 1


def export(arguments: argparse.Namespace) -> int:
    """Export an adapter as LoRA files, checked by reading them back."""
    with open_store(arguments) as store:
        session = find_session(store, arguments.session)
        adapter = _adapter(store, session, arguments.adapter)
        payload = {
            "adapter_id": adapter.id,
            "name": arguments.name or session.name,
            "notes": arguments.notes,
            "trigger": arguments.trigger,
            "strength": arguments.strength,
            "author": arguments.author,
            "licence": arguments.licence,
            "formats": arguments.format or list(FORMATS),
            "precision": arguments.precision,
            "workflows": arguments.workflows,
        }
        job_id = store.add_job(session.id, "export", payload).id

        def poll() -> Job | None:
            job = store.job(job_id)
            return None if job.state in OPEN_JOB_STATES else job

        job = wait_for_worker(store.home, poll)
        if job.state != "done":
            raise CommandError(job.message)
        exported = next(
            each for each in store.exports(session.id) if each.id == job.result["export_id"]
        )
        offered = tuple(name for name in exported.files if not name.endswith(CHECK_PICTURE))
        _copy_new(store.export_path(session.id, exported.id), offered, arguments.out)
        for what, finding in exported.checks.items():
            say(f"{what}: {finding}")
    return 0


def sessions(arguments: argparse.Namespace) -> int:
    """List sessions, or export or import one as an archive: see `studio.store.archive`."""
    with open_store(arguments) as store:
        if arguments.action == "export":
            session = find_session(store, arguments.session)
            missing = export_session(store, session.id, arguments.out.absolute())
            say(arguments.out)
            if missing:
                say(f"{missing} missing files could not be included.", to_errors=True)
        elif arguments.action == "import":
            session = import_session(store, arguments.archive)
            say(f"{session.id}  {session.name}")
        else:
            for session in store.sessions():
                say(f"{session.id}  {session.name}")
    return 0


def _change_training(store: Store, session: Session, changes: list[str]) -> None:
    """Save changes, each NAME=VALUE, of how a session learns. Raises SettingsError."""
    values = {name: _value(text) for name, _, text in (each.partition("=") for each in changes)}
    if values.get("beside"):
        other = find_session(store, str(values["beside"]))
        values["beside"] = _adapter(store, other, None).id

    def changed(settings: SessionSettings) -> SessionSettings:
        training = TrainingSettings.from_dict(settings.training.to_dict() | values)
        return replace(settings, training=training)

    if values:
        store.change_settings(session.id, changed)


def _value(text: str) -> Any:
    """A number, true, false or null, and else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _adapter(store: Store, session: Session, wanted: str | None) -> Adapter:
    adapters = store.adapters(session.id)
    if not adapters:
        raise CommandError(f"{session.name} has no adapter yet: train a round first.")
    wanted = wanted or session.current_adapter_id or adapters[-1].id
    for adapter in adapters:
        if wanted in (adapter.id, str(adapter.number)):
            return adapter
    numbers = ", ".join(str(adapter.number) for adapter in adapters)
    raise CommandError(f"{session.name} has no adapter {wanted}; it has {numbers}.")


def _copy_new(folder: Path, names: tuple[str, ...], out: Path) -> None:
    """Copy files to a folder; never overwrites."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (out / name).exists():
            raise CommandError(f"{out} already has a file {name}: choose another --name.")
    for name in names:
        say(shutil.copy(folder / name, out / name))
