"""The top of the page: the open session and what the worker is doing."""

from __future__ import annotations

import time
from collections import Counter
from html import escape

import gradio as gr

from studio.store import home_warning
from studio.store.rows import Session
from studio.ui import words
from studio.ui.page import Look, Page, Values, begin_session
from studio.ui.static import script

NOTICE = """
<div id="notice-area" class="notice" role="alert" hidden>
  <span class="notice-text"></span>
  <button type="button" class="button quiet" aria-label="Close this message">×</button>
</div>
"""

BRAND = """
<a class="brand" href="/" aria-label="D3PO Studio, start page">
  <svg viewBox="0 0 32 32" aria-hidden="true">
    <rect class="brand-left" x="3" y="7" width="14" height="18" rx="3"/>
    <rect class="brand-right" x="13" y="4" width="16" height="24" rx="3"/>
    <path class="brand-tick" d="m17 16.5 3 3 5.5-7"/>
  </svg>
  <span>D3PO Studio</span>
</a>
"""

THEME_BUTTON = """
<button type="button" class="button quiet icon" data-act="theme" aria-label="Dark or light"
  title="Dark or light">
  <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7.25"/>
  <path d="M10 2.75a7.25 7.25 0 0 1 0 14.5z"/></svg>
</button>
"""


def notice_area() -> gr.HTML:
    """Where sentences for the artist appear, whatever tab is open."""
    return gr.HTML(
        value=None,
        html_template=NOTICE,
        js_on_load=script("shared/notices.js"),
        apply_default_css=False,
        elem_id="notices",
    )


def build(page: Page) -> None:
    """The bar with the session menu and the worker's line."""
    bar = gr.HTML(
        value="",
        js_on_load=script("shared/header.js", "session"),
        apply_default_css=False,
        elem_id="studio-header",
    )

    warned = _warning(home_warning(page.store.home))

    def view(look: Look) -> Values:
        grow, damaged = "<span class='grow'></span>", _damaged(look.store.damaged_rows())
        parts = (BRAND, _menu(look), grow, damaged, warned, _status(look), THEME_BUTTON)
        return {bar: "".join(parts)}

    page.shows(view, [bar], late=True)
    _hear(page, bar)


def _hear(page: Page, bar: gr.HTML) -> None:
    store = page.store

    def session(shown: Session, event: gr.EventData) -> str | None:
        """What was chosen in the session menu."""
        act, session_id, name = (event._data.get(key) or "" for key in ("act", "id", "name"))
        if act == "open":
            store.set_last_session(session_id)
        elif act == "new":
            begin_session(store, name)
        elif act == "rename":
            store.rename_session(session_id, name)
        elif act == "duplicate":
            made = store.duplicate_session(session_id, name)
            store.set_last_session(made.id)
            return "Duplicated with its prompts and settings. Picks stay where they were made."
        elif act == "delete":
            gone = store.session(session_id)
            store.delete_session(session_id)
            return f"“{gone.name}” was deleted. Its files are kept in the folder “aside”."
        return None

    page.hears(bar.session, session, with_event=True)


def _menu(look: Look) -> str:
    rows = "".join(_row(session, session.id == look.session.id) for session in look.sessions)
    rows += "".join(
        "<li class='soft'>A damaged session: the sign above says how to mend it</li>"
        for table, _ in look.store.damaged_rows()
        if table == "sessions"
    )
    return f"""
<div class="session-picker">
  <button type="button" class="button quiet session-open" popovertarget="session-menu"
    aria-label="Session: {escape(look.session.name)}. Open the list of sessions">
    <span class="session-name">{escape(look.session.name)}</span>
    <svg viewBox="0 0 12 12" aria-hidden="true"><path d="m2.5 4.5 3.5 3.5 3.5-3.5"/></svg>
  </button>
  <div id="session-menu" class="menu" popover>
    <h2>Sessions</h2>
    <ul>{rows}</ul>
    <button type="button" class="button wide" data-act="new">New session</button>
    <button type="button" class="button wide quiet" data-act="take"
      title="A file that was saved here, or on another machine"
      >Open a session from a file</button>
    <button type="button" class="button wide quiet" data-act="report"
      title="The last errors, versions and device; no prompts, names or paths"
      >Copy a report for help</button>
  </div>
</div>"""


def _warning(sentence: str) -> str:
    """A sign that opens what is to be said about where the home lies; nothing if it lies well."""
    if not sentence:
        return ""
    return _sign(
        "home-warning",
        "Your work may not be safe where it is kept",
        "Where your work is kept",
        sentence,
    )


def _damaged(rows: list[tuple[str, str]]) -> str:
    """A sign that opens what is damaged and left out of the page; nothing if nothing is."""
    if not rows:
        return ""
    numbers = Counter(table.replace("_", " ") for table, _ in rows)
    listed = ", ".join(f"{table} ({number})" for table, number in numbers.items())
    return _sign(
        "damaged-rows",
        "Part of what is kept is damaged",
        "What is damaged",
        f"Some rows of the database are damaged and left out here: {listed}. All else works. "
        "Close the studio and run `python launch.py doctor`, which mends them or sets them aside.",
    )


def _sign(id_: str, label: str, title: str, sentence: str) -> str:
    return f"""
<button type="button" class="button quiet icon home-sign" popovertarget="{id_}"
  aria-label="{label}" title="{title}">
  <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M10 3 18 16.5H2zM10 8v4M10 14v.5"/></svg>
</button>
<div id="{id_}" class="menu" popover>
  <h2>{title}</h2>
  <p>{escape(sentence)}</p>
</div>"""


def _row(session: Session, is_open: bool) -> str:
    when = time.strftime("%d %b, %H:%M", time.localtime(session.updated_at_s))
    prompts = words.count(len(session.settings.prompts), "prompt")
    about = f"data-id='{session.id}' data-name='{escape(session.name, quote=True)}'"
    mark = "aria-current='true'" if is_open else ""

    def small(act: str, label: str, path: str) -> str:
        return (
            f"<button type='button' class='button quiet icon' data-act='{act}' {about} "
            f"title='{label}' aria-label='{label} {escape(session.name, quote=True)}'>"
            f"<svg viewBox='0 0 20 20' aria-hidden='true'><path d='{path}'/></svg></button>"
        )

    return (
        f"<li {mark}><button type='button' class='session-row' data-act='open' {about}>"
        f"<b>{escape(session.name)}</b><small>{prompts} · {when}</small></button>"
        + small("rename", "Rename", "M4 16l1-4 8.5-8.5 3 3L8 15z")
        + small("duplicate", "Duplicate", "M7 7V3h10v10h-4M3 7h10v10H3z")
        + small("save", "Save as a file", "M10 3v9M6 8.5l4 4 4-4M4 16.5h12")
        + small("delete", "Delete", "M4 6h12M8 6V3.5h4V6M6 6l.7 10.5h6.6L14 6")
        + "</li>"
    )


def _status(look: Look) -> str:
    tone, line = look.worker_line
    device = f" · {look.worker.device}" if look.worker and look.worker.device else ""
    return (
        f"<p class='status' data-tone='{tone}' role='status' title='{escape(line + device)}'>"
        f"<i aria-hidden='true'></i><span>{escape(line)}</span></p>"
    )
