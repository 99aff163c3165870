"""Prefer: which of these pictures is better? One component holds the next questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from studio.ui.page import Page
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template
from studio.ui.tabs.prefer.state import answer_value, page_state, question_value

PICKS_SENT = 40  # of the filmstrip, at a time


def build(page: Page) -> None:
    """One `gr.HTML`: it calls the functions below, and shows the state of the store."""
    store = page.store

    def pick(payload: dict[str, Any]) -> dict[str, Any]:
        is_ranked = payload["choice"] == "ranked"
        kept = store.add_answer(
            payload["pick_id"],
            payload["pair_id"],
            payload["choice"],
            ranking=payload["ranking"] if is_ranked else (),
            much_better=payload["much_better"],
            reason=payload["reason"],
            marks=payload["marks"],
        )
        return {
            "replaced": kept.replaced and answer_value(kept.replaced),
            "state": page_state(StoreSnapshot(store)),
        }

    def refresh(payload: dict[str, Any]) -> dict[str, Any]:
        """Whether a question has an answer by now, perhaps from another window or by a judge."""
        answers = store.recent_answers(payload["session_id"], limit=PICKS_SENT)
        found = [one for one in answers if one.question.id == payload["pair_id"]]
        return {
            "is_answered": bool(found),
            "judge": found[0].pick.judge if found else None,
            "state": page_state(StoreSnapshot(store)),
        }

    def undo(payload: dict[str, Any]) -> dict[str, Any]:
        asked = store.undo_pick(payload["undo_id"], payload["session_id"])
        return {
            "asked": asked and question_value(asked),
            "answer": asked and answer_value(store.answer_before(payload["undo_id"])),
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
        # First: with a pick that comes in between, the page sees that it does not have all of them.
        total = store.pick_counts(session_id).total
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
            "total": total,
        }

    calls = (pick, refresh, undo, size, favourite, note, picked)
    component = gr.HTML(
        value=None,
        html_template=template("prefer/prefer.html"),
        js_on_load=script("prefer/prefer.js"),
        server_functions=[server_function(call, page) for call in calls],
        apply_default_css=False,
        elem_id="prefer",
    )
    page.show(lambda snapshot: {component: page_state(snapshot)}, [component])
