"""Cancellation of work that is no longer wanted."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.2  # between two polls of the store: a denoising step of a small model takes less


class Cancelled(Exception):
    """Stop the present work: the artist has cancelled it, or the worker ends."""


def now_and_then(require_wanted: Callable[[], None]) -> Callable[[], None]:
    """The same check, but at most once per `POLL_S`."""
    due_s = 0.0

    def check() -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            require_wanted()
            due_s = time.monotonic() + POLL_S

    return check
