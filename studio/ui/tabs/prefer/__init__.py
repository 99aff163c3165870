"""Prefer: which of these pictures is better? One component holds the next questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.ui.page import Page
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prefer.state import answer_value, page_state, question_value

PICKS_SENT = 40  # of the filmstrip, at a time

_ASSETS = Path(__file__).parents[2] / "assets"
# One script: the files share what they name, and the first begins when the others have been read.
_SCRIPTS = ("prefer.js", "prefer_grid.js", "prefer_view.js", "prefer_strip.js", "prefer_keys.js")


def build(page: Page) -> None:
    """One `gr.HTML`: it calls the functions below, and shows the state of the store."""
    store = page.store

    def pick(payload: dict[str, Any]) -> dict[str, Any]:
        id_, choice, reason = payload["pick_id"], payload["choice"], payload["reason"]
        if payload["is_grid"]:
            otherwise = "skip" if choice == "ranked" else choice
            ranking = payload["ranking"]
            store.add_ranking(id_, payload["pair_id"], ranking, otherwise, reason=reason)
        else:
            much_better = payload["much_better"]
            store.add_pick(id_, payload["pair_id"], choice, much_better=much_better, reason=reason)
        return {"state": page_state(StoreSnapshot(store))}

    def undo(payload: dict[str, Any]) -> dict[str, Any]:
        asked = store.undo_pick(payload["undo_id"], payload["session_id"])
        return {
            "asked": asked and question_value(asked),
            "answer": asked and answer_value(store.undone(payload["undo_id"])),
            "state": page_state(StoreSnapshot(store)),
        }

    def size(payload: dict[str, Any]) -> dict[str, Any]:
        pictures = payload["pictures"]
        store.change_settings(payload["session_id"], lambda now: replace(now, pictures=pictures))
        return {"state": page_state(StoreSnapshot(store))}

    def favourite(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_favourite(payload["image_id"], payload["favourite"])
        return {"state": page_state(StoreSnapshot(store))}

    def note(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_note(payload["pair_id"], payload["note"])
        return {"state": page_state(StoreSnapshot(store))}

    def picked(payload: dict[str, Any]) -> dict[str, Any]:
        """One page of the filmstrip."""
        session_id = payload["session_id"]
        answers = store.recent_answers(
            session_id,
            before=payload["before"],
            favourites=payload["favourites"],
            limit=PICKS_SENT + 1,
        )
        return {
            "picks": [
                {
                    "pick_id": answer.id,
                    "asked": question_value(answer.question),
                    "answer": answer_value(answer),
                }
                for answer in answers[:PICKS_SENT]
            ],
            "more": len(answers) > PICKS_SENT,
            "total": store.pick_counts(session_id).total,
        }

    calls = (pick, undo, size, favourite, note, picked)
    component = gr.HTML(
        value=None,
        html_template=(_ASSETS / "prefer.html").read_text(encoding="utf-8"),
        js_on_load="\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        server_functions=[server_function(call, page) for call in calls],
        apply_default_css=False,
        elem_id="prefer",
    )
    page.show(lambda snapshot: {component: page_state(snapshot)}, [component])
