"""The real worker, killed while it learns: the round that goes on ends in the same adapter."""

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
from studio.store import Store
from studio.worker import rounds as training_rounds
from studio.worker.__main__ import main as work
from studio.worker.loop import Worker
from studio.worker.pair_queue import READY_PAIRS

QUICK_STOPS, STOPS = 2, 100
LIMIT_S = 600.0
SAVED_EVERY_S = 0.2  # as a round of minutes has many moments to go on from, one of seconds has too


def rows(
    homes: dict[str, Home],
    place: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    row = Row("the worker killed in a round that goes on")
    if not wanted(row.fault):
        return
    usual = training_rounds.SLICE_S, training_rounds.CHECKPOINT_S
    # In the workers that are forked from here.
    training_rounds.SLICE_S = training_rounds.CHECKPOINT_S = SAVED_EVERY_S
    try:
        home, session_id = _prepare(place)
        started_s = time.monotonic()
        expected = _learned(home, place / "whole", session_id)
        whole_s = time.monotonic() - started_s
        dice = random.Random(0)
        for number in range(QUICK_STOPS if quick else STOPS):
            after_s = dice.uniform(0, whole_s)
            try:
                found = _learned(home, place / "stopped", session_id, after_s)
            except TimeoutError:
                row.tried += 1
                row.hung += 1
                continue
            except KeyboardInterrupt:  # this takes the longest: what was tried so far counts
                break
            row.tried += 1
            if found != expected:
                row.torn += 1
                row.problems.append(f"stop {number}, after {after_s:.2f} s: {found}")
    finally:
        training_rounds.SLICE_S, training_rounds.CHECKPOINT_S = usual
    yield row


def _prepare(place: Path) -> tuple[Path, str]:
    """A home with four picks on pictures of the starter model, and a round that is asked for."""
    home = place / "rounds"
    with contextlib.closing(Store.open(home)) as store:
        training = TrainingSettings(
            rank=2,
            updates_base=12,
            updates_per_pick=0,
            held_out_fraction=0,
            target_shift=0.05,  # not so far that the brake would hold it back
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
        draws = Worker(store, "cpu").pair_queue
        while store.waiting_count(session.id) < 4 + READY_PAIRS:
            draws.add_pair()
        for number, pair in enumerate(store.waiting_pairs(session.id, 4)):
            store.add_answer(f"pick{number}", pair.id, "left" if number % 2 else "right")
        # Nothing else is to be done than to learn.
        store.update_settings(session.id, replace(settings, queue_target=1))
        store.request_round(session.id)
    return home, session.id


def _learned(home: Path, copy: Path, session_id: str, killed_after_s: float | None = None) -> str:
    """The checksum of the adapter that the round comes to, in one go or killed on the way."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    if killed_after_s is not None:
        with _worker(copy):
            time.sleep(killed_after_s)
    with contextlib.closing(Store.open(home)) as store:
        picks = things(store, session_id)
    with _worker(copy) as pid, contextlib.closing(Store.open(copy)) as store:
        until_s = time.monotonic() + LIMIT_S
        while (learned := store.rounds(session_id)[0]).state != "done":
            if learned.state not in ("queued", "running"):
                raise RuntimeError(f"The round is {learned.state}: {learned.message}")
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended or time.monotonic() > until_s:
                raise TimeoutError
            time.sleep(0.02)
        if not picks <= things(store, session_id):
            return "picks were lost"
        [adapter] = store.adapters(session_id)
        return sha256(store.adapter_path(adapter) / ADAPTER_FILE)


@contextlib.contextmanager
def _worker(home: Path) -> Iterator[int]:
    """A process that runs the worker's `main`, killed at the end; forked, as imports take longer
    than the round does."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            status = work(["--home", str(home), "--device", "cpu"])
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
