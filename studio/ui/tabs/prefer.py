"""Prefer: two pictures, which one is better? One component holds the next pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from studio.store import Pair, StoreError
from studio.ui import words
from studio.ui.images import image_url
from studio.ui.page import Look, Page

log = logging.getLogger("studio.web")

PAIRS_SENT = 8  # the pairs the browser knows of; it decodes the next four

_ASSETS = Path(__file__).parent.parent / "assets"


def build(page: Page) -> None:
    """One `gr.HTML`; it calls `pick` and `undo` here, and is told the state of the store."""
    store = page.store

    def pick(payload: dict[str, Any]) -> dict[str, Any]:
        store.add_pick(payload["pick_id"], payload["pair_id"], payload["choice"])
        return {"state": state(Look(store))}

    def undo(payload: dict[str, Any]) -> dict[str, Any]:
        before = {one.pair.id: one.pick.choice for one in store.picked_pairs(payload["session_id"])}
        pair = store.undo_pick(payload["undo_id"], payload["session_id"])
        return {
            "pair": pair and pair_value(pair),
            "choice": pair and before.get(pair.id),
            "state": state(Look(store)),
        }

    component = gr.HTML(
        value=None,
        html_template=(_ASSETS / "prefer.html").read_text(encoding="utf-8"),
        js_on_load=(_ASSETS / "prefer.js").read_text(encoding="utf-8"),
        server_functions=[answered(pick, page), answered(undo, page)],
        apply_default_css=False,
        elem_id="prefer",
    )
    page.shows(lambda look: {component: state(look)}, [component])


def answered(call: Callable[..., dict[str, Any]], page: Page) -> Callable[..., dict[str, Any]]:
    """`call` for the browser: {"ok": True, …}, or a sentence, final when trying again is no use."""

    @wraps(call)
    def run(payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": True, **call(payload)}
        except StoreError as error:
            # What the store itself refuses has no cause; a full or busy disk has one, and passes.
            return {"ok": False, "sentence": str(error), "final": error.__cause__ is None}
        except Exception:
            log.exception("in %s", call.__name__)
            return {"ok": False, "sentence": page.went_wrong, "final": True}

    return run


def state(look: Look) -> dict[str, Any]:
    """What the component shows."""
    waiting = look.store.waiting_pairs(look.session.id, limit=PAIRS_SENT)
    round_ = look.open_round
    is_learning = round_ is not None and round_.state == "running"
    return {
        "session_id": look.session.id,
        "pairs": [pair_value(pair) for pair in waiting],
        "counts": asdict(look.counts),
        "live": look.settings.live,
        "round_every": look.settings.round_every,
        "round": round_line(look),
        "round_share": words.share_done(round_) if is_learning else None,
        "empty": None if waiting else empty(look),
    }


def pair_value(pair: Pair) -> dict[str, Any]:
    """A pair as the browser knows it."""
    return {
        "id": pair.id,
        "prompt": pair.prompt,
        "left": image_url(pair.left.id),
        "right": image_url(pair.right.id),
        "width_px": pair.left.sampling.width_px,
        "height_px": pair.left.sampling.height_px,
        "again": pair.repeat_of is not None,
    }


def round_line(look: Look) -> str:
    """What is said of the round that is open; nothing when there is none."""
    round_ = look.open_round
    if round_ is None:
        return "" if look.settings.live else "Start a round on the Train tab"
    if round_.state == "paused":
        return f"Round {round_.number} is paused"
    if round_.state == "running":
        return f"Round {round_.number}: {words.learning_line(round_, look.metrics).lower()}"
    return f"Round {round_.number} is about to begin"


def empty(look: Look) -> dict[str, Any]:
    """Why there is no pair, and what to do or how long to wait."""
    if not look.settings.prompts:
        return {
            "title": "No prompts yet",
            "text": "Write a few prompts, one on each line. The first pair follows by itself.",
            "action": "Write prompts",
            "tab": "prompt",
        }
    tone, line = look.worker_line
    if tone == "bad":
        return {"title": line, "text": "Nothing is lost: your picks are kept.", "working": True}
    if tone == "wait":
        return {
            "title": line,
            "text": "It loads the model first. The first pair follows in a moment.",
            "working": True,
        }
    if look.open_round is not None and look.open_round.state == "running":
        left_s = words.seconds_left(look.open_round, look.metrics)
        until = f" It needs {words.duration(left_s)}." if left_s is not None else ""
        return {
            "title": "The painter is learning",
            "text": f"New pairs come when this round is done.{until}",
            "working": True,
        }
    return {
        "title": "The next pair is being drawn",
        "text": "You were faster than the painter. It appears here by itself.",
        "working": True,
    }
