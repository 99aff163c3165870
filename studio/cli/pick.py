"""`pick`: a judge answers the questions of a session, as the artist would: see `studio.judges`."""

from __future__ import annotations

import argparse
import time

from studio import judges, judging
from studio.cli.errors import CommandError, progress
from studio.cli.home import find_session, open_store, wait_for_worker
from studio.store import Session, Store

NOTICE_S = 5.0  # until the worker's status is about the session that was opened for it


def pick(arguments: argparse.Namespace) -> int:
    """Pick so many times; a running studio on the same home draws the pictures itself."""
    judge = judges.load(arguments.judge)
    name = judging.name_of(arguments.judge)
    with open_store(arguments) as store:
        session = find_session(store, arguments.session)
        wanted, done = arguments.picks or session.settings.round_every, 0

        def pick_waiting() -> bool:
            """Whether all picks are made; if not, no question is waiting."""
            nonlocal done
            while done < wanted and (waiting := store.waiting(session.id, limit=1)):
                done += judging.answer(store, waiting[0], judge, name)
                progress(f"{done} of {wanted} picks by {name}")
            return done >= wanted

        try:
            if not pick_waiting():
                if not session.settings.prompts:
                    raise CommandError(f"{session.name} has no prompts: write some in the studio.")
                store.set_last_session(session.id)  # the worker draws for the open session alone
                opened_at_s = time.time()

                def poll() -> bool | None:
                    _require_drawing(store, session, opened_at_s)
                    return pick_waiting() or None

                wait_for_worker(store.home, poll)
        finally:
            progress(f"{done} of {wanted} picks by {name}", last=True)
    return 0


def _require_drawing(store: Store, session: Session, opened_at_s: float) -> None:
    """Raise if the worker will draw nothing for a session that was opened for it."""
    if store.last_session_id() != session.id:
        raise CommandError(
            "Another session was opened meanwhile, and the studio draws for that one. Repeat the "
            f"command to open {session.name} again."
        )
    status = store.worker_status()
    if status is None or status.heartbeat_at_s < opened_at_s + NOTICE_S:
        return
    if status.state == "error":
        raise CommandError(status.message)
