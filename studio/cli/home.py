"""The home of a command: its store, its sessions and a worker."""

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
MOST_DEATHS = 5  # of a worker in a row before a command gives up

Result = TypeVar("Result")


@contextlib.contextmanager
def open_store(arguments: argparse.Namespace) -> Iterator[Store]:
    home = home_folder(arguments)
    with contextlib.closing(Store.open(home)) as store:
        logs.set_up(home, "command")
        yield store


def wait_for_worker(home: Path, poll: Callable[[], Result | None]) -> Result:
    """Poll until there is a result. A running studio's worker does the work, or else an own one."""
    end_on_sigterm()
    with contextlib.ExitStack() as stack:
        own = None
        try:
            stack.enter_context(StudioLock(home))
            own = stack.enter_context(Supervisor(home))
        except StoreLocked:
            say("The studio that is open does the work.")
        while (result := poll()) is None:
            if own is not None and own.deaths_in_a_row >= MOST_DEATHS:
                lines = "\n".join(own.last_lines)
                raise CommandError(f"The worker cannot run. Its last output was:\n{lines}")
            time.sleep(POLL_S)
        return result


def find_session(store: Store, wanted: str) -> Session:
    sessions = store.sessions()
    matches = [session for session in sessions if wanted in (session.id, session.name)]
    if len(matches) == 1:
        return matches[0]
    listed = "\n".join(f"  {each.id}  {each.name}" for each in sessions) or "  none yet"
    what = "There is no session" if not matches else "There is more than one session"
    raise CommandError(f"{what} called {wanted}. The sessions are:\n{listed}")


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack like Ctrl+C, so that the worker ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
