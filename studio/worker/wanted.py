"""Whether what is being worked on is still wanted."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.2  # between two looks at the store: a denoising step of a small model takes less


class Cancelled(Exception):
    """What was begun is to be left: the artist does not want it any more, or the worker ends."""


def now_and_then(require_wanted: Callable[[], None]) -> Callable[[], None]:
    """The same check, skipped while the last one is less than `LOOK_S` ago."""
    due_s = 0.0

    def check() -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            require_wanted()
            due_s = time.monotonic() + LOOK_S

    return check
