"""The top of the page: the session menu, warnings, and the state of the worker."""

from __future__ import annotations

from collections import Counter
from html import escape

import gradio as gr

from studio.messages import LANGUAGES, N_, _, language, told, when
from studio.store import Store, home_warning
from studio.store.rows import Session
from studio.ui import words
from studio.ui.page import Page, Values
from studio.ui.sessions import begin_session
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script

NOTICE = f"""
<div id="notice-area" class="notice" role="alert" hidden>
  <span class="notice-text"></span>
  <button type="button" class="button quiet" aria-label="{N_("Close this message")}">×</button>
</div>
"""

BRAND = """
<a class="brand" href="/" aria-label="{label}">
  <svg viewBox="0 0 32 32" aria-hidden="true">
    <rect class="brand-left" x="3" y="7" width="14" height="18" rx="3"/>
    <rect class="brand-right" x="13" y="4" width="16" height="24" rx="3"/>
    <path class="brand-tick" d="m17 16.5 3 3 5.5-7"/>
  </svg>
  <span>D3PO Studio</span>
</a>
"""

THEME_BUTTON = """
<button type="button" class="button quiet icon" data-act="theme" aria-label="{label}"
  title="{label}">
  <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7.25"/>
  <path d="M10 2.75a7.25 7.25 0 0 1 0 14.5z"/></svg>
</button>
"""


def notice_area() -> gr.HTML:
    """The area above the tabs that shows sentences to the artist."""
    return gr.HTML(
        value=None,
        html_template=NOTICE,
        js_on_load=script("shared/notices.js"),
        apply_default_css=False,
        elem_id="notices",
    )


def build(page: Page) -> None:
    """The bar above the tabs."""
    bar = gr.HTML(
        value="",
        js_on_load=script("shared/header.js", "session"),
        apply_default_css=False,
        elem_id="studio-header",
    )

    warning = home_warning(page.store.home)

    def view(snapshot: StoreSnapshot) -> Values:
        grow, damaged = "<span class='grow'></span>", _damaged(snapshot.store.damaged_rows())
        parts = (
            BRAND.format(label=_("D3PO Studio, start page")),
            _menu(snapshot),
            grow,
            damaged,
            home_sign(warning),
            _status(snapshot),
            language_menu(),
            THEME_BUTTON.format(label=_("Dark or light")),
        )
        return {bar: "".join(parts)}

    page.show(view, [bar], late=True)
    handlers = {
        "open": _open,
        "new": _new,
        "rename": _rename,
        "duplicate": _duplicate,
        "delete": _delete,
    }

    def act(_shown: Session, event: gr.EventData) -> str | None:
        """Do what was chosen in the session menu."""
        name, session_id, text = (str(event._data.get(key) or "") for key in ("act", "id", "name"))
        return handlers[name](page.store, session_id, text)

    page.on(bar.session, act, with_event=True)


# --- the acts of the session menu ----------------------------------------------------------------


def _open(store: Store, session_id: str, _name: str) -> None:
    store.set_last_session(session_id)


def _new(store: Store, _session_id: str, name: str) -> None:
    begin_session(store, name)


def _rename(store: Store, session_id: str, name: str) -> None:
    store.rename_session(session_id, name)


def _duplicate(store: Store, session_id: str, name: str) -> str:
    copy = store.duplicate_session(session_id, name)
    store.set_last_session(copy.id)
    return _("Duplicated with its prompts and settings. Picks stay where they were made.")


def _delete(store: Store, session_id: str, _name: str) -> str:
    name = store.session(session_id).name
    store.delete_session(session_id)
    return _("“{name}” was deleted. Its files are kept in the folder “aside”.", name=name)


# --- the HTML ------------------------------------------------------------------------------------


def _menu(snapshot: StoreSnapshot) -> str:
    rows = "".join(
        _row(session, session.id == snapshot.session.id) for session in snapshot.store.sessions()
    )
    rows += "".join(
        f"<li class='soft'>{_('A damaged session: the sign above says how to mend it')}</li>"
        for table, _row_id in snapshot.store.damaged_rows()
        if table == "sessions"
    )
    name = escape(snapshot.session.name)
    return f"""
<div class="session-picker">
  <button type="button" class="button quiet session-open" popovertarget="session-menu"
    aria-label="{_("Session: {name}. Open the list of sessions", name=name)}">
    <span class="session-name">{name}</span>
    <svg viewBox="0 0 12 12" aria-hidden="true"><path d="m2.5 4.5 3.5 3.5 3.5-3.5"/></svg>
  </button>
  <div id="session-menu" class="menu" popover>
    <h2>{_("Sessions")}</h2>
    <ul>{rows}</ul>
    <button type="button" class="button wide" data-act="new">{_("New session")}</button>
    <button type="button" class="button wide quiet" data-act="take"
      title="{_("A file that was saved here, or on another machine")}"
      >{_("Open a session from a file")}</button>
    <button type="button" class="button wide quiet" data-act="tour">{_("Show the tour")}</button>
    <button type="button" class="button wide quiet" data-act="report"
      title="{_("The last errors, versions and device; no prompts, names or paths")}"
      >{_("Copy a report for help")}</button>
  </div>
</div>"""


def language_menu() -> str:
    """The languages, by their own names."""
    rows = "".join(
        f"<button type='button' class='button wide quiet' data-act='language' data-id='{code}' "
        f"lang='{code}' aria-current='{str(code == language()).lower()}'>{name}</button>"
        for code, name in LANGUAGES.items()
    )
    return f"""
<button type="button" class="button quiet icon language-open" popovertarget="language-menu"
  aria-label="{_("Language")}" title="{_("Language")}">
  <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7.25"/>
  <path d="M2.75 10h14.5M10 2.75c-5 4.5-5 10 0 14.5 5-4.5 5-10 0-14.5z"/></svg>
</button>
<div id="language-menu" class="menu" popover><h2>{_("Language")}</h2>{rows}</div>"""


def home_sign(sentence: str) -> str:
    """A sign with the warning about the home's disk or folder; "" without one."""
    if not sentence:
        return ""
    return _sign(
        "home-warning",
        _("Your work may not be safe where it is kept"),
        _("Where your work is kept"),
        told(sentence),
    )


def _damaged(rows: list[tuple[str, str]]) -> str:
    """A sign with the number of damaged rows by table; "" without any."""
    if not rows:
        return ""
    numbers = Counter(table.replace("_", " ") for table, _ in rows)
    listed = ", ".join(f"{table} ({number})" for table, number in numbers.items())
    return _sign(
        "damaged-rows",
        _("Part of what is kept is damaged"),
        _("What is damaged"),
        _(
            "Some rows of the database are damaged and left out here: {listed}. All else "
            "works. Close the studio and run `python launch.py doctor`, which mends them or "
            "sets them aside.",
            listed=listed,
        ),
    )


def _sign(id_: str, label: str, title: str, sentence: str) -> str:
    """A button that opens a sentence."""
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
    changed = when(session.updated_at_s)
    prompts = words.prompts(len(session.settings.prompts))
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
        f"<b>{escape(session.name)}</b><small>{prompts} · {changed}</small></button>"
        + small("rename", _("Rename"), "M4 16l1-4 8.5-8.5 3 3L8 15z")
        + small("duplicate", _("Duplicate"), "M7 7V3h10v10h-4M3 7h10v10H3z")
        + small("save", _("Save as a file"), "M10 3v9M6 8.5l4 4 4-4M4 16.5h12")
        + small("delete", _("Delete"), "M4 6h12M8 6V3.5h4V6M6 6l.7 10.5h6.6L14 6")
        + "</li>"
    )


def _status(snapshot: StoreSnapshot) -> str:
    tone, line = snapshot.worker_line
    device = f" · {snapshot.worker.device}" if snapshot.worker and snapshot.worker.device else ""
    return (
        f"<p class='status' data-tone='{tone}' role='status' title='{escape(line + device)}'>"
        f"<i aria-hidden='true'></i><span>{escape(line)}</span></p>"
    )
