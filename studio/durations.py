"""Waits in words: about how long something takes, and how much of it is left."""

from __future__ import annotations


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


def with_time_left(what: str, left_s: float | None) -> str:
    """`Drawing picture 4 of 8, about 2 min left`; None: not known yet."""
    return what if left_s is None else f"{what}, {duration(left_s)} left"
