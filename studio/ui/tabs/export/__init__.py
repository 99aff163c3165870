"""Export: the LoRA as files that other tools load, and what was checked about them."""

from __future__ import annotations

import gradio as gr

from studio.messages import _
from studio.ui.page import Page
from studio.ui.tabs.export import exports, form, judge, picks


def build(page: Page, is_local: bool = True) -> None:
    """The form on the left, the exports on the right.

    `is_local`: the browser runs on the same machine, so folders can be opened, and files be run.
    """
    with gr.Row(elem_classes="export-columns", equal_height=False):
        with gr.Column(scale=2, min_width=320):
            form.build(page)
            with gr.Accordion(_("The picks themselves"), open=False, elem_id="picks-fold"):
                picks.build(page, is_local)
            with gr.Accordion(_("For experts: a judge picks"), open=False, elem_id="judge-fold"):
                judge.build(page, is_local)
        with gr.Column(scale=3, min_width=320):
            exports.build(page, is_local)
