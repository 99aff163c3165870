"""Numbers and states as sentences."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from studio.settings import (
    TrainingSettings,
)
from studio.store import (
    Metric,
    Round,
    WorkerStatus,
)
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
    assert words.duration(seconds) == said


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


METRICS = [Metric("r", update, {"seconds": 1.0, "loss": 0.69}) for update in range(1, 41)]


@pytest.mark.parametrize(
    ("status", "round_", "said"),
    [
        (None, None, ("wait", "The painter is starting")),
        (a_status(), None, ("idle", "Idle")),
        (a_status("sampling"), None, ("busy", "Drawing pairs")),
        (a_status("training"), a_round(), ("busy", "Learning: 40 %, about 1 min left")),
        (a_status("sampling"), a_round(), ("busy", "Learning: 40 %, about 1 min left")),
        (a_status("training"), a_round(updates_done=0), ("busy", "Learning: getting ready")),
        (a_status("training", 99), a_round(), ("bad", "The painter stopped and is starting again")),
        (a_status("error", message="No model."), None, ("bad", "No model")),
        (a_status("starting", message="Loading x."), None, ("wait", "Loading x")),
    ],
)
def test_the_workers_line(status, round_, said):
    assert words.worker_line(status and said_now(status), round_, METRICS) == said
