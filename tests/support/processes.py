"""Processes of the studio, forked from one that has imported everything.

Starting Python anew for each would take longer than the work that is tested: torch, diffusers and
peft are imported in seconds, on a slow machine in half a minute.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from studio import __main__ as command_line
from studio.worker.__main__ import main as work

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180  # a wait that takes longer has failed, even on a machine that is busy elsewhere

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["studio.worker.__main__"])


@contextlib.contextmanager
def worker(home: Path, target: Callable[[Path], None] | None = None) -> Iterator[BaseProcess]:
    """A worker process for `home`, killed at the end. target: instead of `work_for`."""
    process = FORKED.Process(target=target or work_for, args=(home,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def work_for(home: Path) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    raise SystemExit(work(["--home", str(home), "--device", "cpu"]))


def typed(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `python -m studio ARGUMENTS` says and ends with."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        process = FORKED.Process(
            target=_type, args=([str(one) for one in arguments], surroundings() | environment, said)
        )
        process.start()
        process.join()
        out, errors = (path.read_text(encoding="utf-8") for path in said)
    return subprocess.CompletedProcess(arguments, process.exitcode, out, errors)


def surroundings() -> dict[str, str]:
    """The environment, without what would set the studio's own options."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("D3PO_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _type(arguments: list[str], environment: dict[str, str], said: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in zip((sys.stdout, sys.stderr), said, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
        stream.reconfigure(encoding="utf-8", line_buffering=True)
    raise SystemExit(command_line.main(arguments))


def wait_for(
    reached: Callable[[], object], process: BaseProcess | subprocess.Popen[bytes] | None = None
) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < until_s, "it never came to that"
        assert process is None or _lives(process), "the worker ended"
        time.sleep(0.02)


def _lives(process: BaseProcess | subprocess.Popen[bytes]) -> bool:
    if isinstance(process, BaseProcess):
        return process.is_alive()
    return process.poll() is None


def together(count: int, target: Callable[..., None], *arguments: object) -> None:
    """Call a function in `count` processes that find each other as those of `accelerate launch`
    do. All must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [
        FORKED.Process(target=_one_of, args=(rank, count, port, target, arguments))
        for rank in range(count)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join(PATIENCE_S)
        process.kill()
    assert [process.exitcode for process in group] == [0] * count


def _one_of(
    rank: int, count: int, port: int, target: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    target(*arguments)
