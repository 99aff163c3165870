"""Train: start a round, watch the taste arrive, and choose which round is used."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from studio.messages import _
from studio.ui.fields import Field, save_fields
from studio.ui.page import Page
from studio.ui.tabs.train import charts, evidence, learning, round_card, strip, verdict


def build(page: Page) -> None:
    """The current round, the verdict, the strip, the evidence, the curves and the settings."""
    with gr.Row(elem_classes="train-top", equal_height=False):
        with gr.Column(scale=3, min_width=320):
            round_card.build(page)
        with gr.Column(scale=2, min_width=280, elem_classes="card"):
            _automatic(page)
    verdict.build(page)
    strip.build(page)
    evidence.build(page)
    charts.build(page)
    with gr.Accordion(_("How it learns"), open=False, elem_id="how-it-learns"):
        learning.build(page)


def _automatic(page: Page) -> None:
    """Whether rounds start by themselves, and after how many picks."""
    live = gr.Checkbox(
        label=_("Learn by itself while I pick"),
        info=_("A round starts whenever there are enough new picks. You go on picking."),
        elem_id="live",
    )
    every = gr.Number(
        label=_("New picks for a round"),
        info=_("16 is a good number: fewer teach little, more take patience."),
        precision=0,
        elem_id="round-every",
        elem_classes="autosave narrow",
    )
    save_fields(
        page,
        [
            Field(live, lambda s: s.live, lambda s, value: replace(s, live=bool(value))),
            Field(every, lambda s: s.round_every, lambda s, n: replace(s, round_every=int(n))),
        ],
    )
