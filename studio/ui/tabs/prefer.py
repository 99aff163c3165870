"""Prefer: which of these pictures is better? One component holds the next ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from studio.store import Answer, Question, StoreError
from studio.ui import words
from studio.ui.images import image_url, thumbnail_url
from studio.ui.page import Look, Page

log = logging.getLogger("studio.web")

QUESTIONS_SENT = 64  # all that ever wait: nobody is held up by a slow answer. Four are decoded
PICKS_SENT = 40  # of the filmstrip, at a time

_ASSETS = Path(__file__).parent.parent / "assets"
# One script: the files share what they name, and the first begins when the others have been read.
_SCRIPTS = ("prefer.js", "prefer_grid.js", "prefer_view.js", "prefer_strip.js", "prefer_keys.js")


def build(page: Page) -> None:
    """One `gr.HTML`; it calls the functions here, and is told the state of the store."""
    store = page.store

    def pick(payload: dict[str, Any]) -> dict[str, Any]:
        kept = store.add_answer(
            payload["pick_id"],
            payload["pair_id"],
            payload["choice"],
            ranking=payload["ranking"] if payload["choice"] == "ranked" else (),
            much_better=payload["much_better"],
            reason=payload["reason"],
        )
        replaced = kept.replaced and answer_value(kept.replaced)
        return {"replaced": replaced, "state": state(Look(store))}

    def undo(payload: dict[str, Any]) -> dict[str, Any]:
        asked = store.undo_pick(payload["undo_id"], payload["session_id"])
        return {
            "asked": asked and question_value(asked),
            "answer": asked and answer_value(store.undone(payload["undo_id"])),
            "state": state(Look(store)),
        }

    def size(payload: dict[str, Any]) -> dict[str, Any]:
        pictures = payload["pictures"]
        store.change_settings(payload["session_id"], lambda now: replace(now, pictures=pictures))
        return {"state": state(Look(store))}

    def favourite(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_favourite(payload["image_id"], payload["favourite"])
        return {"state": state(Look(store))}

    def note(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_note(payload["pair_id"], payload["note"])
        return {"state": state(Look(store))}

    def picked(payload: dict[str, Any]) -> dict[str, Any]:
        """A page of the filmstrip; it changes nothing."""
        session_id = payload["session_id"]
        found = store.recent_answers(
            session_id,
            before=payload["before"],
            favourites=payload["favourites"],
            limit=PICKS_SENT + 1,
        )
        return {
            "picks": [
                {
                    "pick_id": one.id,
                    "asked": question_value(one.question),
                    "answer": answer_value(one),
                }
                for one in found[:PICKS_SENT]
            ],
            "more": len(found) > PICKS_SENT,
            "total": store.pick_counts(session_id).total,
        }

    calls = (pick, undo, size, favourite, note, picked)
    component = gr.HTML(
        value=None,
        html_template=(_ASSETS / "prefer.html").read_text(encoding="utf-8"),
        js_on_load="\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        server_functions=[answered(call, page) for call in calls],
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
    waiting = look.store.waiting(look.session.id, limit=QUESTIONS_SENT)
    round_ = look.open_round
    is_learning = round_ is not None and round_.state == "running"
    return {
        "session_id": look.session.id,
        "waiting": [question_value(asked) for asked in waiting],
        "pictures": look.settings.pictures,
        "counts": asdict(look.counts),
        "live": look.settings.live,
        "round_every": look.settings.round_every,
        "round": round_line(look),
        "known": known_line(look),
        "round_share": words.share_done(round_) if is_learning else None,
        "empty": None if waiting else empty(look),
    }


def question_value(asked: Question) -> dict[str, Any]:
    """What is asked, as the browser knows it."""
    first = asked.pairs[0]
    return {
        "id": asked.id,
        "prompt": first.prompt,
        "width_px": first.left.sampling.width_px,
        "height_px": first.left.sampling.height_px,
        "again": first.repeat_of is not None,
        "note": first.note,
        "pictures": [
            {
                "image_id": image.id,
                "url": image_url(image.id),
                "thumbnail": thumbnail_url(image.id),
                "favourite": image.favourite,
            }
            for image in asked.images
        ],
    }


def answer_value(answer: Answer) -> dict[str, Any]:
    """What was said about it, as the browser knows it."""
    picks = [one.pick for one in answer.picked]
    is_ranked = len(picks) > 1 and answer.ranking
    return {
        "choice": "ranked" if is_ranked else picks[0].choice,
        "much_better": picks[0].much_better,
        "reason": next((pick.reason for pick in picks if pick.reason), None),
        "ranking": list(answer.ranking),
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


def known_line(look: Look) -> str:
    """How far the painter agrees with the artist, and the artist with themselves; see Train."""
    parts = []
    if look.agreement is not None:
        right, asked = look.agreement
        parts.append(f"it guesses {right} of {asked}")
    if look.consistency.repeated:
        parts.append(f"you repeat {look.consistency.agreed} of {look.consistency.repeated}")
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
    is_pair = look.settings.pictures == 2
    faster = "You were faster than the painter. " if look.counts.total else ""
    return {
        "title": f"The next {'pair is' if is_pair else 'pictures are'} being drawn",
        "text": f"{faster}What comes next appears here by itself.",
        "working": True,
    }
