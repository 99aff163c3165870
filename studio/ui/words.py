"""Numbers and states in an artist's words. Pure functions."""

from __future__ import annotations

import time

from studio.durations import with_time_left
from studio.messages import N_, _, ngettext, told
from studio.store.rows import Round
from studio.store.status import RoundProgress, WorkerStatus

# Words within sentences that the worker keeps.
WITHIN = (
    *(N_("the starter model"), N_("mix"), N_("adapter"), N_("again"), N_("by diffusers")),
    N_("Waiting."),
)

SILENT_AFTER_S = 10.0  # a living worker sends a heartbeat every 2 s


def picks(number: int) -> str:
    """`1 pick`, `2 picks`."""
    return ngettext("{number} pick", "{number} picks", number)


def new_picks(number: int) -> str:
    return ngettext("{number} new pick", "{number} new picks", number)


def pictures(number: int) -> str:
    return ngettext("{number} picture", "{number} pictures", number)


def pairs(number: int) -> str:
    return ngettext("{number} pair", "{number} pairs", number)


def prompts(number: int) -> str:
    return ngettext("{number} prompt", "{number} prompts", number)


def favourites(number: int) -> str:
    return ngettext("{number} favourite", "{number} favourites", number)


def good_and_bad(good: int, bad: int) -> tuple[str, str]:
    """`3 favourites` and `1 bad picture`."""
    return favourites(good), ngettext("{number} bad picture", "{number} bad pictures", bad)


def at_strength(name: str, strength: float, always: bool = False) -> str:
    """`Round 2 at 0.8`; of strength 1 the name alone, unless `always`."""
    if strength == 1 and not always:
        return name
    return _("{name} at {strength:g}", name=name, strength=strength)


def below_zero() -> str:
    """What strengths below 0 do."""
    return _("Below 0 it goes against your picks.")


def lowered(line: str) -> str:
    """A line that goes on within another one."""
    return line[:1].lower() + line[1:]


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
        return "wait", _("The painter is starting")
    if is_silent(status):
        return "bad", _("The painter stopped and is starting again")
    is_learning = round_ is not None and round_.state in ("running", "stopping")
    match status.state:
        case "starting":
            return "wait", told(status.message.rstrip(".")) or _("The painter is getting ready")
        # A round draws a picture now and then; the line stays as it is.
        case "training" | "sampling" | "rendering" if is_learning:
            return "busy", learning_line(round_, status, is_brief=True)
        case "training":
            return "busy", _("Learning: getting ready")
        case "sampling":
            return "busy", _("Drawing pairs")
        case "rendering":
            return "busy", _("Drawing pictures")
        case "exporting":
            return "busy", _("Writing the LoRA")
        case "error":
            return "bad", told(status.message.rstrip(".")) or _("The painter ran into trouble")
        case _:
            return "idle", _("Idle")


def learning_line(round_: Round, status: WorkerStatus | None, is_brief: bool = False) -> str:
    """`Drawing test pictures, 3 of 12, about 1 min left`; in brief, without the count."""
    if at := progress_of(round_, status):
        step = at.step.partition(",")[0] if is_brief else at.step
        return with_time_left(told(step), at.left_s)
    share = share_done(round_, status)
    return _("Learning: {share}", share=per_cent(share)) if share else _("Learning: getting ready")
