"""Fields that save themselves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from studio.store import (
    Session,
    Store,
)
from studio.ui import fields


def test_a_field_keeps_what_another_saved_since_it_was_read(store: Store, session: Session) -> None:
    """Leaving a field by a click on another saves both, and neither knows of the other."""
    page = SimpleNamespace(store=store)

    def save_with(put) -> object:
        return fields.saver(page, fields.Field(None, None, put))

    save_with(lambda s, value: replace(s, round_every=value))(session, 24)
    save_with(lambda s, value: replace(s, live=value))(session, not session.settings.live)
    settings = store.session(session.id).settings
    assert (settings.round_every, settings.live) == (24, not session.settings.live)
