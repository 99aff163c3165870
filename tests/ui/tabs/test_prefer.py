"""The Prefer tab: the questions that wait, and the text while there is none."""

from __future__ import annotations

import time

import pytest

from studio.settings import (
    SessionSettings,
)
from studio.store import (
    Session,
    Store,
    WorkerStatus,
)
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prefer.state import page_state
from studio.ui.tabs.train import evidence
from tests.support.factories import make_pair


def a_status(state: str, silent_s: float = 0.0) -> WorkerStatus:
    """Of a worker that was heard so many seconds ago."""
    return WorkerStatus(1, state, "", "cpu", time.time() - silent_s)


@pytest.mark.parametrize(
    ("worker", "silent_s", "prompts", "title"),
    [
        (None, 0, (), "No prompts yet"),
        (None, 0, ("a",), "The painter is starting"),
        ("sampling", 0, ("a",), "The next pair is being drawn"),
        ("sampling", 99, ("a",), "The painter stopped and is starting again"),
    ],
)
def test_an_empty_queue_says_why(store: Store, worker, silent_s, prompts, title):
    session = store.create_session("Empty", SessionSettings(prompts=prompts))
    store.set_last_session(session.id)
    if worker is not None:
        store.set_worker_status(a_status(worker, silent_s))
    assert page_state(StoreSnapshot(store))["empty"]["title"] == title


def test_nobody_is_faster_than_the_painter_before_the_first_pick(store: Store):
    session = store.create_session("Empty", SessionSettings(prompts=("a",)))
    store.set_last_session(session.id)
    store.set_worker_status(a_status("sampling"))
    assert "faster" not in page_state(StoreSnapshot(store))["empty"]["text"]
    store.add_pick("p1", make_pair(store, session.id).id, "left")
    assert "faster" in page_state(StoreSnapshot(store))["empty"]["text"]


def test_the_state_of_prefer_follows_the_picks(store: Store, session: Session):
    store.set_last_session(session.id)
    pairs = [make_pair(store, session.id) for _ in range(3)]
    store.add_pick("p1", pairs[0].id, "left")
    store.add_pick("p2", pairs[1].id, "tie")
    shown = page_state(StoreSnapshot(store))
    assert [pair["id"] for pair in shown["waiting"]] == [pairs[2].id]
    assert (shown["counts"]["total"], shown["counts"]["new"]) == (2, 1)


def test_prefer_says_what_is_known_as_train_does(store: Store, session: Session):
    """One figure each, of the same sources; nothing before there is any."""
    store.set_last_session(session.id)
    pairs = [make_pair(store, session.id) for _ in range(10)]
    for pair in pairs:
        store.add_pick(f"p-{pair.id}", pair.id, "left")
    assert page_state(StoreSnapshot(store))["known"] == ""
    again = store.ask_again(session.id)
    store.add_pick("again", again.id, "right")  # the same picture: the sides are swapped
    round_ = store.request_round(session.id)
    store.claim_round()
    store.add_metric(round_.id, 1, {"held_out_agreement": 0.5})
    assert page_state(StoreSnapshot(store))["known"] == "it guesses 1 of 2, you repeat 1 of 1"
    shown = evidence.evidence(StoreSnapshot(store))
    assert "agrees with 1 of 2 picks" in shown
    assert "the same again in 1 of 1 pair" in shown
