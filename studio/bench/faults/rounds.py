"""The real worker, killed while it trains or exports: it must end in the same files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from studio.bench.faults.operations import Home, things
from studio.bench.faults.trial import Row
from studio.files import ADAPTER_FILE, sha256
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store, examine_files
from studio.worker import rounds as training_rounds
from studio.worker.__main__ import main as work
from studio.worker.loop import Worker
from studio.worker.pair_queue import READY_PAIRS

QUICK_STOPS, STOPS = 2, 100
LIMIT_S = 600.0
SAVED_EVERY_S = 0.2  # so that a round of seconds has as many checkpoints as one of minutes


def rows(
    homes: dict[str, Home],
    folder: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    goes_on = Row("the worker killed in a round that goes on")
    made_again = Row("the worker killed in an export that is made again")
    if not (wanted(goes_on.fault) or wanted(made_again.fault)):
        return
    home, session_id = _prepare(folder)
    usual = training_rounds.SLICE_S, training_rounds.CHECKPOINT_S
    # applies to the workers that are forked from here
    training_rounds.SLICE_S = training_rounds.CHECKPOINT_S = SAVED_EVERY_S
    stops = QUICK_STOPS if quick else STOPS
    try:
        if wanted(goes_on.fault):
            yield _killed(goes_on, home, folder, session_id, _adapter, stops)
        if wanted(made_again.fault):
            _work(home, folder / "learned", session_id, _adapter)
            with contextlib.closing(Store.open(folder / "learned")) as store:
                _request_export(store, session_id)
            yield _killed(made_again, folder / "learned", folder, session_id, _export, stops)
    finally:
        training_rounds.SLICE_S, training_rounds.CHECKPOINT_S = usual


def _killed(
    row: Row,
    home: Path,
    folder: Path,
    session_id: str,
    result_of: Callable[[Store, str], str | None],
    stops: int,
) -> Row:
    """Compare the results of a home's work, done without a break and killed at random moments."""
    started_s = time.monotonic()
    expected = _work(home, folder / "whole", session_id, result_of)
    whole_s = time.monotonic() - started_s
    dice = random.Random(0)
    for number in range(stops):
        after_s = dice.uniform(0, whole_s)
        try:
            result = _work(home, folder / "stopped", session_id, result_of, after_s)
        except TimeoutError:
            row.tried += 1
            row.hung += 1
            continue
        except KeyboardInterrupt:  # the slowest part: keep the trials so far
            break
        row.tried += 1
        if result != expected:
            row.torn += 1
            row.problems.append(f"stop {number}, after {after_s:.2f} s: {result}")
    return row


def _prepare(folder: Path) -> tuple[Path, str]:
    """A home with four picks on pictures of the starter model, and a requested round."""
    home = folder / "rounds"
    with contextlib.closing(Store.open(home)) as store:
        training = TrainingSettings(
            rank=2,
            updates_base=12,
            updates_per_pick=0,
            held_out_fraction=0,
            target_shift=0.05,  # small enough to pass collapse detection
            batch_pairs=1,
            micro_batch_pairs=1,
        )
        settings = SessionSettings(
            prompts=("a red apple",),
            sampling=SamplingSettings(steps=3),
            training=training,
            live=False,
        )
        session = store.create_session("Learning", settings)
        store.set_last_session(session.id)
        queue = Worker(store, "cpu").pair_queue
        while store.waiting_count(session.id) < 4 + READY_PAIRS:
            queue.add_pair()
        for number, pair in enumerate(store.waiting_pairs(session.id, 4)):
            store.add_answer(f"pick{number}", pair.id, "left" if number % 2 else "right")
        # so that the worker has nothing else to do
        store.update_settings(session.id, replace(settings, queue_target=1))
        store.request_round(session.id)
    return home, session.id


def _request_export(store: Store, session_id: str) -> None:
    [adapter] = store.adapters(session_id)
    payload = {
        "adapter_id": adapter.id,
        "name": "Blue",
        "formats": ["kohya", "diffusers"],
        "strength": 1.0,
    }
    store.add_job(session_id, "export", payload)


def _work(
    home: Path,
    copy: Path,
    session_id: str,
    result_of: Callable[[Store, str], str | None],
    killed_after_s: float | None = None,
) -> str:
    """The result of the worker on a copy of a home, without a break or killed and restarted."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    if killed_after_s is not None:
        with _worker(copy):
            time.sleep(killed_after_s)
    with contextlib.closing(Store.open(home)) as store:
        before = things(store, session_id)
    with _worker(copy) as pid, contextlib.closing(Store.open(copy)) as store:
        until_s = time.monotonic() + LIMIT_S
        while (result := result_of(store, session_id)) is None:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended or time.monotonic() > until_s:
                raise TimeoutError
            time.sleep(0.02)
        return result if before <= things(store, session_id) else "something was lost"


def _adapter(store: Store, session_id: str) -> str | None:
    """The checksum of the round's adapter; None while it trains."""
    round_ = store.rounds(session_id)[0]
    if round_.state in ("queued", "running"):
        return None
    if round_.state != "done":
        raise RuntimeError(f"The round is {round_.state}: {round_.message}")
    [adapter] = store.adapters(session_id)
    return sha256(store.adapter_path(adapter) / ADAPTER_FILE)


def _export(store: Store, session_id: str) -> str | None:
    """The checksums of the only export, and all missing or damaged files; None while it is made."""
    [job] = store.jobs(session_id, kind="export")
    if job.state in ("queued", "running"):
        return None
    if job.state != "done":
        raise RuntimeError(f"The export is {job.state}: {job.message}")
    [made] = store.exports(session_id)
    folder = store.export_path(session_id, made.id)
    report = examine_files(store)
    sums = [f"{name} {sha256(folder / name)}" for name in sorted(made.files)]
    return "\n".join([*sums, *report.missing, *report.damaged])


@contextlib.contextmanager
def _worker(home: Path) -> Iterator[int]:
    """A process that runs the worker's `main` and is killed at the end. It is forked, because
    imports take longer than the round."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            status = work(["--home", str(home), "--device", "cpu"])
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
