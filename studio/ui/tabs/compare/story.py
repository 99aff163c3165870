"""The story of a session: the shown prompts over all rounds, to look at and to download."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.ui.images import image_url
from studio.ui.page import Page
from studio.ui.previews import previews_by_round
from studio.ui.snapshot import StoreSnapshot
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
    page.show(lambda snapshot: {component: page_state(snapshot)}, [component])


def page_state(snapshot: StoreSnapshot) -> dict[str, Any]:
    """The value of the component: the base first, then every round that produced an adapter."""
    rounds = previews_by_round(snapshot.store, snapshot.session.id)
    return {
        "prompts": list(snapshot.settings.shown_prompts),
        "rounds": [
            {"name": name, "images": [image and image_url(image.id) for image in images]}
            for name, images in rounds
        ],
        "address": f"/stories/{snapshot.session.id}/story.",
    }
