"""Sessions are opened and begun here."""

from __future__ import annotations

from studio.messages import _
from studio.store import Store
from studio.store.rows import Session
from studio.ui.starter_pack import first_settings


def open_session(store: Store) -> Session:
    """The session that is open. A new home gets its first one, ready for labelling."""
    session_id = store.last_session_id()
    return store.session(session_id) if session_id else begin_session(store, _("First session"))


def begin_session(store: Store, name: str) -> Session:
    """Create a session with starter prompts, open it, and request its first pictures."""
    session = store.create_session(name=name, settings=first_settings())
    store.set_last_session(session.id)
    request_preview(store, session)
    return session


def request_preview(store: Store, session: Session) -> None:
    """Ask the worker to draw the shown prompts now, ahead of the pairs."""
    prompts = list(session.settings.shown_prompts)
    payload = {"prompts": prompts, "adapter_id": session.current_adapter_id}
    if prompts:
        store.add_job(session.id, "preview", payload)
