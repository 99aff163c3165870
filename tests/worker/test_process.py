"""The worker as a process: killed, told to end, left alone, on a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store
from studio.ui import words
from studio.worker.loop import Worker
from tests.support import disks
from tests.support.processes import wait_for, worker

UPDATES = 100


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight picks and nothing else to do; to be copied."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    with contextlib.closing(Store.open(home)) as store:
        session = store.create_session(
            "Tiny",
            SessionSettings(
                base_model=str(tiny_model),
                prompts=("a cat", "a dog"),
                sampling=SamplingSettings(steps=4, width_px=64, height_px=64),
                training=TrainingSettings(rank=2, updates_base=UPDATES, updates_per_pick=0),
                live=False,
            ),
        )
        store.set_last_session(session.id)
        drawing = Worker(store, "cpu")
        while drawing.work():
            pass
        for number, pair in enumerate(store.waiting_pairs(session.id, 100)):
            store.add_answer(f"pick{number}", pair.id, "left" if number % 3 else "right")
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "home")


@pytest.fixture
def session_id(store: Store) -> str:
    return store.last_session_id()


def adapter_bytes(store: Store, session_id: str) -> bytes:
    [adapter] = store.adapters(session_id)
    return (store.adapter_path(adapter) / "adapter_model.safetensors").read_bytes()


def test_a_round_that_is_killed_again_and_again_ends_in_the_same_adapter(
    prepared, tmp_path, store, session_id, home
):
    with contextlib.closing(Store.open(shutil.copytree(prepared, tmp_path / "whole"))) as whole:
        whole.request_round(session_id)
        with worker(whole.home) as process:
            wait_for(lambda: whole.adapters(session_id), process)
        expected = adapter_bytes(whole, session_id)

    round_ = store.request_round(session_id)
    checkpoint = store.checkpoint_path(round_)
    continued = 0
    for _ in range(3):
        with worker(home) as process:
            done = store.round(round_.id).updates_done
            wait_for(lambda done=done: store.round(round_.id).updates_done > done + 1, process)
            old = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            wait_for(
                lambda old=old: (
                    (checkpoint.exists() and checkpoint.stat().st_mtime_ns > old)
                    or store.adapters(session_id)
                ),
                process,
            )
            process.kill()
            process.join()
        if store.adapters(session_id):
            break  # a quick machine
        continued += 1
    assert continued, "the round was over before it could be killed: give it more updates"
    with worker(home) as process:
        wait_for(lambda: store.adapters(session_id), process)
    assert "goes on after update" in (home / "logs" / "worker.log").read_text()
    assert store.round(round_.id).state == "done"
    assert [one.update for one in store.metrics(round_.id)] == list(range(1, UPDATES + 1))
    assert adapter_bytes(store, session_id) == expected


def test_a_machine_that_sleeps_wakes_up_and_goes_on(store, session_id, home):
    """Stopped and let go on, a process finds an hour gone, as it does when a lid is closed."""
    round_ = store.request_round(session_id)
    with worker(home) as process:
        wait_for(lambda: store.round(round_.id).updates_done, process)
        os.kill(process.pid, signal.SIGSTOP)
        status = store.worker_status()
        assert words.is_silent(status, status.heartbeat_at_s + 3600)
        os.kill(process.pid, signal.SIGCONT)
        wait_for(lambda: store.worker_status().heartbeat_at_s > status.heartbeat_at_s, process)
        assert not words.is_silent(store.worker_status())
        wait_for(lambda: store.adapters(session_id), process)
    assert store.round(round_.id).state == "done"


def test_killed_while_drawing_it_leaves_no_row_without_its_files(store, session_id, home):
    store.update_settings(session_id, replace(store.session(session_id).settings, queue_target=64))
    for more in (1, 2, 4):
        count = store.waiting_count(session_id)
        with worker(home) as process:
            wait_for(
                lambda more=more, count=count: store.waiting_count(session_id) >= count + more,
                process,
            )
            process.kill()
            process.join()
        for pair in store.waiting_pairs(session_id, 100):
            for image in (pair.left, pair.right):
                assert store.image_path(image).stat().st_size
                assert store.trajectory_path(image).stat().st_size


def test_told_to_end_it_leaves_the_round_in_good_order(store, session_id, home):
    round_ = store.request_round(session_id)
    with worker(home) as process:
        wait_for(lambda: store.round(round_.id).updates_done >= 2, process)
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == 0
    left = store.round(round_.id)
    assert left.state == "queued"
    assert store.checkpoint_path(round_).exists()
    with worker(home) as process:
        wait_for(lambda: store.adapters(session_id), process)
    first = f"goes on after update {left.updates_done}\n"
    assert first in (home / "logs" / "worker.log").read_text()


PARENT = """
import subprocess, sys
worker = subprocess.Popen(
    [sys.executable, "-m", "studio.worker", "--home", sys.argv[1]],
    stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
)
print(worker.pid, flush=True)
worker.wait()
"""


def test_it_ends_when_its_parent_is_gone(store, home):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(home)], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())

    def lives() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"

    if not Path("/proc").exists():
        pytest.skip("this system has no /proc to look a process up in")
    wait_for(lambda: (status := store.worker_status()) is not None and status.pid == pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not lives())


def test_two_workers_never_work_at_once(store, session_id, home):
    store.update_settings(session_id, replace(store.session(session_id).settings, queue_target=64))
    with worker(home) as first:
        wait_for(lambda: store.waiting_count(session_id) > 0, first)
        with worker(home) as second:
            wait_for(lambda: store.waiting_count(session_id) > 8, first)
            assert store.worker_status().pid == first.pid
            assert second.is_alive()  # it waits for the first one
            os.kill(first.pid, signal.SIGTERM)
            first.join()
            count = store.waiting_count(session_id)
            wait_for(lambda: store.waiting_count(session_id) > count, second)
            assert store.worker_status().pid == second.pid


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MB."""
    with disks.small_disk(tmp_path / "disk", 300) as place:
        yield place


@pytest.mark.parametrize("room_left_mb", [50, 0])
def test_on_a_full_disk_a_round_waits_and_goes_on_when_there_is_room(prepared, disk, room_left_mb):
    home = shutil.copytree(prepared, disk / "home")
    with contextlib.closing(Store.open(home)) as store, worker(home) as process:
        session_id = store.last_session_id()
        round_ = store.request_round(session_id)
        wait_for(lambda: store.round(round_.id).updates_done >= 2, process)
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while shutil.disk_usage(disk).free > room_left_mb * 1_000_000:
                if not file.write(b"x" * 2**16):
                    break
        if room_left_mb:
            wait_for(lambda: "100 MB are needed" in store.round(round_.id).message, process)
            wait_for(lambda: store.worker_status().state == "error", process)
            done = store.round(round_.id).updates_done
            time.sleep(3)
            assert store.round(round_.id).updates_done == done
        else:
            time.sleep(10)  # it cannot even write down that it waits, and lives
        assert not store.adapters(session_id)
        ballast.unlink()
        wait_for(lambda: store.adapters(session_id), process)
        assert store.round(round_.id).state == "done"
