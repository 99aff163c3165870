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
        id_, choice, reason = payload["pick_id"], payload["choice"], payload["reason"]
        if payload["is_grid"]:
            otherwise = "skip" if choice == "ranked" else choice
            ranking = payload["ranking"]
            store.add_ranking(id_, payload["pair_id"], ranking, otherwise, reason=reason)
        else:
            much_better = payload["much_better"]
            store.add_pick(id_, payload["pair_id"], choice, much_better=much_better, reason=reason)
        replaced = store.answer_before(id_)
        return {
            "replaced": replaced and answer_value(replaced),
            "state": page_state(StoreSnapshot(store)),
        }

    def look(payload: dict[str, Any]) -> dict[str, Any]:
        """Whether a question has an answer by now, perhaps from another window."""
        answers = store.recent_answers(payload["session_id"], limit=PICKS_SENT)
        is_answered = any(answer.question.id == payload["pair_id"] for answer in answers)
        return {"is_answered": is_answered, "state": page_state(StoreSnapshot(store))}

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

    calls = (pick, look, undo, size, favourite, note, picked)
    component = gr.HTML(
        value=None,
        html_template=template("prefer/prefer.html"),
        js_on_load=script("prefer/prefer.js"),
        server_functions=[server_function(call, page) for call in calls],
        apply_default_css=False,
        elem_id="prefer",
    )
    page.show(lambda snapshot: {component: page_state(snapshot)}, [component])
