"""A judge picks in an open session, as long as there are pictures for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from studio import judges, judging
from studio.store import Session, Store
from studio.worker.errors import WorkerError
from studio.worker.pair_queue import PairQueue


def let_pick(
    store: Store,
    pair_queue: PairQueue,
    session: Session,
    payload: dict[str, Any],
    done: int,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """{"judge", "picks"} → {"picks", "name"}; pictures are drawn as they are needed.

    done: the picks that were made before the worker was started anew. report: called after each.
    """
    reference, wanted = payload["judge"], payload["picks"]
    judging.require_own_file(reference)
    judge, name = judges.load(reference), judging.name_of(reference)
    while done < wanted:
        if waiting := store.waiting(session.id, limit=1):
            done += judging.answer(store, waiting[0], judge, name)
            report(done)
        elif store.last_session_id() != session.id:
            raise WorkerError(
                f"Another session was opened, so nothing is drawn for {session.name}. {name} made "
                f"{done} of {wanted} picks."
            )
        elif not pair_queue.add_pair():
            raise WorkerError(
                f"Nothing is left to pick from: write prompts on the Prompt tab. {name} made "
                f"{done} of {wanted} picks."
            )
        else:
            report(done)
    return {"picks": done, "name": name}
