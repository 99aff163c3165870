"""The exports there are: their files, their checks, and the folders they can be sent to."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from studio.messages import N_, _, told, when
from studio.settings import SettingsError
from studio.store.rows import CHECK_PICTURE, MIX, USE_WITH, Export, Job, Session
from studio.ui.adapters import round_number
from studio.ui.folders import show_folder
from studio.ui.jobs import words_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.widgets import click_events, progress_bar

ONLY_HERE = N_("Folders can be reached only on the machine the studio runs on.")


def build(page: Page, is_local: bool) -> None:
    """The folder of another tool, and a card for every export."""
    store = page.store
    tool = gr.Textbox(
        label=_("LoRA folder of your other tool"),
        info=_(
            "Such as models/Lora of A1111 and Forge, or models/loras of ComfyUI: the whole path."
        ),
        max_lines=1,
        max_length=1000,
        elem_id="export-tool",
        visible=is_local,
    )
    cards = gr.HTML(
        apply_default_css=False,
        elem_id="exports",
        js_on_load=click_events("open_folder", "send"),
    )
    page.fill(lambda snapshot: {tool: snapshot.store.lora_folder()}, [tool])
    page.show(lambda snapshot: {cards: export_cards(snapshot, is_local)}, [cards])

    def set_tool(session: Session, folder: str) -> str | Values | None:
        if not is_local:
            raise SettingsError(ONLY_HERE)
        if folder.strip() == store.lora_folder():
            # The field was perhaps left by a click on a button, whose sentence must stay.
            return {page.notice: gr.skip()}
        store.set_lora_folder(folder)
        return _("Exports can be sent there now.") if folder.strip() else None

    def open_folder(session: Session, event: gr.EventData) -> str:
        known = {export.id for export in store.exports(session.id)}
        export_id = _export_id(event)
        if not is_local or export_id not in known:
            raise SettingsError(ONLY_HERE)
        path = store.export_path(session.id, export_id)
        if not show_folder(path):
            raise SettingsError(_("The folder could not be opened. It is {path}.", path=path))
        return _("The folder is {path}.", path=path)

    def send(session: Session, event: gr.EventData) -> str:
        if not is_local:
            raise SettingsError(ONLY_HERE)
        path = store.send_export(session.id, _export_id(event))
        return _(
            "{name} is in {parent} now. Have the tool look for new LoRAs.",
            name=path.name,
            parent=path.parent,
        )

    for event in (tool.blur, tool.submit):
        page.on(event, set_tool, inputs=[tool])
    page.on(cards.open_folder, open_folder, with_event=True)
    page.on(cards.send, send, with_event=True)


def _export_id(event: gr.EventData) -> str:
    return str(event._data.get("export"))


def export_cards(snapshot: StoreSnapshot, is_local: bool) -> str:
    """The running export, then the finished ones, newest first."""
    cards = _job_card(snapshot, snapshot.newest_job("export"))
    cards += "".join(_card(snapshot, export, is_local) for export in snapshot.exports)
    if cards:
        return cards
    if not snapshot.adapters:
        return (
            f"<div class='empty small'><h2>{_('No LoRA yet')}</h2><p>"
            f"{_('After the first round it can be exported here, and used in other tools.')}</p>"
            "<button type='button' class='button primary' data-open-tab='prefer'>"
            f"{_('Pick pictures')}</button></div>"
        )
    about = _(
        "The files are written, read back and compared with what was learned before they are "
        "offered here."
    )
    return f"<div class='empty small'><h2>{_('Ready to export')}</h2><p>{about}</p></div>"


def _job_card(snapshot: StoreSnapshot, job: Job | None) -> str:
    if job is None or job.state in ("done", "cancelled"):
        return ""
    name = escape(str(job.payload.get("name", "")))
    if job.state == "failed":
        return (
            f"<article class='card'><h2>{name}</h2>"
            f"<p class='problem' role='alert'>{escape(told(job.message))}</p></article>"
        )
    return (
        f"<article class='card'><h2>{name}</h2><p class='working-line'>"
        f"{_('Writing and checking.')} {escape(words_of(snapshot, job))}</p>"
        f"{progress_bar(job.progress, _('Exporting'))}</article>"
    )


def _card(snapshot: StoreSnapshot, export: Export, is_local: bool) -> str:
    folder = snapshot.store.export_path(export.session_id, export.id)
    what = _("Round {number}", number=round_number(snapshot, export.adapter_id))
    if mix := export.checks.get(MIX):
        what = _("A mix of {mix}", mix=escape(str(mix)))
    downloads = [name for name in export.files if not name.endswith(CHECK_PICTURE)]
    files = "".join(_file(export, folder / name) for name in downloads)
    checks = "".join(
        f"<li><b>{escape(told(str(check)))}</b> {escape(told(str(result)))}</li>"
        for check, result in export.checks.items()
    )
    buttons = ""
    if is_local:
        if snapshot.store.lora_folder():
            buttons += _button(export, "send", _("Send to the tool"))
        buttons += _button(export, "open_folder", _("Show folder"))
    return f"""
<article class="card export">
  <header><h2>{escape(export.name)}</h2>
  <p class="soft">{what} · {when(export.created_at_s, "MMMMd")}</p></header>
  {_use_with(export)}{_pictures(export, folder)}
  <ul class="files">{files}</ul>
  <details><summary>{_("What was checked")}</summary><ul class="checks">{checks}</ul></details>
  <footer><code title="{_("The folder of these files")}">{escape(str(folder))}</code>
  {buttons}</footer>
</article>"""


def _button(export: Export, event: str, label: str) -> str:
    return (
        f"<button type='button' class='button small' data-event='{event}' "
        f"data-export='{export.id}'>{label}</button>"
    )


def _use_with(export: Export) -> str:
    """Names the LoRA that the session started from: the export holds only the difference to it."""
    start = export.checks.get(USE_WITH)
    if start is None:
        return ""
    return (
        "<p>"
        + _(
            "Taught on top of the LoRA <b>{name}</b>: in other tools, use both together.",
            name=escape(str(start)),
        )
        + "</p>"
    )


def _pictures(export: Export, folder: Path) -> str:
    """The same prompt and seed drawn in the studio, and from the file as another tool loads it."""
    checked = next((name for name in export.files if name.endswith(CHECK_PICTURE)), None)
    if checked is None:
        return ""
    captions = {
        checked.removesuffix(CHECK_PICTURE) + ".png": _("Drawn in the studio"),
        checked: _("Drawn from the file"),
    }
    if not all((folder / name).is_file() for name in captions):
        return ""
    figures = "".join(
        f"<figure><img src='{_url(export, name)}' alt=''><figcaption>{caption}</figcaption>"
        "</figure>"
        for name, caption in captions.items()
    )
    return f"<div class='export-pictures'>{figures}</div>"


def _url(export: Export, name: str) -> str:
    return f"/exports/{export.session_id}/{export.id}/{quote(name)}"


def _file(export: Export, path: Path) -> str:
    if not path.is_file():
        return (
            f"<li><span>{escape(path.name)}</span><span class='problem'>{_('missing')}</span></li>"
        )
    return (
        f"<li><span>{escape(path.name)}<small>{_size(path.stat().st_size)}</small></span>"
        f"<a class='button small primary' href='{_url(export, path.name)}' download>"
        f"{_('Download')}</a>"
        "</li>"
    )


def _size(size_bytes: int) -> str:
    """`12 kB`, or `3.1 MB`."""
    if size_bytes < 1_000_000:
        return f"{max(1, round(size_bytes / 1000))} kB"
    return f"{size_bytes / 1e6:.1f} MB"
