"""A LoRA file that the session starts from: it becomes a part of the base model."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from studio.messages import N_, _, told
from studio.paths import typed
from studio.settings import SettingsError, StartLora
from studio.store.rows import Session
from studio.ui.jobs import cancel_queued
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt.preview import refresh_preview
from studio.ui.widgets import click_events

ABOUT = N_(
    "A LoRA that you or somebody else made already: it draws from the first pair on, and what is "
    "learned here comes on top of it. Your own LoRA then holds only the difference: in other "
    "tools, use both together."
)


def build(page: Page) -> None:
    """The LoRA in use, and the form for another one."""
    store = page.store
    card = gr.HTML(
        apply_default_css=False,
        elem_id="start-lora-card",
        js_on_load=click_events("start_without"),
    )
    path = gr.Textbox(
        label=_("A LoRA on this computer"),
        info=_("The path of a .safetensors file that was made for this model."),
        placeholder="/home/me/loras/my-style.safetensors",
        lines=1,
        elem_id="start-lora-path",
    )
    strength = gr.Slider(
        -2.0,
        2.0,
        value=1.0,
        step=0.05,
        label=_("Strength"),
        info=_("1 is as it was made."),
        elem_id="start-lora-strength",
    )
    check = gr.Button(_("Look at this LoRA"), elem_id="start-lora-check")
    found = gr.HTML(
        apply_default_css=False, elem_id="start-lora-found", js_on_load=click_events("start_from")
    )
    page.show(
        lambda snapshot: {card: current_lora(snapshot), found: inspected_lora(snapshot)},
        [card, found],
    )

    def form(snapshot: StoreSnapshot) -> Values:
        start = snapshot.settings.start
        return {path: start.path if start else "", strength: start.strength if start else 1.0}

    page.fill(form, [path, strength])

    def inspect(session: Session, text: str) -> None:
        wanted = typed(text)
        if not wanted:
            raise SettingsError(_("Write the path of a LoRA file first."))
        cancel_queued(store, session.id, "fit")
        payload = {"path": wanted, "base_model": session.settings.base_model}
        store.add_job(session.id, "fit", payload)

    def change_start(session: Session, start: StartLora | None) -> None:
        saved = store.change_settings(session.id, lambda now: replace(now, start=start))
        refresh_preview(page, session.settings, saved)

    def start_from(session: Session, strength: float, _event: gr.EventData) -> str:
        job = StoreSnapshot(store).newest_job("fit")
        if job is None or job.state != "done":
            raise SettingsError(_("Look at the LoRA first."))
        change_start(session, StartLora(job.payload["path"], float(strength)))
        return _("New pairs are drawn with this LoRA. The first takes a while: it is loaded first.")

    def start_without(session: Session, _event: gr.EventData) -> str:
        change_start(session, None)
        return _("The LoRA is left out again.")

    for event in (check.click, path.submit):
        page.on(event, inspect, inputs=[path])
    page.on(found.start_from, start_from, inputs=[strength], with_event=True, refill=True)
    page.on(card.start_without, start_without, with_event=True, refill=True)


def current_lora(snapshot: StoreSnapshot) -> str:
    """The LoRA that the session starts from, or what one is good for."""
    start = snapshot.settings.start
    if start is None:
        return f"<p class='soft'>{_(ABOUT)}</p>"
    line = _(
        "In use: <b>{name}</b> at strength {strength:g}. What is learned comes on top of it: in "
        "other tools, use both together.",
        name=escape(Path(start.path).name),
        strength=start.strength,
    )
    learned = ""
    if snapshot.adapters:
        alone = _(
            "What was learned without it stays with the model alone: without it, those rounds can "
            "be used again."
        )
        learned = f"<p class='soft'>{alone}</p>"
    return (
        f"<p>{line}</p>{learned}<button type='button' class='button' data-event='start_without'>"
        f"{_('Start without it')}</button>"
    )


def inspected_lora(snapshot: StoreSnapshot) -> str:
    """The result of inspecting a LoRA file for the session's model."""
    job = snapshot.newest_job("fit")
    if job is None or job.payload.get("base_model") != snapshot.settings.base_model:
        return ""
    path = str(job.payload.get("path"))
    match job.state:
        case "queued" | "running":
            name = f"<code>{escape(path)}</code>"
            return f"<p class='working-line'>{_('Looking at {name}', name=name)}</p>"
        case "failed":
            return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
        case "done":
            label = _("Start from this LoRA")
            if snapshot.settings.start and snapshot.settings.start.path == path:
                label = _("Use this strength")
            fits = _(
                "<b>{name}</b> fits: {words}",
                name=escape(job.result["name"]),
                words=escape(told(job.result["words"])),
            )
            return (
                f"<p>{fits}</p>"
                "<button type='button' class='button primary' data-event='start_from'>"
                f"{label}</button>"
            )
        case _:
            return ""
