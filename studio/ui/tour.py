"""The tour of the pages: six steps, on the first start of a home or when it is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from studio.messages import N_, _
from studio.ui.page import Page, Values
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template


@dataclass(frozen=True)
class Step:
    """tab: the name of the tab that is opened. points_at: CSS selectors, the best first: the
    visible elements of one are framed together, and where there are none, the tab's own button."""

    tab: str
    points_at: tuple[str, ...]
    title: str
    text: str


STEPS = (
    Step(
        "prompt",
        ("#prompts",),
        N_("Say what to draw"),
        N_(
            "Some prompts are here to begin with, and their first pictures are being drawn. "
            "Change them whenever you like."
        ),
    ),
    Step(
        "prefer",
        (".prefer-pair", "#prefer .empty"),
        N_("Click what you prefer"),
        N_("Two pictures, one click, or the keys ← and →. Your picks are all that it learns from."),
    ),
    Step(
        "train",
        ("#round-card",),
        N_("See it learn"),
        N_(
            "A round starts by itself after some picks. Here you see how far it is, and whether to "
            "pick more, go on or stop."
        ),
    ),
    Step(
        "compare",
        ("#compare-draw", "#compare-viewer"),
        N_("Compare before and after"),
        N_("The same prompts and seeds, by the base model and by yours, at any strength."),
    ),
    Step(
        "exam",
        ("#tab-exam-button, #tab-export-button",),
        N_("Prove it, and take it with you"),
        N_(
            "Exam asks blind whether you really prefer yours. Export writes it as a LoRA file for "
            "your other tools."
        ),
    ),
    Step(
        "gallery",
        ("#tab-gallery-button",),
        N_("Find every picture again"),
        N_(
            "Gallery keeps all that was drawn, by prompt, round and pick. "
            "The session menu shows this tour again."
        ),
    ),
)


def build(page: Page) -> None:
    """One `gr.HTML`, which shows itself over the page."""
    store = page.store

    def seen(_payload: dict[str, Any]) -> dict[str, Any]:
        store.set_tour_seen()
        return {}

    component = gr.HTML(
        value=None,
        html_template=template("tour/tour.html"),
        js_on_load=script("tour/tour.js"),
        server_functions=[server_function(seen, page)],
        apply_default_css=False,
        elem_id="tour",
    )

    def view(snapshot: StoreSnapshot) -> Values:
        steps = [asdict(step) | {"title": _(step.title), "text": _(step.text)} for step in STEPS]
        return {component: {"steps": steps, "starts": is_first_start(snapshot)}}

    page.show(view, [component])


def is_first_start(snapshot: StoreSnapshot) -> bool:
    """Whether nobody has seen the tour, and nothing has been picked without one."""
    if snapshot.store.tour_seen() or snapshot.counts.total:
        return False
    return len(snapshot.store.sessions()) == 1
