"""The worker's process.

python -m studio.worker --home HOME
accelerate launch -m studio.worker --home HOME      on all GPUs: see `studio.engine.distributed`
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import stat
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from studio import models
from studio.engine import distributed
from studio.engine.distributed import ProcessGroup, ProcessLost
from studio.runtime import logs
from studio.runtime.supervisor import when_supervisor_leaves
from studio.store import Store, StoreError
from studio.worker import follower
from studio.worker.loop import Worker

log = logging.getLogger("studio.worker")

HANDOVER_S = 30.0  # how long the worker before this one may still take to end


def main(argv: list[str] | None = None) -> int:
    """Work for one home until told to end; gives the exit status."""
    parser = argparse.ArgumentParser(prog="studio.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="the folder of the studio")
    parser.add_argument("--device", help="such as cpu, cuda or mps; default: the best there is")
    arguments = parser.parse_args(argv)
    device = distributed.local_device(arguments.device or models.best_device())
    try:
        with distributed.process_group() as all_of_us:
            if all_of_us.is_main_process:
                _lead(arguments.home, device, all_of_us)
            else:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the leader says when to leave
                follower.run(all_of_us, device)
    except (StoreError, Timeout, ProcessLost) as error:
        log.error("The worker ends", exc_info=error)
        print(error, file=sys.stderr)
        return 1
    return 0


def _lead(home: Path, device: str, all_of_us: ProcessGroup) -> None:
    """The work itself, and the only one of several processes that writes."""
    try:
        store = Store.open(home)
        logs.set_up(store.home, "worker")
        with FileLock(store.home / "worker.lock", timeout=HANDOVER_S), contextlib.closing(store):
            worker = Worker(store, device, all_of_us)
            signal.signal(signal.SIGTERM, lambda *_: worker.stopping.set())
            if stat.S_ISFIFO(os.fstat(0).st_mode):  # a supervisor holds the other end
                when_supervisor_leaves(worker.stopping.set)
            worker.run()
    finally:
        with contextlib.suppress(ProcessLost):
            all_of_us.broadcast(follower.LEAVE)


if __name__ == "__main__":
    raise SystemExit(main())
