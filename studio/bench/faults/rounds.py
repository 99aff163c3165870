"""The real worker, killed while it learns: the round that goes on ends in the same adapter."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from studio.bench.faults.operations import Home, things
from studio.bench.faults.trial import Row
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store
from studio.store.files import sha256
from studio.worker import Worker

QUICK_STOPS, STOPS = 2, 100
STOPS_A_ROUND = 10  # of the full form; each round has updates enough to be stopped so often
LIMIT_S = 600.0


def rows(
    homes: dict[str, Home], place: Path, quick: bool, with_strace: bool, only: str
) -> Iterator[Row]:
    row = Row("the worker killed in a round that goes on")
    if only not in row.fault:
        return
    stops = QUICK_STOPS if quick else STOPS
    home, session_id = _prepare(place, updates=12 if quick else 60)
    expected = _learned(home, place / "whole", session_id, [])
    dice = random.Random(0)
    while row.tried < stops:
        count = min(STOPS_A_ROUND, stops - row.tried)
        try:
            found = _learned(home, place / "stopped", session_id, [dice] * count)
        except TimeoutError:
            row.hung += 1
            found = expected
        row.tried += count
        row.torn += found != expected
    yield row


def _prepare(place: Path, updates: int) -> tuple[Path, str]:
    """A home with eight picks on pictures of the starter model, and a round that is asked for."""
    home = place / "rounds"
    with contextlib.closing(Store.open(home)) as store:
        training = TrainingSettings(
            rank=2,
            updates_base=updates,
            updates_per_pick=0,
            held_out_fraction=0,
            batch_pairs=2,
            micro_batch_pairs=2,
        )
        settings = SessionSettings(
            prompts=("a red apple",),
            sampling=SamplingSettings(steps=3),
            training=training,
            live=False,
        )
        session = store.create_session("Learning", settings)
        store.set_last_session(session.id)
        worker = Worker(store, "cpu")
        while store.waiting_count(session.id) < 4:
            worker.add_pair()
        for number, pair in enumerate(store.waiting_pairs(session.id)):
            store.add_pick(f"pick{number}", pair.id, "left" if number % 2 else "right")
        # Nothing else is to be done than to learn.
        store.update_settings(session.id, replace(settings, queue_target=1))
        store.request_round(session.id)
    return home, session.id


def _learned(home: Path, copy: Path, session_id: str, stops: list[random.Random]) -> str:
    """The checksum of the adapter that the round comes to, killed so often on the way."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    with contextlib.closing(Store.open(copy)) as store:
        picks = things(store, session_id)
        for dice in stops:
            done = store.rounds(session_id)[0].updates_done
            with _worker(copy) as process:
                _wait(lambda done=done: store.rounds(session_id)[0].updates_done > done, process)
                time.sleep(dice.uniform(0, 3))
                process.kill()
            if store.adapters(session_id):
                break
        with _worker(copy) as process:
            _wait(lambda: store.adapters(session_id), process)
            process.kill()
        if not picks <= things(store, session_id):
            return "picks were lost"
        [adapter] = store.adapters(session_id)
        return sha256(store.adapter_path(adapter) / "adapter_model.safetensors")


@contextlib.contextmanager
def _worker(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "studio.worker", "--home", str(home), "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(reached: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > until_s or process.poll() is not None:
            raise TimeoutError
        time.sleep(0.02)
