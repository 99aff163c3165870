"""The worker is kept running, ends with the studio, and never stays behind alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from studio.runtime import supervisor
from studio.runtime.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]

# As the real worker does: works until the supervisor leaves.
WORKER = """
import signal, sys, threading
from studio.runtime.supervisor import when_supervisor_leaves
done = threading.Event()
when_supervisor_leaves(done.set)
open(sys.argv[1], "a").write("started\\n")
done.wait()
open(sys.argv[1], "a").write("ended in order\\n")
"""


def wait_until(holds: Callable[[], object], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def running(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", source, *arguments]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def supervised(notes: Path, tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, running(WORKER, str(notes))) as found:
        wait_until(lambda: found.pid)  # known a moment after the worker began, on a busy machine
        yield found


def test_a_worker_that_is_killed_is_started_again(supervised, notes):
    for times in (1, 2, 3):
        wait_until(lambda times=times: lines(notes) == ["started"] * times)
        pid = supervised.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: supervised.pid not in (pid, None))


def test_a_worker_that_ends_by_itself_is_started_again(tmp_path, notes):
    source = "import sys; open(sys.argv[1], 'a').write('started\\n')"
    with Supervisor(tmp_path, running(source, str(notes))):
        wait_until(lambda: len(lines(notes)) >= 3)


def test_the_worker_ends_in_order_with_the_studio(supervised, notes):
    wait_until(lambda: lines(notes))
    pid = supervised.pid
    supervised.stop()
    assert lines(notes) == ["started", "ended in order"]
    assert not psutil.pid_exists(pid)


def test_a_worker_that_does_not_listen_is_killed(tmp_path, notes, monkeypatch):
    monkeypatch.setattr(supervisor, "LEAVE_S", 0.2)
    source = "import sys, time; open(sys.argv[1], 'a').write('started\\n'); time.sleep(600)"
    with Supervisor(tmp_path, running(source, str(notes))) as deaf:
        wait_until(lambda: lines(notes))
        pid = deaf.pid
    assert not psutil.pid_exists(pid)


def test_deaths_soon_after_a_start_are_waited_out_longer_and_longer(tmp_path, monkeypatch):
    delays: list[float] = []
    busy = Supervisor(tmp_path, running("pass"))
    monkeypatch.setattr(supervisor, "LONGEST_DELAY_S", 4.0)
    monkeypatch.setattr(busy.leaving, "wait", delays.append)
    with busy:
        wait_until(lambda: len(delays) >= 6)
    assert delays[:6] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_a_worker_that_lived_long_is_started_again_at_once(tmp_path, monkeypatch):
    delays: list[float] = []
    steady = Supervisor(tmp_path, running("pass"))
    monkeypatch.setattr(supervisor, "STEADY_S", 0.0)
    monkeypatch.setattr(steady.leaving, "wait", delays.append)
    with steady:
        wait_until(lambda: len(delays) >= 3)
    assert set(delays) == {supervisor.FIRST_DELAY_S}


def test_what_the_worker_says_last_is_kept(tmp_path):
    source = "import time; print('out of memory', flush=True); time.sleep(600)"
    with Supervisor(tmp_path, running(source)) as found:
        wait_until(lambda: found.last_lines)
        assert list(found.last_lines) == ["out of memory"]
        os.kill(found.pid, signal.SIGKILL)


def test_a_worker_that_cannot_be_started_stops_nothing(tmp_path):
    with Supervisor(tmp_path, ["/there/is/no/such/program"]) as found:
        wait_until(lambda: found.is_running)
        assert found.pid is None


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_no_worker_outlives_a_studio_that_is_killed(notes, tmp_path):
    studio = f"""
import sys, time
from studio.runtime.supervisor import Supervisor
Supervisor({str(tmp_path)!r}, [sys.executable, "-c", {WORKER!r}, {str(notes)!r}]).start()
time.sleep(600)
"""
    with subprocess.Popen(running(studio), cwd=ROOT) as process:
        wait_until(lambda: lines(notes))
        [worker] = psutil.Process(process.pid).children()
        process.kill()
    wait_until(lambda: lines(notes) == ["started", "ended in order"])
    worker.wait(30)


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_in_the_terminal_does_not_reach_the_worker(supervised, notes):
    wait_until(lambda: lines(notes))
    assert os.getpgid(supervised.pid) != os.getpgid(0)
