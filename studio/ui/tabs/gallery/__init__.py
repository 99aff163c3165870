"""Gallery: every picture that was drawn in the session, to look at, compare, star and delete."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.pictures.infotext import write
from studio.ui.images import made_with
from studio.ui.page import Page
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template
from studio.ui.tabs.gallery.state import (
    deleted_words,
    erasable,
    filter_of,
    index_value,
    page_state,
    page_value,
)


def build(page: Page) -> None:
    """One `gr.HTML`: it asks for the pages of pictures that are on the screen."""
    component = gr.HTML(
        value=None,
        html_template=template("gallery/gallery.html"),
        js_on_load=script("gallery/gallery.js"),
        server_functions=_server_functions(page),
        apply_default_css=False,
        elem_id="gallery",
    )
    page.show(lambda snapshot: {component: page_state(snapshot)}, [component])


def _server_functions(page: Page) -> list[Any]:
    store = page.store

    def index(payload: dict[str, Any]) -> dict[str, Any]:
        """Where the pages of a filter begin, and what can be filtered by."""
        return index_value(StoreSnapshot(store), payload["session_id"], filter_of(payload))

    def pictures(payload: dict[str, Any]) -> dict[str, Any]:
        """One page."""
        return page_value(
            store,
            store.gallery_page(
                payload["session_id"],
                filter_of(payload),
                int(payload["start"]),
                int(payload["before"]),
            ),
        )

    def favourite(payload: dict[str, Any]) -> dict[str, Any]:
        store.set_favourite(payload["image_id"], bool(payload["favourite"]))
        return {}

    def remove(payload: dict[str, Any]) -> dict[str, Any]:
        ids = store.delete_images(payload["session_id"], payload["image_ids"])
        return {"image_ids": ids, "words": deleted_words(len(ids))}

    def restore(payload: dict[str, Any]) -> dict[str, Any]:
        return {"image_ids": store.restore_images(payload["session_id"], payload["image_ids"])}

    def deleted(payload: dict[str, Any]) -> dict[str, Any]:
        """What would be erased, and why the rest would not."""
        return erasable(store, payload["session_id"])

    def erase(payload: dict[str, Any]) -> dict[str, Any]:
        return {"erased": store.erase_images(payload["session_id"], payload["image_ids"])}

    def settings(payload: dict[str, Any]) -> dict[str, Any]:
        """The settings of a picture, as A1111 writes them."""
        return {"text": write(made_with(store, store.image(payload["image_id"])))}

    calls = (index, pictures, favourite, remove, restore, deleted, erase, settings)
    return [server_function(call, page) for call in calls]
