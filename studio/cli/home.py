"""The home that a command works on: its store, its sessions and a worker for it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from studio.cli.arguments import home_folder
from studio.cli.errors import CommandError, say
from studio.runtime import logs
from studio.runtime.supervisor import Supervisor
from studio.store import Session, Store, StoreLocked, StudioLock

POLL_S = 0.3
MOST_DEATHS = 5  # of a worker in a row, before a command gives up

Found = TypeVar("Found")


@contextlib.contextmanager
def open_store(arguments: argparse.Namespace) -> Iterator[Store]:
    home = home_folder(arguments)
    with contextlib.closing(Store.open(home)) as store:
        logs.set_up(home, "command")
        yield store


def wait_for_worker(home: Path, look: Callable[[], Found | None]) -> Found:
    """Look until there is something: at the work of a studio that runs, or of our own worker."""
    end_on_sigterm()
    with contextlib.ExitStack() as held:
        own = None
        try:
            held.enter_context(StudioLock(home))
            own = held.enter_context(Supervisor(home))
        except StoreLocked:
            say("The studio that is open does the work.")
        while (found := look()) is None:
            if own is not None and own.deaths_in_a_row >= MOST_DEATHS:
                words = "\n".join(own.last_lines)
                raise CommandError(f"The worker cannot run. The last it said was:\n{words}")
            time.sleep(POLL_S)
        return found


def find_session(store: Store, wanted: str) -> Session:
    sessions = store.sessions()
    found = [one for one in sessions if wanted in (one.id, one.name)]
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"  {one.id}  {one.name}" for one in sessions) or "  none yet"
    what = "There is no session" if not found else "There is more than one session"
    raise CommandError(f"{what} called {wanted}. The sessions are:\n{listed}")


def end_on_sigterm() -> None:
    """Let a polite kill unwind the stack as Ctrl+C does, so that the worker ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
