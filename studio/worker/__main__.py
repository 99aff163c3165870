"""The worker's process.

python -m studio.worker --home HOME
accelerate launch -m studio.worker --home HOME      on all GPUs: see `studio.engine.distributed`
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from studio import models
from studio.engine import distributed
from studio.engine.distributed import ProcessGroup, ProcessLost
from studio.runtime import logs
from studio.store import Store, StoreError
from studio.worker import follower
from studio.worker.ending import end_in_time, stop_when_asked
from studio.worker.loop import Worker

log = logging.getLogger("studio.worker")

HANDOVER_S = 30.0  # how long the previous worker may take to end


def main(argv: list[str] | None = None) -> int:
    """Serve one home until stopped; gives the exit status."""
    parser = argparse.ArgumentParser(prog="studio.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="the folder of the studio")
    parser.add_argument("--device", help="for example cpu, cuda or mps; default: the best one")
    arguments = parser.parse_args(argv)
    device = distributed.local_device(arguments.device or models.best_device())
    try:
        with distributed.process_group() as processes:
            if processes.is_main_process:
                _run_main(arguments.home, device, processes)
            else:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the main process sends LEAVE
                follower.run(processes, device)
    except (StoreError, Timeout, ProcessLost) as error:
        log.error("The worker ends", exc_info=error)
        print(error, file=sys.stderr)
        return 1
    return 0


def _run_main(home: Path, device: str, processes: ProcessGroup) -> None:
    """Run the worker: of several processes, the only one that writes to the store."""
    try:
        stopping = threading.Event()
        stop_when_asked(stopping)
        store = Store.open(home)
        logs.set_up(store.home, "worker")
        end_in_time(store, stopping)
        with FileLock(store.home / "worker.lock", timeout=HANDOVER_S), contextlib.closing(store):
            Worker(store, device, processes, stopping).run()
    finally:
        with contextlib.suppress(ProcessLost):
            processes.broadcast(follower.LEAVE)


if __name__ == "__main__":
    raise SystemExit(main())
