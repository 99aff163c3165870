"""Fields of a form that save themselves, one by one, into the settings of the session they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.settings import SessionSettings, SettingsError
from studio.store.rows import Session
from studio.ui.page import Page


@dataclass(frozen=True)
class Field:
    """A component, how its value is read from the settings, and how it is put into them."""

    component: Any
    read: Callable[[SessionSettings], Any]
    put: Callable[[SessionSettings, Any], SessionSettings]


def saves(
    page: Page,
    fields: Sequence[Field],
    after: Callable[[SessionSettings, Session], None] | None = None,
) -> None:
    """Fill the fields in when a session is opened, and save each when the artist leaves it.

    `after(before, session)` is called when something was changed.
    """
    page.fills(
        lambda look: {f.component: f.read(look.settings) for f in fields},
        [f.component for f in fields],
    )
    for field in fields:
        for listener in _left(field.component):
            page.hears(listener, _saver(page, field, after), inputs=[field.component])


def _left(component: Any) -> list[Any]:
    """The events that say the artist is done with a field."""
    if isinstance(component, gr.Textbox | gr.Number):
        return [component.blur, component.submit]
    return [component.input]


def _saver(
    page: Page, field: Field, after: Callable[[SessionSettings, Session], None] | None
) -> Callable[..., None]:
    def save(session: Session, value: Any) -> None:
        if value is None:
            raise SettingsError(f"“{field.component.label}” needs a value.")
        before = session.settings
        if field.put(before, value) == before:
            return
        saved = page.store.change_settings(session.id, lambda now: field.put(now, value))
        if after is not None:
            after(before, saved)

    return save
