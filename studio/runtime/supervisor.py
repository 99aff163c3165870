"""The supervisor: keeps one worker process running for as long as the studio runs.

The worker's standard input is a pipe that is never written to. It closes when the studio asks the
worker to end, and also when the studio itself dies, so that no worker stays behind on the device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

log = logging.getLogger("studio.supervisor")

FIRST_DELAY_S = 0.5  # before the first restart; doubled after each early death
LONGEST_DELAY_S = 60.0
STEADY_S = 60.0  # after a life this long the delays begin anew
LEAVE_S = 8.0  # for a worker to end by itself, before it is killed: see `studio.worker.ending`


def worker_command(home: Path, processes: int = 1) -> list[str]:
    """The command line of the worker. accelerate starts several processes, one per device."""
    worker = ["-m", "studio.worker", "--home", str(home)]
    if processes == 1:
        return [sys.executable, *worker]
    options = ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *worker]


def when_supervisor_leaves(stop: Callable[[], object]) -> None:
    """For the worker: call `stop` from a thread when the studio ends, or asks the worker to end."""

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 1024):  # the lock of sys.stdin would block the interpreter's exit
                pass
        stop()

    threading.Thread(target=wait, name="supervisor-watch", daemon=True).start()


class Supervisor:
    """Runs `command` (by default a worker on `home`) and restarts it when it ends.

    Use as a context manager, or call `start` and `stop`.
    """

    def __init__(self, home: Path, command: Sequence[str] | None = None) -> None:
        self.command = list(command or worker_command(home))
        self.environment = dict(os.environ)  # a copy, unaffected by later changes
        self.last_lines: deque[str] = deque(maxlen=20)  # of the worker's output
        self.deaths_in_a_row = 0
        self.leaving = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # between starting a process and asking it to stop
        self._thread = threading.Thread(target=self._keep_running, name="supervisor", daemon=True)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None if there is no worker."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def is_running(self) -> bool:
        """Whether it still looks after the worker, which may be dead at the moment."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the worker; it is killed if it takes too long to finish its work."""
        self.leaving.set()
        with self._lock:
            process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                log.warning("The worker did not end within %.0f s and is killed.", LEAVE_S)
                process.kill()
        if self.is_running:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _keep_running(self) -> None:
        while not self.leaving.is_set():
            started_s = time.monotonic()
            code = self._run_once()
            if self.leaving.is_set():
                return
            if time.monotonic() - started_s > STEADY_S:
                self.deaths_in_a_row = 0
            delay_s = min(FIRST_DELAY_S * 2.0 ** min(self.deaths_in_a_row, 20), LONGEST_DELAY_S)
            self.deaths_in_a_row += 1
            log.warning("The worker ended (%s); it restarts in %.1f s.", code, delay_s)
            self.leaving.wait(delay_s)

    def _run_once(self) -> int | None:
        with self._lock:
            if self.leaving.is_set():
                return None
            try:
                self._process = process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    **_own_group(),
                )
            except OSError:  # such as no memory for a process: the same as an immediate death
                log.exception("The worker could not be started.")
                return None
        log.info("Worker %d started.", process.pid)
        assert process.stdout is not None
        for line in process.stdout:  # output outside its own log, such as a fatal error
            self.last_lines.append(line.rstrip())
            log.info("worker: %s", line.rstrip())
        return process.wait()


def _own_group() -> dict[str, bool | int]:
    """A process group of its own: Ctrl+C then reaches only the studio, which ends its worker."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    return {"start_new_session": True}
