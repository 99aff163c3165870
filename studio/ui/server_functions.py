"""Python functions that the scripts of the pages call directly, without a Gradio event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from studio.messages import told
from studio.store import StoreError
from studio.ui.page import Page

log = logging.getLogger("studio.web")


def server_function(
    call: Callable[..., dict[str, Any]], page: Page
) -> Callable[..., dict[str, Any]]:
    """Wrap `call` so that the browser always gets an answer.

    The answer is {"ok": True, …}, or {"ok": False, "sentence", "final"}; `final` says that trying
    again would not help.
    """

    @wraps(call)
    def run(payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": True, **call(payload)}
        except StoreError as error:
            # A refusal by the store has no cause. A full or busy disk is the cause of its error,
            # and may recover.
            return {"ok": False, "sentence": told(str(error)), "final": error.__cause__ is None}
        except Exception:
            log.exception("in %s", call.__name__)
            return {"ok": False, "sentence": page.went_wrong, "final": True}

    return run
