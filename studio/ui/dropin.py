"""A picture that is dropped on a tab gives back the settings it was made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr
from pydantic import TypeAdapter, ValidationError

from studio.messages import N_, _
from studio.pictures.files import MOST_BYTES
from studio.pictures.infotext import Parameters
from studio.settings import SettingsError
from studio.store.rows import Session
from studio.ui.page import Page
from studio.ui.static import script

MADE = TypeAdapter(Parameters)  # as the browser brings it back from `/parameters`

DROP_HTML = f"""<div class="drop-in">
  <button type="button" class="button small">{N_("Take settings from a picture")}</button>
  <span class="soft">{N_("or drop one here")}</span>
  <input type="file" accept="image/png,image/jpeg,image/webp"
    aria-label="{N_("A picture whose settings are taken")}"
    data-most-bytes="{MOST_BYTES}" hidden>
</div>"""


def accept_picture(
    page: Page,
    elem_id: str,
    restore: Callable[[Session, Parameters], Any],
    outputs: Iterable[Any] = (),
    refill: bool = False,
) -> None:
    """Make the whole tab accept a dropped picture, whose settings go to `restore`.

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
            parameters = MADE.validate_json(str(event._data.get("made", "")))
        except ValidationError as error:
            raise SettingsError(_("The settings in this picture cannot be read.")) from error
        return restore(session, parameters)

    page.on(target.restore, handle, outputs=outputs, with_event=True, refill=refill)


def left_out_loras(parameters: Parameters, own: Iterable[str] = ()) -> list[str]:
    """A sentence on the LoRAs of a picture, except the session's own; [] if there are no others."""
    known = set(own)
    loras = [lora for lora in parameters.loras if lora[0] not in known]
    names = [
        _("“{name}” at {strength:g}", name=shortened(name), strength=strength)
        for name, strength in loras
    ]
    if not names:
        return []
    listed = ", ".join(names[:5])
    if len(names) > 5:
        listed = _("{listed} and {number} more", listed=listed, number=len(names) - 5)
    return [
        _(
            "Not taken over: the LoRA {listed} that it was drawn with.",
            listed=listed,
        )
    ]


def shortened(text: str) -> str:
    """At most 80 characters of somebody's text, for a sentence."""
    return text if len(text) <= 80 else f"{text[:79]}…"
