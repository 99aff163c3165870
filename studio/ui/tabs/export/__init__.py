"""Export: the LoRA as files that other tools load, and what was checked about them."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from studio.settings import SettingsError
from studio.statistics import tallies
from studio.store.rows import CHECK_PICTURE, USE_WITH, Export, Job, Session
from studio.ui.folders import show_folder
from studio.ui.page import Look, Page, Values
from studio.ui.static import script
from studio.ui.tabs.compare import choices
from studio.ui.tabs.exam import best_strength
from studio.ui.tabs.export import picks

FORMATS = {
    "kohya": "For A1111, Forge, ComfyUI, InvokeAI (.safetensors)",
    "diffusers": "For diffusers and PEFT (.safetensors)",
}
PRECISIONS = {
    "float32": "Exact (fp32)",
    "float16": "Half the size (fp16)",
    "bfloat16": "Half the size (bf16)",
}
LICENCES = ("", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CreativeML Open RAIL-M")


def build(page: Page, is_local: bool = True) -> None:
    """The form on the left, what was exported on the right."""
    with gr.Row(elem_classes="export-columns", equal_height=False):
        with gr.Column(scale=2, min_width=320):
            _form(page)
            with gr.Accordion("The picks themselves", open=False, elem_id="picks-fold"):
                picks.build(page, is_local)
        with gr.Column(scale=3, min_width=320):
            _made(page, is_local)


def _form(page: Page) -> None:
    adapter = gr.Dropdown(
        label="Which round", choices=[], elem_id="export-adapter", interactive=True
    )
    name = gr.Textbox(
        label="Name",
        info="The file is called so, and the tools show it.",
        max_lines=1,
        max_length=120,
        elem_id="export-name",
    )
    notes = gr.Textbox(
        label="Description",
        info="What the taste is, in your words.",
        lines=3,
        max_length=4000,
        elem_id="export-notes",
    )
    with gr.Row(elem_classes="numbers"):
        trigger = gr.Textbox(
            label="Trigger notes",
            info="Words that go well in the prompt, if any.",
            max_lines=2,
            max_length=500,
            min_width=160,
            elem_id="export-trigger",
        )
        strength = gr.Number(
            label="Recommended strength",
            info="1 is what was learned.",
            value=1.0,
            step=0.05,
            min_width=120,
            elem_id="export-strength",
        )
    with gr.Row(elem_classes="numbers"):
        author = gr.Textbox(label="By", max_lines=1, max_length=200, min_width=140)
        licence = gr.Dropdown(
            LICENCES, label="Licence", allow_custom_value=True, value="", min_width=160
        )
    formats = gr.CheckboxGroup(
        [(label, value) for value, label in FORMATS.items()],
        value=list(FORMATS),
        label="Files",
        elem_id="export-formats",
    )
    precision = gr.Dropdown(
        [(label, value) for value, label in PRECISIONS.items()],
        value="float32",
        label="Numbers",
        info="Half the size rounds a little; every tool reads all three.",
        elem_id="export-precision",
    )
    exam = gr.HTML(apply_default_css=False, elem_id="export-exam", elem_classes="under-field")
    export = gr.Button("Export the LoRA", variant="primary", elem_id="export-make")

    def view(look: Look) -> Values:
        job = look.newest_job("export")
        is_open = job is not None and job.state in ("queued", "running")
        current = look.session.current_adapter_id
        return {
            adapter: gr.update(choices=choices(look), value=current),
            # Sent only when it is another one: what the artist writes there stays.
            strength: best_strength(look, current) or 1.0,
            exam: exam_line(look, current),
            export: gr.update(
                interactive=bool(look.adapters) and not is_open,
                value="Exporting" if is_open else "Export the LoRA",
            ),
        }

    page.shows(view, [adapter, strength, exam, export])

    def choose(session: Session, adapter_id: str | None) -> Values:
        look = Look(page.store)
        return {
            strength: best_strength(look, adapter_id) or 1.0,
            exam: exam_line(look, adapter_id),
        }

    page.hears(adapter.input, choose, inputs=[adapter], outputs=[strength, exam])
    page.fills(lambda look: {name: look.session.name}, [name])

    def make(session: Session, *values: object) -> None:
        page.store.add_job(session.id, "export", export_payload(*values))

    page.hears(
        export.click,
        make,
        inputs=[adapter, name, notes, trigger, strength, author, licence, formats, precision],
    )


def exam_line(look: Look, adapter_id: str | None) -> str:
    """What the exams of an adapter say of it, and of the strength to recommend."""
    found = tallies(look.store.exams(look.session.id, adapter_id)) if adapter_id else {}
    if not found:
        return (
            "<p class='soft'>No blind exam was taken with this round. What one finds is written "
            "into the file. <button type='button' class='button small' data-open-tab='exam'>"
            "Take one</button></p>"
        )
    said = "; ".join(f"at strength {at:g} in {tally}" for at, tally in found.items())
    return f"<p class='soft'>Written into the file: you chose it blind {escape(said)}.</p>"


def export_payload(
    adapter_id: str | None,
    name: str,
    notes: str,
    trigger: str,
    strength: float | None,
    author: str,
    licence: str | None,
    formats: list[str],
    precision: str = "float32",
) -> dict[str, object]:
    """What the worker is asked for; says in a sentence what is missing."""
    if not adapter_id:
        raise SettingsError("There is nothing to export yet: let a round learn first.")
    if not name.strip():
        raise SettingsError("Give the LoRA a name.")
    if strength is None or not 0 < strength <= 2:
        raise SettingsError("The recommended strength lies between 0 and 2.")
    if not formats:
        raise SettingsError("Choose at least one kind of file.")
    return {
        "adapter_id": adapter_id,
        "name": name.strip(),
        "notes": notes.strip(),
        "trigger": trigger.strip(),
        "strength": float(strength),
        "author": author.strip(),
        "licence": (licence or "").strip(),
        "formats": list(formats),
        "precision": precision,
    }


# --- what was exported ---------------------------------------------------------------------------

ONLY_HERE = "Folders can be reached only on the machine the studio runs on."


def _made(page: Page, is_local: bool) -> None:
    tool = gr.Textbox(
        label="LoRA folder of your other tool",
        info="Such as models/Lora of A1111 and Forge, or models/loras of ComfyUI: the whole path.",
        max_lines=1,
        max_length=1000,
        elem_id="export-tool",
        visible=is_local,
    )
    made = gr.HTML(
        apply_default_css=False,
        elem_id="exports",
        js_on_load=script("export/exports.js", "send", "folder"),
    )
    page.fills(lambda look: {tool: look.store.lora_folder()}, [tool])
    page.shows(lambda look: {made: exports(look, is_local)}, [made])

    def remember(session: Session, written: str) -> str | dict[Any, Any] | None:
        if not is_local:
            raise SettingsError(ONLY_HERE)
        if written.strip() == page.store.lora_folder():
            # The field was left for a button, perhaps, and what that has to say may be there first.
            return {page.notice: gr.skip()}
        page.store.set_lora_folder(written)
        return "Exports can be sent there now." if written.strip() else None

    def folder(session: Session, event: gr.EventData) -> str:
        known = {export.id for export in page.store.exports(session.id)}
        export_id = str(event._data.get("export_id"))
        if not is_local or export_id not in known:
            raise SettingsError(ONLY_HERE)
        path = page.store.export_path(session.id, export_id)
        if not show_folder(path):
            raise SettingsError(f"The folder could not be opened. It is {path}.")
        return f"The folder is {path}."

    def send(session: Session, event: gr.EventData) -> str:
        if not is_local:
            raise SettingsError(ONLY_HERE)
        path = page.store.send_export(session.id, str(event._data.get("export_id")))
        return f"{path.name} is in {path.parent} now. Have the tool look for new LoRAs."

    for listener in (tool.blur, tool.submit):
        page.hears(listener, remember, inputs=[tool])
    page.hears(made.folder, folder, with_event=True)
    page.hears(made.send, send, with_event=True)


def exports(look: Look, is_local: bool) -> str:
    """The export that is being made, and those that were."""
    job = look.newest_job("export")
    cards = [_job_card(job), *(_card(look, export, is_local) for export in look.exports)]
    cards = [card for card in cards if card]
    if cards:
        return "".join(cards)
    if not look.adapters:
        return (
            "<div class='empty small'><h2>No LoRA yet</h2><p>After the first round it can be "
            "exported here, and used in other tools.</p>"
            "<button type='button' class='button primary' data-open-tab='prefer'>Pick pictures"
            "</button></div>"
        )
    return (
        "<div class='empty small'><h2>Ready to export</h2><p>The files are written, read back and "
        "compared with what was learned before they are offered here.</p></div>"
    )


def _job_card(job: Job | None) -> str:
    if job is None or job.state in ("done", "cancelled"):
        return ""
    name = escape(str(job.payload.get("name", "")))
    if job.state == "failed":
        return (
            f"<article class='card'><h2>{name}</h2>"
            f"<p class='problem' role='alert'>{escape(job.message)}</p></article>"
        )
    done = round(100 * job.progress)
    return (
        f"<article class='card'><h2>{name}</h2><p class='working-line'>Writing and checking</p>"
        f"<div class='bar big' role='progressbar' aria-label='Exporting' aria-valuemin='0' "
        f"aria-valuemax='100' aria-valuenow='{done}'><i style='inline-size:{done}%'></i></div>"
        "</article>"
    )


def _card(look: Look, export: Export, is_local: bool) -> str:
    folder = look.store.export_path(export.session_id, export.id)
    number = next((a.number for a in look.adapters if a.id == export.adapter_id), "?")
    when = time.strftime("%d %B, %H:%M", time.localtime(export.created_at_s))
    offered = [name for name in export.files if not name.endswith(CHECK_PICTURE)]
    files = "".join(_file(export, folder / name) for name in offered)
    checks = "".join(
        f"<li><b>{escape(str(what))}</b> {escape(str(found))}</li>"
        for what, found in export.checks.items()
    )
    does = {"send": "Send to the tool"} if look.store.lora_folder() else {}
    does |= {"folder": "Show folder"}
    buttons = "".join(
        f"<button type='button' class='button small' data-does='{what}' data-export='{export.id}'>"
        f"{words}</button>"
        for what, words in does.items()
        if is_local
    )
    return f"""
<article class="card export">
  <header><h2>{escape(export.name)}</h2><p class="soft">Round {number} · {when}</p></header>
  {_together(export)}{_pictures(export, folder)}
  <ul class="files">{files}</ul>
  <details><summary>What was checked</summary><ul class="checks">{checks}</ul></details>
  <footer><code title="The folder of these files">{escape(str(folder))}</code>{buttons}</footer>
</article>"""


def _together(export: Export) -> str:
    """That it is only the difference, where the session started from another LoRA."""
    start = export.checks.get(USE_WITH)
    if start is None:
        return ""
    return (
        f"<p>Taught on top of the LoRA <b>{escape(str(start))}</b>: in other tools, use both "
        "together.</p>"
    )


def _pictures(export: Export, folder: Path) -> str:
    """The same prompt and seed drawn in the studio, and from the file as another tool loads it."""
    checked = next((name for name in export.files if name.endswith(CHECK_PICTURE)), None)
    if checked is None:
        return ""
    shown = {
        checked.removesuffix(CHECK_PICTURE) + ".png": "Drawn in the studio",
        checked: "Drawn from the file",
    }
    if not all((folder / name).is_file() for name in shown):
        return ""
    figures = "".join(
        f"<figure><img src='{_url(export, name)}' alt=''><figcaption>{words}</figcaption></figure>"
        for name, words in shown.items()
    )
    return f"<div class='export-pictures'>{figures}</div>"


def _url(export: Export, name: str) -> str:
    return f"/exports/{export.session_id}/{export.id}/{quote(name)}"


def _file(export: Export, path: Path) -> str:
    if not path.is_file():
        return f"<li><span>{escape(path.name)}</span><span class='problem'>missing</span></li>"
    return (
        f"<li><span>{escape(path.name)}<small>{_size(path.stat().st_size)}</small></span>"
        f"<a class='button small primary' href='{_url(export, path.name)}' download>Download</a>"
        "</li>"
    )


def _size(size_bytes: int) -> str:
    if size_bytes < 1_000_000:
        return f"{max(1, round(size_bytes / 1000))} kB"
    return f"{size_bytes / 1e6:.1f} MB"
