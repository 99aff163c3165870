"""Prompt: what to draw, with which model, and how. Every field saves itself."""

from __future__ import annotations

from functools import partial

import gradio as gr

from studio.messages import _, together
from studio.ui.dropin import accept_picture
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt import (
    folder,
    from_picture,
    model,
    own_art,
    preview,
    prompts,
    sampling,
    start_lora,
    styles,
)


def build(page: Page) -> None:
    """The model first; then prompts and settings on the left, the preview on the right."""
    with gr.Column(elem_id="model"):
        model.build(page)
    _steps(page)
    with gr.Row(elem_classes="prompt-columns", equal_height=False):
        with gr.Column(scale=5, min_width=320):
            prompts.build(page)
            accept_picture(page, "prompt-drop", partial(from_picture.restore, page), refill=True)
            with gr.Accordion(_("Pick from a folder of pictures"), open=False, elem_id="folder"):
                folder.build(page)
            with gr.Accordion(_("Learn from your own art"), open=False, elem_id="own"):
                own_art.build(page)
            with gr.Accordion(_("Styles"), open=False, elem_id="styles"):
                styles.build(page)
            with gr.Accordion(_("How pictures are made"), open=False, elem_id="picture-settings"):
                sampling.build(page)
            with gr.Accordion(_("Start from a LoRA"), open=False, elem_id="start-lora"):
                start_lora.build(page)
        with gr.Column(scale=6, min_width=320, elem_classes="sticky"):
            preview.build(page)


def _steps(page: Page) -> None:
    steps = gr.HTML(apply_default_css=False, elem_id="first-steps")

    def view(snapshot: StoreSnapshot) -> Values:
        if snapshot.adapters:
            return {steps: ""}
        picks, needed = snapshot.counts.usable, snapshot.settings.round_every
        return {steps: first_steps(bool(snapshot.settings.prompts), picks, needed)}

    page.show(view, [steps])


def first_steps(has_prompts: bool, picks: int, needed: int) -> str:
    """What a first visitor does, in three steps; they disappear after the first round.

    `needed`: picks that start a round.
    """
    current = 1 if not has_prompts else 2 if picks < needed else 3
    two = _("Two pictures, one key.")
    if picks:
        two = together(two, _("{picks} of {needed} so far.", picks=picks, needed=needed))
    first = (
        _("Some are here to begin with. Change them as you like.")
        if has_prompts
        else _("Write it below, a line each.")
    )
    third = _("After every round the pictures are more to your taste.")
    texts = (
        (_("Say what to draw"), first, "", ""),
        (_("Pick what you like"), two, "prefer", _("Start picking")),
        (_("See it learn"), third, "train", _("Look")),
    )
    items = "".join(
        f"<li class='{'done' if n < current else 'now' if n == current else ''}'>"
        f"<b>{title}</b><span>{text}</span>"
        + (
            f"<button type='button' class='button {'primary' if n == current else ''} small' "
            f"data-open-tab='{tab}'>{label}</button>"
            if tab and n <= current
            else ""
        )
        + "</li>"
        for n, (title, text, tab, label) in enumerate(texts, start=1)
    )
    return f"<ol class='steps' aria-label='{_('The first three steps')}'>{items}</ol>"
