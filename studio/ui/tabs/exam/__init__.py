"""Exam: is the tuned model really preferred? Base against tuned, blind, with the interval."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.messages import _
from studio.prompting.alternatives import expand
from studio.settings import LEAST_STRENGTH, MOST_STRENGTH, SettingsError, checked_strength
from studio.store.rows import Session
from studio.ui import words
from studio.ui.adapters import adapter_choices
from studio.ui.mixes import chosen_mixes, mix_choices
from studio.ui.page import Page, Values
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template
from studio.ui.tabs.exam import questions
from studio.ui.tabs.exam.state import page_state

DEFAULT_PAIRS = 20  # enough to tell a clear preference from chance, in two minutes


def build(page: Page) -> None:
    """The form on the left, the exam and its results on the right."""
    store = page.store
    with gr.Row(elem_classes="compare-columns exam-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            adapter = gr.Dropdown(
                label=_("Tuned by"),
                info=_("A round, or a mix that was compared on Compare."),
                choices=[],
                elem_id="exam-adapter",
                interactive=True,
            )
            strength = gr.Slider(
                LEAST_STRENGTH,
                MOST_STRENGTH,
                value=1.0,
                step=0.05,
                label=_("Strength"),
                info=_(
                    "Examine several to find the one that you like best. {below_zero}",
                    below_zero=words.below_zero(),
                ),
                elem_id="exam-strength",
            )
            count = gr.Number(
                label=_("Pairs"),
                value=DEFAULT_PAIRS,
                precision=0,
                info=_("More pairs make a surer result."),
                elem_id="exam-count",
            )
            prompts = gr.Textbox(
                label=_("Prompts of your own"),
                info=_(
                    "One on each line. Left empty, things that it has never practised are taken."
                ),
                lines=4,
                max_lines=10,
                elem_id="exam-prompts",
            )
            begin = gr.Button(_("Begin the exam"), variant="primary", elem_id="exam-begin")
        with gr.Column(scale=4, min_width=320):
            component = gr.HTML(
                value=None,
                html_template=template("exam/exam.html"),
                js_on_load=script("exam/exam.js"),
                server_functions=_server_functions(page),
                apply_default_css=False,
                elem_id="exam",
            )

    def view(snapshot: StoreSnapshot) -> Values:
        current = snapshot.session.current_adapter_id
        return {
            component: page_state(snapshot),
            adapter: gr.update(
                choices=adapter_choices(snapshot) + mix_choices(snapshot), value=current
            ),
            begin: gr.update(interactive=bool(snapshot.adapters)),
        }

    page.show(view, [component, adapter, begin])

    def begin_exam(
        session: Session, chosen: str | None, strength: float, pairs: float | None, text: str
    ) -> None:
        if not chosen:
            raise SettingsError(_("There is nothing to examine yet: let a round learn first."))
        strength = round(checked_strength(strength, zero=False), 2)
        mix = chosen_mixes(StoreSnapshot(store), [chosen]).get(chosen)
        adapter_ids = mix.adapter_ids if mix else [chosen]
        trained = frozenset().union(*map(store.trained_prompts, adapter_ids))
        asked = [
            (expand(prompt, seed, store.wildcards_path), seed)
            for prompt, seed in questions.with_seeds(
                questions.exam_prompts(text, session.settings, trained), pairs
            )
        ]
        questions.refuse_practised([prompt for prompt, _ in asked], trained)
        store.add_exam(session.id, adapter_ids[0], strength, asked, mix.asked if mix else None)

    page.on(begin.click, begin_exam, inputs=[adapter, strength, count, prompts])


def _server_functions(page: Page) -> list[Any]:
    store = page.store

    def answer(payload: dict[str, Any]) -> dict[str, Any]:
        answer_id = payload["answer_id"]
        store.answer_exam(answer_id, payload["pair_id"], payload["choice"])
        return {
            "replaced": store.exam_answer_before(answer_id),
            "state": page_state(StoreSnapshot(store)),
        }

    def refresh(payload: dict[str, Any]) -> dict[str, Any]:
        """The exam as it is now, with the answers from other windows."""
        return {"state": page_state(StoreSnapshot(store))}

    def take_back(payload: dict[str, Any]) -> dict[str, Any]:
        store.take_back_answer(payload["undo_id"], payload["exam_id"])
        return {"state": page_state(StoreSnapshot(store))}

    def leave(payload: dict[str, Any]) -> dict[str, Any]:
        store.leave_exam(payload["exam_id"])
        return {"state": page_state(StoreSnapshot(store))}

    def draw(payload: dict[str, Any]) -> dict[str, Any]:
        store.draw_exam(payload["exam_id"])
        return {"state": page_state(StoreSnapshot(store))}

    return [server_function(call, page) for call in (answer, refresh, take_back, leave, draw)]
