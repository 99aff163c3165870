"""Waits in words: about how long something takes, and how much of it is left."""

from __future__ import annotations

from studio.messages import _


def duration(seconds: float) -> str:
    """`a few seconds`, `about 40 s`, `about 3 min`, `about 1 h 20 min`."""
    if seconds < 8:
        return _("a few seconds")
    if seconds < 55:
        return _("about {seconds} s", seconds=round(seconds / 5) * 5)
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return _("about {minutes} min", minutes=minutes)
    hours, minutes = divmod(minutes, 60)
    if minutes:
        return _("about {hours} h {minutes} min", hours=hours, minutes=minutes)
    return _("about {hours} h", hours=hours)


def with_duration(what: str, seconds: float | None) -> str:
    """`Loading my-model, about 20 s`; None: not known yet."""
    if seconds is None:
        return what
    return _("{what}, {duration}", what=what, duration=duration(seconds))


def with_time_left(what: str, left_s: float | None) -> str:
    """`Drawing picture 4 of 8, about 2 min left`; None: not known yet."""
    if left_s is None:
        return what
    return _("{what}, {duration} left", what=what, duration=duration(left_s))
