"""A picture that is dropped on a tab gives back the settings it was made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from studio.pictures.files import MOST_BYTES
from studio.pictures.infotext import Parameters, ParametersError, read
from studio.settings import SettingsError
from studio.store.rows import Session
from studio.ui.page import Page
from studio.ui.static import script

DROP_HTML = f"""<div class="drop-in">
  <button type="button" class="button small">Take settings from a picture</button>
  <span class="soft">or drop a PNG here</span>
  <input type="file" accept="image/png,.png" aria-label="A PNG whose settings are taken"
    data-most-bytes="{MOST_BYTES}" hidden>
</div>"""


def accept_picture(
    page: Page,
    elem_id: str,
    restore: Callable[[Session, Parameters], Any],
    outputs: Iterable[Any] = (),
    refill: bool = False,
) -> None:
    """Make the whole tab accept a dropped PNG, whose settings go to `restore`.

    `restore` returns what a handler of `Page.on` returns.
    """
    target = gr.HTML(
        value=DROP_HTML,
        js_on_load=script("shared/dropin.js", "restore"),
        apply_default_css=False,
        elem_id=elem_id,
    )

    def handle(session: Session, event: gr.EventData) -> Any:
        try:
            parameters = read(str(event._data.get("text", "")))
        except ParametersError as error:
            raise SettingsError(str(error)) from error
        return restore(session, parameters)

    page.on(target.restore, handle, outputs=outputs, with_event=True, refill=refill)
