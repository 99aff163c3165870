"""Pick from a folder of pictures: reading it, asking about it in pairs, and triage one by one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from studio.messages import _, ngettext, together, told, when
from studio.paths import typed
from studio.pictures.alike import sets_of
from studio.settings import SettingsError
from studio.store import Image
from studio.store.rows import SOURCE, SOURCE_MODEL, Job, Session
from studio.ui import words
from studio.ui.fields import Field, save_fields
from studio.ui.images import image_url
from studio.ui.jobs import cancel_open, is_open, words_of
from studio.ui.page import Page, Values
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template
from studio.ui.widgets import click_events, progress_bar


def build(page: Page) -> None:
    """The folder's path, what was read of it, and the ways to pick."""
    store = page.store
    path = gr.Textbox(
        label=_("A folder on this computer"),
        info=_(
            "Pictures of A1111, Forge, ComfyUI, SwarmUI or InvokeAI with their settings in them: "
            "PNG, JPEG, WebP or AVIF. They are copied; the folder stays as it is."
        ),
        placeholder="/home/me/outputs",
        lines=1,
        elem_id="folder-path",
    )
    read = gr.Button(_("Read the folder"), elem_id="folder-read", size="sm")
    about = gr.HTML(
        apply_default_css=False, elem_id="folder-read-so-far", js_on_load=click_events("cancel")
    )
    watch = gr.Checkbox(
        label=_("Watch this folder"),
        info=_(
            "New pictures are read by themselves while this session is open and the painter has "
            "nothing else to do."
        ),
        elem_id="folder-watch",
    )
    pairs_of = gr.Radio(
        [(_("Drawings of the model"), "drawings"), (_("Pictures of the folder"), "folder")],
        label=_("Pairs on Prefer are"),
        info=_(
            "Pictures of one prompt and one model meet, in a Swiss tournament: few clicks put "
            "many in order. Of near-duplicates one takes part."
        ),
        elem_id="pairs-of",
    )
    by_itself = _(
        "Or say of each picture by itself whether it is good or bad. Rounds then learn from both "
        "(“Learn from favourites and from “Neither” too”, on Train)."
    )
    gr.HTML(
        f"<p class='soft'>{by_itself}</p>",
        apply_default_css=False,
        elem_classes="under-field",
    )

    def to_triage(payload: dict[str, Any]) -> dict[str, Any]:
        return {"pictures": triage(store.folder_pictures(payload["session_id"]), _said(payload))}

    def _said(payload: dict[str, Any]) -> set[str]:
        return set(store.verdicts(payload["session_id"]))

    def say(payload: dict[str, Any]) -> dict[str, Any]:
        image = store.image(payload["image_id"])
        store.say_of(payload["answer_id"], image.id, payload["verdict"])
        settings = store.session(image.session_id).settings
        if payload["verdict"] and not settings.training.lone_pictures:
            training = replace(settings.training, lone_pictures=True)
            store.change_settings(image.session_id, lambda now: replace(now, training=training))
        return {}

    one_by_one = gr.HTML(
        value=None,
        html_template=template("prompt/triage.html"),
        js_on_load=script("prompt/triage.js"),
        server_functions=[server_function(call, page) for call in (to_triage, say)],
        apply_default_css=False,
        elem_id="triage",
    )

    def view(snapshot: StoreSnapshot) -> Values:
        job = snapshot.newest_job("read_folder")
        count = store.folder_count(snapshot.session.id)
        return {
            read: gr.update(interactive=not is_open(job)),
            watch: gr.update(interactive=bool(snapshot.settings.folder)),
            about: reading(snapshot, job, count) + watching(snapshot, job),
            one_by_one: {"session_id": snapshot.session.id, "pictures": count},
        }

    page.show(view, [read, watch, about, one_by_one])
    page.fill(lambda snapshot: {path: snapshot.settings.folder}, [path])
    fields = [
        Field(pairs_of, lambda s: s.pairs_of, lambda s, value: replace(s, pairs_of=value)),
        Field(watch, lambda s: s.watch_folder, lambda s, value: replace(s, watch_folder=value)),
    ]
    save_fields(page, fields)

    def read_folder(session: Session, text: str) -> Values:
        wanted = typed(text)
        if not wanted:
            raise SettingsError(_("Write the path of a folder with pictures first."))
        store.add_job(session.id, "read_folder", {"path": wanted})
        changes = {"pairs_of": "folder", "folder": wanted}
        store.change_settings(session.id, lambda now: replace(now, **changes))
        return {pairs_of: "folder"}

    def cancel(session: Session, _event: gr.EventData) -> None:
        cancel_open(store, session.id, "read_folder")

    for event in (read.click, path.submit):
        page.on(event, read_folder, inputs=[path], outputs=[pairs_of])
    page.on(about.cancel, cancel, with_event=True)


def watching(snapshot: StoreSnapshot, job: Job | None) -> str:
    """What was found in a watched folder since it was read by hand."""
    settings = snapshot.settings
    if not settings.watch_folder or job is None or job.finished_at_s is None:
        return ""
    session_id, since_s = snapshot.session.id, job.finished_at_s
    number, last_s = snapshot.store.folder_pictures_since(session_id, since_s)
    lines = [_("It is watched: nothing new yet.")]
    if number:
        found = ngettext(
            "It is watched: {number} new picture since, at {time}.",
            "It is watched: {number} new pictures since, the last at {time}.",
            number,
            time=when(last_s),
        )
        lines = [found]
    remarks = snapshot.store.left_out_since(session_id, settings.folder, since_s)
    if remarks:
        lines.append(_("Left out: {number}.", number=len(remarks)))
    return f"<p>{escape(together(*lines))}</p>{_left_out(remarks)}"


def _left_out(remarks: list[str]) -> str:
    """Which files were left out, to be folded out."""
    items = "".join(f"<li>{escape(told(remark))}</li>" for remark in remarks)
    summary = _("Which, and why")
    return f"<details><summary>{summary}</summary><ul>{items}</ul></details>" if items else ""


def triage(pictures: list[Image], said: set[str]) -> list[dict[str, Any]]:
    """Those of which nothing was said yet, by prompt and model, near-duplicates set together."""
    groups: dict[tuple[str, str], list[Image]] = defaultdict(list)
    for image in pictures:
        groups[image.prompt, image.companions.get(SOURCE_MODEL, "")].append(image)
    values = []
    for group in groups.values():
        firsts = sets_of([image.look for image in group])
        order = sorted(range(len(group)), key=lambda place: firsts[place])
        for place in order:
            image, others = group[place], firsts.count(firsts[place]) - 1
            if image.id in said:
                continue
            alike = ngettext(
                "Nearly the same as {number} other of the folder.",
                "Nearly the same as {number} others of the folder.",
                others,
            )
            values.append(
                {
                    "id": image.id,
                    "url": image_url(image.id),
                    "file": image.companions[SOURCE],
                    "prompt": image.prompt,
                    "alike": alike if others else "",
                }
            )
    return values


def _to_pick_from(count: int) -> str:
    return ngettext("{number} picture to pick from.", "{number} pictures to pick from.", count)


def reading(snapshot: StoreSnapshot, job: Job | None, count: int) -> str:
    """How far the reading is, what came of it, and what it means for learning."""
    if job is None or job.state == "cancelled":
        return f"<p>{_to_pick_from(count)}</p>" if count else ""
    if job.state == "failed":
        return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
    if job.state != "done":
        return (
            f"<p class='working-line'>{escape(words_of(snapshot, job))}</p>"
            f"{progress_bar(job.progress, _('The folder'))}"
            "<button type='button' class='button small' data-event='cancel'>"
            f"{_('Stop')}</button>"
            f"<p class='soft'>{_('You can pick meanwhile. What was read stays.')}</p>"
        )
    result = job.result
    new = result["pictures"]
    lines = [
        _("{pictures} to pick from, {new} of them new.", pictures=words.pictures(count), new=new)
    ]
    if result["other_model"]:
        model = Path(snapshot.settings.base_model).stem
        lines.append(
            _(
                "Of these, {number} were not made by {model}, or do not say so: it learns "
                "what you like in them, though it would draw them differently itself.",
                number=result["other_model"],
                model=model,
            )
        )
    if result["other_size"]:
        sampling = snapshot.settings.sampling
        lines.append(
            _(
                "{number} were scaled and cropped to {width_px} × {height_px}, the size that "
                "is learned. After a change of size, read the folder again.",
                number=result["other_size"],
                width_px=sampling.width_px,
                height_px=sampling.height_px,
            )
        )
    if result["left_out"]:
        lines.append(_("Left out: {number}.", number=result["left_out"]))
    said = "".join(f"<p>{escape(line)}</p>" for line in lines)
    said += _left_out(result.get("remarks", []))
    pick = (
        "<button type='button' class='button primary small' data-open-tab='prefer'>"
        f"{_('Pick in pairs')}</button>"
    )
    return said + (pick if count and snapshot.settings.pairs_of == "folder" else "")
