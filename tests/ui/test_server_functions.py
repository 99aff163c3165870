"""The answers of functions that the browser calls."""

from __future__ import annotations

from studio.store import (
    StoreError,
)
from studio.ui.server_functions import server_function


class FailingPage:
    """All that `server_function` needs of a page."""

    went_wrong = "Something went wrong."


def test_a_pick_is_sent_again_only_when_that_can_help():
    def refused(_: dict) -> dict:
        raise StoreError("This pair does not exist.")

    def full(_: dict) -> dict:
        raise StoreError("The disk is full.") from OSError(28, "No space left on device")

    def broken(_: dict) -> dict:
        raise KeyError("bug")

    answers = [server_function(call, FailingPage())({}) for call in (refused, full, broken)]
    assert [answer["ok"] for answer in answers] == [False] * 3
    assert [answer["final"] for answer in answers] == [True, False, True]
    assert answers[1]["sentence"] == "The disk is full."
