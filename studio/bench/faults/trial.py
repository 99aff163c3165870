"""One operation in its own process with an injected fault, and the check of the store after it."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from studio.bench.faults.operations import OPERATIONS, Home, files_of, things
from studio.files import sha256
from studio.lora.format import LoraError
from studio.settings import SessionSettings
from studio.store import (
    Store,
    StoreDamaged,
    StoreError,
    database_complaints,
    examine_files,
)
from studio.store.files import read_sealed

LIMIT_S = 60.0  # for an operation of milliseconds
OPENED_S = 5.0  # the limit for opening the store after a fault
REFUSED, FAILED = 3, 4  # exit statuses: ended with a sentence, or with a traceback

# Every system call that changes a file or a folder; "?": some processors do not have it.
WRITING_CALLS = (
    "write,writev,pwrite64,ftruncate,fsync,fdatasync,?rename,renameat,renameat2,?unlink,unlinkat,"
    "?mkdir,mkdirat,?rmdir,?link,linkat,copy_file_range,sendfile"
).replace(",", ",?")

PR_SET_PTRACER = 0x59616D61


@dataclass
class Row:
    """One line of the table."""

    fault: str
    tried: int = 0
    lost: int = 0
    torn: int = 0
    hung: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.torn or self.hung or self.problems)


@dataclass(frozen=True)
class Run:
    """The end of an operation: its acknowledgements, and its exit status (negative: a signal)."""

    acknowledged: list[str]
    status: int | None  # None: it hung, and was killed
    traceback: str = ""


def run(
    home: Path, operation: str, inject: str = "", trace: Path | None = None, user: int | None = None
) -> Run:
    """Carry out an operation on `home` in its own process, with strace's `inject` option, or as
    another user without root's rights."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        if user is not None:
            # zipfile asks for it when it is needed, and Python may lie where this user cannot read
            codecs.lookup("cp437")
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        _child(theirs, home, operation)
    theirs.close()
    with ours, _traced(pid, inject, trace):
        ours.send(b"go")
        return _wait(pid, ours)


def _child(channel: socket.socket, home: Path, operation: str) -> None:
    """Report through a socket, whose system calls are not injected with faults."""
    status = 0
    try:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        channel.send(b"ready\n")
        channel.recv(2)  # the tracer is attached
        for acknowledgement in OPERATIONS[operation](home):
            channel.send(f"{acknowledgement}\n".encode())
    except (StoreError, LoraError) as error:
        status = REFUSED
        channel.send(f"!{error}\n".encode()[:60_000])
    except BaseException:
        status = FAILED
        channel.send(f"!{traceback.format_exc()}".encode()[:60_000])
    os._exit(status)


@contextlib.contextmanager
def _traced(pid: int, inject: str, trace: Path | None) -> Iterator[None]:
    if not inject and trace is None:
        yield
        return
    command = ["strace", "-f", "-q", "-e", f"trace={WRITING_CALLS}", "-o", str(trace or os.devnull)]
    if inject:
        command += ["-e", f"inject={inject}"]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    try:
        until_s = time.monotonic() + LIMIT_S
        while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
            if tracer.poll() is not None or time.monotonic() > until_s:
                os.kill(pid, signal.SIGKILL)
                raise RuntimeError(f"strace cannot be used here: {tracer.stderr.read()}")
            time.sleep(0.002)
        yield
    finally:
        try:
            tracer.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
        tracer.stderr.close()


def _wait(pid: int, channel: socket.socket, kill_after_s: float | None = None) -> Run:
    until_s = time.monotonic() + (LIMIT_S if kill_after_s is None else kill_after_s)
    received = b""
    channel.setblocking(False)
    hung = False
    while True:
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while part := channel.recv(65536):
                received += part
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until_s and not hung:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        while part := channel.recv(65536):
            received += part
    text, _, complaint = received.decode(errors="replace").partition("!")
    acknowledged = [line for line in text.splitlines() if line != "ready"]
    code = os.waitstatus_to_exitcode(status)
    return Run(acknowledged, None if hung and kill_after_s is None else code, complaint)


def run_and_kill(home: Path, operation: str, after_s: float) -> Run:
    """Carry out an operation, and kill it after some seconds."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _child(theirs, home, operation)
    theirs.close()
    with ours:
        ours.send(b"go")
        return _wait(pid, ours, kill_after_s=after_s)


def calls_of(home: Home, operation: str, folder: Path) -> list[tuple[str, int]]:
    """Every writing system call of an operation, as (name, its number among those of the name)."""
    trace = folder / "trace"
    with copy_of(home, folder) as copy:
        done = run(copy, operation, trace=trace)
        if done.status != 0:
            raise RuntimeError(f"{operation} fails without a fault: {done.traceback}")
    counts: Counter[str] = Counter()
    calls = []
    for text in trace.read_text(errors="replace").splitlines():
        if match := re.match(r"\d+\s+(\w+)\(", text):
            counts[match[1]] += 1
            calls.append((match[1], counts[match[1]]))
    return calls


@contextlib.contextmanager
def copy_of(home: Home, folder: Path) -> Iterator[Path]:
    """A temporary copy of a home, to be damaged."""
    trial = Path(tempfile.mkdtemp(prefix="trial-", dir=folder))
    shutil.copytree(home.path, trial / "home")
    try:
        yield trial / "home"
    finally:
        shutil.rmtree(trial)


def sample(calls: list, quick: bool, most: int) -> list:
    """All calls, or if quick at most `most`, evenly spaced from the first to the last."""
    if not quick or len(calls) <= most:
        return calls
    return [calls[round(n * (len(calls) - 1) / (most - 1))] for n in range(most)]


def tally(row: Row, what: str, home: Home, copy: Path, done: Run) -> None:
    """Count the effects of a fault; `copy` is the state of `home` after it."""
    row.tried += 1
    if done.status is None:
        row.hung += 1
        row.problems.append(f"{what}: it hung")
    if done.status == FAILED:
        row.problems.append(f"{what}: no sentence, but {done.traceback.strip()[-600:]}")
    started_s = time.monotonic()
    with contextlib.suppress(StoreError):  # `losses` reports it
        Store.open(copy).close()
    if time.monotonic() - started_s > OPENED_S:
        row.hung += 1
        row.problems.append(f"{what}: it took {time.monotonic() - started_s:.1f} s to open again")
    lost, torn = losses(home, copy, done.acknowledged)
    row.lost += len(lost)
    row.torn += len(torn)
    row.problems += [f"{what}: lost {each}" for each in lost]
    row.problems += [f"{what}: torn {each}" for each in torn]


def losses(home: Home, copy: Path, acknowledged: list[str]) -> tuple[list[str], list[str]]:
    """The (lost, torn) data of a store after a fault, opened again by the real program."""
    lost: list[str] = []
    torn: list[str] = []
    try:
        store = Store.open(copy)
    except StoreError as error:
        return [f"everything: {error}"], []
    with contextlib.closing(store):
        torn += database_complaints(copy / "studio.sqlite")
        report = examine_files(store)
        missing = set(report.missing) - set(home.missing)
        torn += [f"the file {name}" for name in [*missing, *report.damaged]]
        known = things(store, home.session_id)
        lost += [thing for thing in [*home.things, *acknowledged] if thing not in known]
        for path in copy.glob("sessions/*/checkpoints/*.pt"):
            try:
                if read_sealed(path) not in home.checkpoints:
                    torn.append("a checkpoint that was never written")
            except StoreDamaged:
                torn.append("a checkpoint")
        left = Counter(sha256(path) for path in files_of(copy))
        lost += [f"a file {checksum[:8]}" for checksum in (Counter(home.files) - left)]
        store.create_session("It goes on", SessionSettings())
    return lost, torn
