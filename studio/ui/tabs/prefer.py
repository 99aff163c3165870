"""Prefer: two pictures, which one is better? One component holds the next pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from studio.store import Pair, Pick, StoreError
from studio.ui import words
from studio.ui.images import image_url, thumbnail_url
from studio.ui.page import Look, Page

log = logging.getLogger("studio.web")

PAIRS_SENT = 64  # all that ever wait: nobody is held up by a slow answer. Four are decoded
PICKS_SENT = 40  # of the filmstrip, at a time

_ASSETS = Path(__file__).parent.parent / "assets"
# One script: the files share what they name, and the first begins when the others have been read.
_SCRIPTS = ("prefer.js", "prefer_view.js", "prefer_strip.js", "prefer_keys.js")


def build(page: Page) -> None:
    """One `gr.HTML`; it calls the functions here, and is told the state of the store."""
    store = page.store

    def pick(payload: dict[str, Any]) -> dict[str, Any]:
        store.add_pick(
            payload["pick_id"],
            payload["pair_id"],
            payload["choice"],
            much_better=payload["much_better"],
            reason=payload["reason"],
        )
        return {"state": state(Look(store))}

    def undo(payload: dict[str, Any]) -> dict[str, Any]:
        pair = store.undo_pick(payload["undo_id"], payload["session_id"])
        return {
            "pair": pair and pair_value(pair),
            "answer": pair and answer_value(store.undone_pick(payload["undo_id"])),
            "state": state(Look(store)),
        }

    def favourite(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_favourite(payload["image_id"], payload["favourite"])
        return {"state": state(Look(store))}

    def note(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_note(payload["pair_id"], payload["note"])
        return {"state": state(Look(store))}

    def picked(payload: dict[str, Any]) -> dict[str, Any]:
        """A page of the filmstrip; it changes nothing."""
        session_id = payload["session_id"]
        found = store.recent_picks(
            session_id,
            before=payload["before"],
            favourites=payload["favourites"],
            limit=PICKS_SENT + 1,
        )
        return {
            "picks": [
                {
                    "pick_id": one.pick.id,
                    "pair": pair_value(one.pair),
                    "answer": answer_value(one.pick),
                }
                for one in found[:PICKS_SENT]
            ],
            "more": len(found) > PICKS_SENT,
            "total": store.pick_counts(session_id).total,
        }

    component = gr.HTML(
        value=None,
        html_template=(_ASSETS / "prefer.html").read_text(encoding="utf-8"),
        js_on_load="\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        server_functions=[answered(call, page) for call in (pick, undo, favourite, note, picked)],
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
        "known": known_line(look),
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
        "note": pair.note,
        **{
            f"{side}_{name}": value
            for side, image in (("left", pair.left), ("right", pair.right))
            for name, value in (
                ("image_id", image.id),
                ("favourite", image.favourite),
                ("thumbnail", thumbnail_url(image.id)),
            )
        },
    }


def answer_value(pick: Pick) -> dict[str, Any]:
    """What was said about a pair, as the browser knows it."""
    return {"choice": pick.choice, "much_better": pick.much_better, "reason": pick.reason}


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


def known_line(look: Look) -> str:
    """How far the painter agrees with the artist, and the artist with themselves; see Train."""
    parts = []
    if look.agreement is not None:
        right, asked = look.agreement
        parts.append(f"it guesses {right} of {asked}")
    if look.habits.asked_again:
        parts.append(f"you repeat {look.habits.same_again} of {look.habits.asked_again}")
    return ", ".join(parts)


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
