"""Jobs that a tab has asked for, and can cancel."""

from __future__ import annotations

import pytest

from studio.store import Session, Store
from studio.ui.jobs import cancel_open, cancel_queued, is_open, progress
from studio.ui.snapshot import StoreSnapshot


@pytest.mark.parametrize(
    ("cancel", "states"),
    [
        (cancel_open, {"cancelled", "failed"}),
        (cancel_queued, {"running", "cancelled", "failed"}),
    ],
)
def test_jobs_of_one_kind_and_session_are_cancelled(
    store: Store, session: Session, cancel, states
) -> None:
    other = store.create_session("Other", session.settings)
    model = {"path": "someone/one"}
    stay = [store.add_job(session.id, "library", {}), store.add_job(other.id, "inspect", model)]
    jobs = [store.add_job(session.id, "inspect", model) for _ in range(3)]
    store.update_job(jobs[0].id, state="failed", message="No.")
    store.update_job(jobs[1].id, state="running")
    cancel(store, session.id, "inspect")
    assert {store.job(job.id).state for job in jobs} == states
    assert all(is_open(store.job(job.id)) for job in stay)


def test_without_a_job_nothing_is_open(store: Store) -> None:
    assert not is_open(None)
    assert progress(StoreSnapshot(store), None) is None
