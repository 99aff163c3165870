"""Numbers and states in an artist's words. Pure functions."""

from __future__ import annotations

import time

from studio.durations import with_time_left
from studio.store.rows import Round
from studio.store.status import RoundProgress, WorkerStatus

SILENT_AFTER_S = 10.0  # a living worker sends a heartbeat every 2 s
BELOW_ZERO = "Below 0 it goes against your picks."


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 pick`, `2 picks`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def good_and_bad(favourites: int, bad: int) -> tuple[str, str]:
    """`3 favourites` and `1 bad picture`."""
    return count(favourites, "favourite"), count(bad, "bad picture")


def per_cent(fraction: float) -> str:
    """`40 %`; no share is shown more precisely than that."""
    return f"{round(100 * fraction)} %"


def progress_of(round_: Round, status: WorkerStatus | None) -> RoundProgress | None:
    """How far the worker is with a round; None while it gets ready."""
    at = status.round if status is not None and not is_silent(status) else None
    return at if at is not None and at.round_id == round_.id else None


def share_done(round_: Round, status: WorkerStatus | None) -> float:
    """0 to 1: of the time of the whole round, or of its updates while the worker gets ready."""
    if at := progress_of(round_, status):
        return at.share
    return min(1.0, round_.updates_done / round_.updates_total) if round_.updates_total else 0.0


def is_silent(status: WorkerStatus | None, now_s: float | None = None) -> bool:
    """Whether the worker's last heartbeat is too old.

    One from the future counts as old too: the clock was set back since.
    """
    now_s = time.time() if now_s is None else now_s
    return status is not None and abs(now_s - status.heartbeat_at_s) > SILENT_AFTER_S


def worker_line(status: WorkerStatus | None, round_: Round | None) -> tuple[str, str]:
    """The state of the worker as (tone, words); the tone is idle, busy, wait or bad."""
    if status is None:
        return "wait", "The painter is starting"
    if is_silent(status):
        return "bad", "The painter stopped and is starting again"
    is_learning = round_ is not None and round_.state in ("running", "stopping")
    match status.state:
        case "starting":
            return "wait", status.message.rstrip(".") or "The painter is getting ready"
        # A round draws a picture now and then; the line stays as it is.
        case "training" | "sampling" | "rendering" if is_learning:
            return "busy", learning_line(round_, status, is_brief=True)
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


def learning_line(round_: Round, status: WorkerStatus | None, is_brief: bool = False) -> str:
    """`Drawing test pictures, 3 of 12, about 1 min left`; in brief, without the count."""
    if at := progress_of(round_, status):
        return with_time_left(at.step.partition(",")[0] if is_brief else at.step, at.left_s)
    share = share_done(round_, status)
    return f"Learning: {per_cent(share)}" if share else "Learning: getting ready"
