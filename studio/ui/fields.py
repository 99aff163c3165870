"""Form fields that save themselves, one by one, into the settings of the session they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio.messages import _, told
from studio.settings import SessionSettings, SettingsError
from studio.store.rows import Session
from studio.ui.page import Page

AfterSave = Callable[[SessionSettings, Session], None]  # (settings before, session now)


@dataclass(frozen=True)
class Field:
    """A component, and how its value is read from the settings and put into them."""

    component: Any
    read: Callable[[SessionSettings], Any]
    put: Callable[[SessionSettings, Any], SessionSettings]


def with_training(settings: SessionSettings, **changes: Any) -> SessionSettings:
    """The settings with changes of the training."""
    return replace(settings, training=replace(settings.training, **changes))


def training_field(component: Any, name: str, convert: Callable[[Any], Any]) -> Field:
    """A field for one of the training settings."""
    return Field(
        component,
        lambda s: getattr(s.training, name),
        lambda s, value: with_training(s, **{name: convert(value)}),
    )


def save_fields(page: Page, fields: Sequence[Field], after: AfterSave | None = None) -> None:
    """Fill the fields in when a session is opened, and save each one when the artist leaves it.

    `after` is called whenever a setting has changed.
    """
    page.fill(
        lambda snapshot: {f.component: f.read(snapshot.settings) for f in fields},
        [f.component for f in fields],
    )
    for field in fields:
        for event in _leaving(field.component):
            page.on(event, saver(page, field, after), inputs=[field.component])


def _leaving(component: Any) -> list[Any]:
    """The events that end the editing of a field."""
    if isinstance(component, gr.Textbox | gr.Number):
        return [component.blur, component.submit]
    return [component.input]


def saver(page: Page, field: Field, after: AfterSave | None = None) -> Callable[..., None]:
    """The handler that saves one field, on top of whatever was saved since it was filled in."""

    def save(session: Session, value: Any) -> None:
        if value is None:
            raise SettingsError(_("“{label}” needs a value.", label=told(field.component.label)))
        before = session.settings
        if field.put(before, value) == before:
            return
        saved = page.store.change_settings(session.id, lambda now: field.put(now, value))
        if after is not None:
            after(before, saved)

    return save
