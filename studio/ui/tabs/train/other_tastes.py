"""What a round takes from other tastes of the artist: one that stays beside it, and a beginning."""

from __future__ import annotations

import gradio as gr

from studio.messages import _
from studio.ui.fields import Field, save_fields, training_field, with_training
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot


def build(page: Page) -> None:
    """The choice of another session's round, its share, and whether to begin with such tastes."""
    beside = gr.Dropdown(
        [(_("None"), "")],
        value="",
        label=_("Beside another taste"),
        info=_(
            "A round of another session that is to stay: this one then learns only what that one "
            "does not know of your picks yet."
        ),
        interactive=True,
        elem_id="beside",
    )
    with gr.Column(visible=False) as dial:
        share = gr.Slider(
            10, 90, step=5, label=_("How much of it stays, in %"), elem_id="beside-share"
        )
    begin = gr.Checkbox(
        label=_("Begin with my earlier tastes"),
        info=_(
            "From 8 picks on, a round begins with the mixture of your other sessions' tastes that "
            "the picks point to, and not from nothing. It says which."
        ),
        elem_id="from-tastes",
    )

    def view(snapshot: StoreSnapshot) -> Values:
        chosen = snapshot.settings.training.beside or ""
        return {
            beside: gr.update(choices=choices(snapshot), value=chosen),
            dial: gr.update(visible=bool(chosen)),
        }

    page.show(view, [beside, dial])
    save_fields(
        page,
        [
            training_field(beside, "beside", lambda value: value or None),
            Field(
                share,
                lambda s: round(100 * s.training.beside_share),
                lambda s, value: with_training(s, beside_share=value / 100),
            ),
            training_field(begin, "from_tastes", bool),
        ],
    )


def choices(snapshot: StoreSnapshot) -> list[tuple[str, str]]:
    """(label, adapter id) of all rounds of other sessions with the model that draws this one's
    pictures, the newest first; and of what is chosen, if it is none of them any more."""
    drawn = snapshot.store.images(snapshot.session.id, "pair", limit=1)
    tastes = snapshot.store.tastes(drawn[0].base_hash) if drawn else []
    found = [
        (_("{name} · round {number}", name=name, number=adapter.number), adapter.id)
        for name, adapter in tastes
        if adapter.session_id != snapshot.session.id
    ]
    chosen = snapshot.settings.training.beside
    if chosen and chosen not in {id_ for _, id_ in found}:
        found.append((_("A round that is gone, or of another model"), chosen))
    return [(_("None"), ""), *found]
