"""The end of the worker: within seconds of the request, whatever it is doing.

Work that notices the request puts itself down: see `wanted`. What cannot be left in between, such
as the loading of a large model, is cut off: the rows and files are those of a worker that was
killed, from which the next one goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import threading

from studio.runtime.supervisor import when_supervisor_leaves
from studio.store import Store, StoreError

log = logging.getLogger("studio.worker")

GRACE_S = 4.0  # for work to put itself down
LEAVE_S = 1.0  # for the store to be written, which another process may be writing too


def stop_when_asked(stopping: threading.Event) -> None:
    """Set `stopping` on SIGTERM, or when the supervisor leaves; both while other code runs."""
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    if os.name == "posix":
        # Python runs a handler only between two steps of the main thread, which may be far apart.
        end, start = os.pipe()
        os.set_blocking(start, False)
        signal.set_wakeup_fd(start)
        threading.Thread(target=_wait, args=(end, stopping), name="signals", daemon=True).start()
    if stat.S_ISFIFO(os.fstat(0).st_mode):  # a supervisor holds the other end
        when_supervisor_leaves(stopping.set)


def _wait(end: int, stopping: threading.Event) -> None:
    while signal.SIGTERM not in os.read(end, 1):
        pass
    stopping.set()


def end_in_time(store: Store, stopping: threading.Event) -> None:
    """From a thread: end this process if it still works `GRACE_S` after `stopping` was set."""

    def give_back() -> None:
        with contextlib.suppress(StoreError):
            store.give_work_back()  # the request is no fault of the work

    def watch() -> None:
        stopping.wait()
        threading.Event().wait(GRACE_S)
        log.info("The worker leaves its work in the middle.")
        giving = threading.Thread(target=give_back, daemon=True)
        giving.start()
        giving.join(LEAVE_S)
        os._exit(0)

    threading.Thread(target=watch, name="end", daemon=True).start()
