"""The story of a session: the fixed prompts over all rounds, to look at and to take away."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.ui.images import image_url, told
from studio.ui.page import Look, Page
from studio.ui.static import script, template


def build(page: Page) -> None:
    """One component: a player, and all rounds below it."""
    component = gr.HTML(
        value=None,
        html_template=template("compare/story.html"),
        js_on_load=script("compare/story.js"),
        apply_default_css=False,
        elem_id="story",
    )
    page.shows(lambda look: {component: state(look)}, [component])


def state(look: Look) -> dict[str, Any]:
    """The base first, then every round that left an adapter."""
    rounds = told(look.store, look.session.id)
    return {
        "prompts": list(look.settings.shown_prompts),
        "rounds": [
            {"name": name, "images": [image and image_url(image.id) for image in images]}
            for name, images in rounds
        ],
        "address": f"/stories/{look.session.id}/story.",
    }
