"""The clock is set back, or the machine sleeps: orders stay, and nobody waits for the future."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest

from studio.store import WorkerStatus
from studio.ui import words

HOUR_S = 3600.0


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the time is asked, it is an hour earlier than before."""
    now_s, hours = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: now_s - HOUR_S * next(hours))


def test_picks_keep_their_order_when_the_clock_runs_backwards(backwards, store, session, add_pairs):
    pairs = add_pairs(6)
    for number, pair in enumerate(store.waiting_pairs(session.id)):
        assert pair.id == pairs[number].id
    for number in range(4):
        waiting = store.waiting_pairs(session.id)[0]
        assert waiting.id == pairs[number].id
        store.add_answer(f"pick{number}", waiting.id, "left")
    assert [one.pick.id for one in store.picked_pairs(session.id)] == [
        "pick0",
        "pick1",
        "pick2",
        "pick3",
    ]
    assert store.undo_pick("undo", session.id).id == pairs[3].id
    assert store.waiting_pairs(session.id)[0].id == pairs[3].id
    assert store.add_answer("again", pairs[3].id, "right").answer.pick.choice == "right"
    assert store.picked_pairs(session.id)[-1].pick.choice == "right"


def test_a_worker_that_spoke_before_the_clock_was_set_back_is_not_taken_for_alive(store):
    """Or one that died then would not be missed for an hour."""
    now_s = time.time()
    status = WorkerStatus(1, "idle", "Ready.", "cpu", now_s + HOUR_S)
    assert words.is_silent(status, now_s)
    assert not words.is_silent(replace(status, heartbeat_at_s=now_s), now_s)
    assert words.worker_line(status, None)[0] == "bad"
