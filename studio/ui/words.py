"""Numbers and states in an artist's words. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Sequence

from studio.store.rows import Metric, Round, WorkerStatus

SILENT_AFTER_S = 10.0  # a living worker sends a heartbeat every 2 s
BELOW_ZERO = "Below 0 it goes against your picks."


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 pick`, `2 picks`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def good_and_bad(favourites: int, bad: int) -> tuple[str, str]:
    """`3 favourites` and `1 bad picture`."""
    return count(favourites, "favourite"), count(bad, "bad picture")


def duration(seconds: float) -> str:
    """`a few seconds`, `about 40 s`, `about 3 min`, `about 1 h 20 min`."""
    if seconds < 8:
        return "a few seconds"
    if seconds < 55:
        return f"about {round(seconds / 5) * 5} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min" if minutes else f"about {hours} h"


def per_cent(fraction: float) -> str:
    """`40 %`; no share is shown more precisely than that."""
    return f"{round(100 * fraction)} %"


def seconds_left(round_: Round, metrics: Sequence[Metric]) -> float | None:
    """The time a round still needs, at the pace of its latest updates."""
    recent = [m.values["seconds"] for m in metrics[-10:] if "seconds" in m.values]
    if not recent or not round_.updates_total:
        return None
    return sum(recent) / len(recent) * max(0, round_.updates_total - round_.updates_done)


def share_done(round_: Round) -> float:
    """0 to 1."""
    return min(1.0, round_.updates_done / round_.updates_total) if round_.updates_total else 0.0


def is_silent(status: WorkerStatus | None, now_s: float | None = None) -> bool:
    """Whether the worker's last heartbeat is too old.

    One from the future counts as old too: the clock was set back since.
    """
    now_s = time.time() if now_s is None else now_s
    return status is not None and abs(now_s - status.heartbeat_at_s) > SILENT_AFTER_S


def worker_line(
    status: WorkerStatus | None, round_: Round | None, metrics: Sequence[Metric]
) -> tuple[str, str]:
    """The state of the worker as (tone, words); the tone is idle, busy, wait or bad."""
    if status is None:
        return "wait", "The painter is starting"
    if is_silent(status):
        return "bad", "The painter stopped and is starting again"
    is_learning = round_ is not None and round_.state == "running"
    match status.state:
        case "starting":
            return "wait", status.message.rstrip(".") or "The painter is getting ready"
        # A round draws a pair now and then; the line stays as it is.
        case "training" | "sampling" if is_learning:
            return "busy", learning_line(round_, metrics)
        case "training":
            return "busy", "Learning: getting ready"
        case "sampling":
            return "busy", "Drawing pairs"
        case "rendering":
            return "busy", "Drawing pictures"
        case "exporting":
            return "busy", "Writing the LoRA"
        case "error":
            return "bad", status.message.rstrip(".") or "The painter ran into trouble"
        case _:
            return "idle", "Idle"


def learning_line(round_: Round | None, metrics: Sequence[Metric]) -> str:
    """`Learning: 40 %, about 1 min left`."""
    if round_ is None or not round_.updates_done:
        return "Learning: getting ready"
    left_s = seconds_left(round_, metrics)
    ending = f", {duration(left_s)} left" if left_s is not None else ""
    return f"Learning: {per_cent(share_done(round_))}{ending}"
