"""Numbers and states as sentences."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from studio.durations import duration
from studio.settings import (
    TrainingSettings,
)
from studio.store import (
    Round,
    WorkerStatus,
)
from studio.store.status import RoundProgress
from studio.ui import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "a few seconds"),
        (12, "about 10 s"),
        (58, "about 1 min"),
        (60 * 3 + 20, "about 3 min"),
        (3600, "about 1 h"),
        (4800, "about 1 h 20 min"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def a_round(**changes: object) -> Round:
    values = {
        "id": "r",
        "session_id": "s",
        "number": 2,
        "state": "running",
        "settings": TrainingSettings(),
        "train_pick_ids": tuple("abcdefgh"),
        "held_out_pick_ids": tuple("ij"),
        "updates_done": 40,
        "updates_total": 100,
        "adapter_id": None,
        "message": "",
        "created_at_s": 0.0,
        "started_at_s": 0.0,
        "finished_at_s": None,
    }
    return Round(**values | changes)


def a_status(state: str = "idle", age_s: float = 0.0, message: str = "") -> WorkerStatus:
    """Said so many seconds before it is looked at."""
    return WorkerStatus(1, state, message, "cpu", -age_s)


def said_now(status: WorkerStatus) -> WorkerStatus:
    return replace(status, heartbeat_at_s=time.time() + status.heartbeat_at_s)


AT = RoundProgress("r", "Drawing test pictures, 3 of 12", 0.8, 61.0)


@pytest.mark.parametrize(
    ("status", "round_", "said"),
    [
        (None, None, ("wait", "The painter is starting")),
        (a_status(), None, ("idle", "Idle")),
        (a_status("sampling"), None, ("busy", "Drawing pairs")),
        (a_status("training"), a_round(), ("busy", "Learning: 40 %")),
        (a_status("training"), a_round(updates_done=0), ("busy", "Learning: getting ready")),
        (a_status("training", 99), a_round(), ("bad", "The painter stopped and is starting again")),
        (a_status("error", message="No model."), None, ("bad", "No model")),
        (a_status("starting", message="Loading x."), None, ("wait", "Loading x")),
    ],
)
def test_the_workers_line(status, round_, said):
    assert words.worker_line(status and said_now(status), round_) == said


@pytest.mark.parametrize("state", ["training", "sampling", "rendering"])
def test_the_line_of_a_round_says_what_is_done_and_for_how_long(state):
    """Whatever it draws in between: after the last update, too."""
    status = replace(said_now(a_status(state)), round=AT)
    done = a_round(updates_done=100)
    line = words.worker_line(status, done)
    assert line == ("busy", "Drawing test pictures, about 1 min left")
    said = words.learning_line(done, status)
    assert said == "Drawing test pictures, 3 of 12, about 1 min left"
    assert words.share_done(done, status) == 0.8
    unknown = replace(status, round=replace(AT, left_s=None))
    assert words.learning_line(done, unknown) == AT.step
    of_another = replace(status, round=replace(AT, round_id="another"))
    assert words.progress_of(done, of_another) is None
    assert words.progress_of(done, replace(status, heartbeat_at_s=0.0)) is None
