"""Prompt, start from a LoRA: somebody's, which becomes a part of the session's base model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from studio.paths import typed
from studio.settings import SessionSettings, SettingsError, StartLora
from studio.store.rows import Session
from studio.ui.page import Look, Page, Values

ABOUT = (
    "<p class='soft'>A LoRA that you or somebody else made already: it draws from the first pair "
    "on, and what is learned here comes on top of it. Your own LoRA then holds only the "
    "difference: in other tools, use both together.</p>"
)
JS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-start]");
  if (button) trigger("use", { without: button.dataset.start === "without" });
});"""


def build(page: Page, draw_preview: Callable[[Page, SessionSettings, Session], None]) -> None:
    """Which LoRA is in use, and the form for another one."""
    store = page.store
    card = gr.HTML(apply_default_css=False, elem_id="start-lora-card", js_on_load=JS)
    path = gr.Textbox(
        label="A LoRA on this computer",
        info="The path of a .safetensors file that was made for this model.",
        placeholder="/home/me/loras/my-style.safetensors",
        lines=1,
        elem_id="start-lora-path",
    )
    strength = gr.Slider(
        -2.0,
        2.0,
        value=1.0,
        step=0.05,
        label="Strength",
        info="1 is as it was made.",
        elem_id="start-lora-strength",
    )
    check = gr.Button("Look at this LoRA", elem_id="start-lora-check")
    found = gr.HTML(apply_default_css=False, elem_id="start-lora-found", js_on_load=JS)
    page.shows(lambda look: {card: in_use(look), found: looked_at(look)}, [card, found])

    def form(look: Look) -> Values:
        start = look.settings.start
        return {path: start.path if start else "", strength: start.strength if start else 1.0}

    page.fills(form, [path, strength])

    def look_at(session: Session, text: str) -> None:
        wanted = typed(text)
        if not wanted:
            raise SettingsError("Write the path of a LoRA file first.")
        for job in store.jobs(session.id, kind="fit"):
            if job.state == "queued":
                store.cancel_job(job.id)
        store.add_job(
            session.id, "fit", {"path": wanted, "base_model": session.settings.base_model}
        )

    def use(session: Session, at: float, event: gr.EventData) -> str:
        """Start from the LoRA that was looked at, or from none."""
        before = session.settings
        if event._data.get("without"):
            start, said = None, "The LoRA is left out again."
        else:
            job = Look(store).newest_job("fit")
            if job is None or job.state != "done":
                raise SettingsError("Look at the LoRA first.")
            start = StartLora(job.payload["path"], float(at))
            said = (
                "New pairs are drawn with this LoRA. The first takes a while: it is loaded first."
            )
        saved = store.change_settings(session.id, lambda now: replace(now, start=start))
        draw_preview(page, before, saved)
        return said

    for listener in (check.click, path.submit):
        page.hears(listener, look_at, inputs=[path])
    for component in (card, found):
        page.hears(component.use, use, inputs=[strength], with_event=True, refill=True)


def in_use(look: Look) -> str:
    """The LoRA that the session starts from."""
    start = look.settings.start
    if start is None:
        return ABOUT
    learned = (
        "<p class='soft'>What was learned without it stays with the model alone: without it, those "
        "rounds can be used again.</p>"
        if look.adapters
        else ""
    )
    return (
        f"<p>In use: <b>{escape(Path(start.path).name)}</b> at strength {start.strength:g}. What "
        "is learned comes on top of it: in other tools, use both together.</p>"
        f"{learned}<button type='button' class='button' data-start='without'>Start without it"
        "</button>"
    )


def looked_at(look: Look) -> str:
    """What looking at a LoRA file found."""
    job = look.newest_job("fit")
    if job is None or job.payload.get("base_model") != look.settings.base_model:
        return ""  # how it fits another model is of no interest
    path = str(job.payload.get("path"))
    match job.state:
        case "queued" | "running":
            return f"<p class='working-line'>Looking at <code>{escape(path)}</code></p>"
        case "failed":
            return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
        case "done":
            label = "Start from this LoRA"
            if look.settings.start and look.settings.start.path == path:
                label = "Use this strength"
            return (
                f"<p><b>{escape(job.result['name'])}</b> fits: {escape(job.result['words'])}</p>"
                "<button type='button' class='button primary' data-start='found'>"
                f"{label}</button>"
            )
        case _:
            return ""
