"""A picture dropped on a tab gives back the settings it was made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import TypeAdapter, ValidationError

from studio.pictures.files import MOST_BYTES
from studio.pictures.infotext import Parameters
from studio.prompting.alternatives import expand
from studio.settings import LEAST_PX, MOST_PX, STEP_PX, SessionSettings, SettingsError
from studio.store.rows import KnownModel, Session
from studio.ui.page import Page
from studio.ui.sizes import reads_clip_skip

MADE = TypeAdapter(Parameters)  # as the browser brings it back from `/parameters`

DROP_HTML = """<div class="drop-in">
  <button type="button" class="button small">Take settings from a picture</button>
  <span class="soft">or drop one here</span>
  <input type="file" accept="image/png,image/jpeg,image/webp"
    aria-label="A picture whose settings are taken" hidden>
</div>"""

DROP_JS = """
const input = element.querySelector("input");
async function take(file) {
  if (!file) return;
  if (file.size > MOST_BYTES) return studio.notify("bad", "This file is far too large.");
  const sent = fetch("/parameters", { method: "POST", body: file });
  const reply = await sent.then((answer) => answer.json()).catch(() => null);
  if (!reply) studio.notify("bad", "The studio does not answer. Try again in a moment.");
  else if (!reply.ok) studio.notify("bad", reply.sentence);
  else trigger("restore", { made: reply.made });
}
element.querySelector("button").addEventListener("click", () => input.click());
input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
const panel = element.closest('[role="tabpanel"]') || element;
const holdsFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
for (const kind of ["dragenter", "dragover"])
  panel.addEventListener(kind, (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    panel.classList.add("dropping");
  }, true);
panel.addEventListener("dragleave", (event) => {
  if (!panel.contains(event.relatedTarget)) panel.classList.remove("dropping");
});
panel.addEventListener("drop", (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  panel.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
}, true);
""".replace("MOST_BYTES", str(MOST_BYTES))


def takes_settings(
    page: Page,
    elem_id: str,
    restore: Callable[[Session, Parameters], Any],
    outputs: Iterable[Any] = (),
    refill: bool = False,
) -> None:
    """A place to drop a picture on, which is the whole tab; `restore` is a handler of `Page`."""
    place = gr.HTML(value=DROP_HTML, js_on_load=DROP_JS, apply_default_css=False, elem_id=elem_id)

    def take(session: Session, event: gr.EventData) -> Any:
        try:
            found = MADE.validate_json(str(event._data.get("made", "")))
        except ValidationError as error:
            raise SettingsError("What this picture says of its settings cannot be read.") from error
        return restore(session, found)

    page.hears(place.restore, take, outputs=outputs, with_event=True, refill=refill)


def restored(
    settings: SessionSettings, found: Parameters, lists: Path, model: KnownModel | None = None
) -> tuple[SessionSettings, str]:
    """The settings with what a picture says of itself, and in sentences what was taken over and
    what was not: each part stands by itself.

    lists: of alternatives, as files. model: what is known of the session's. The picture's prompt
    becomes the first one of the list. Eta stays: without noise in its steps nothing can be learned
    from a drawing.
    """
    taken: list[str] = []
    left: list[str] = []

    def take(said: str, change: Callable[[SessionSettings], SessionSettings]) -> None:
        nonlocal settings
        try:
            settings = change(settings)
        except SettingsError as error:
            left.append(f"Not taken over: {said}. {error}")
        else:
            taken.append(said)

    def sample(said: str, **changes: Any) -> None:
        take(said, lambda now: replace(now, sampling=replace(now.sampling, **changes)))

    if prompt := " ".join(found.prompt.split()):
        take("its prompt", lambda now: with_first(now, prompt, lists))
    negative = " ".join(found.negative_prompt.split())
    if negative or settings.sampling.negative_prompt:
        said = f"negative prompt “{shortened(negative)}”" if negative else "no negative prompt"
        sample(said, negative_prompt=negative)
    if found.seed is not None:
        sample(f"seed {found.seed}", seed=found.seed)
    if found.steps is not None:
        sample(f"{found.steps} {'step' if found.steps == 1 else 'steps'}", steps=found.steps)
    if found.guidance is not None:
        sample(f"guidance {found.guidance:g}", guidance=found.guidance)
    if found.width_px and found.height_px:
        size = (found.width_px, found.height_px)
        width_px, height_px = near = nearest_size(*size)
        said = f"{width_px} × {height_px} pixels"
        if near != size:
            said += f" (the nearest that can be drawn to its {size[0]} × {size[1]})"
        sample(said, width_px=width_px, height_px=height_px)
    # What says nothing of it was drawn without: so A1111 writes it.
    clip_skip = found.clip_skip or (1 if found.steps is not None else settings.sampling.clip_skip)
    if clip_skip != settings.sampling.clip_skip and reads_clip_skip(model):
        sample(f"clip skip {clip_skip}", clip_skip=clip_skip)
    sentences = [f"Taken over: {', '.join(taken)}."] if taken else ["Nothing is taken over."]
    if found.sampler and not found.sampler.upper().startswith("DDIM"):
        sentences.append(f"It was drawn by {shortened(found.sampler)}; the studio draws with DDIM.")
    return settings, " ".join([*sentences, *left, *left_out_loras(found), *found.unread])


def with_first(settings: SessionSettings, prompt: str, lists: Path) -> SessionSettings:
    """The settings with a prompt before all others; raises SettingsError where it has no use."""
    others = (one for one in settings.prompts if one != prompt)
    changed = replace(settings, prompts=(prompt, *others))
    expand(prompt, 0, lists)
    return changed


def nearest_size(width_px: int, height_px: int) -> tuple[int, int]:
    """The size of about the same shape that can be drawn; itself, if it can be."""
    smaller = min(1.0, MOST_PX / max(width_px, height_px))
    sides = (round(side * smaller / STEP_PX) * STEP_PX for side in (width_px, height_px))
    width_px, height_px = (min(max(side, LEAST_PX), MOST_PX) for side in sides)
    return width_px, height_px


def left_out_loras(found: Parameters, own: Iterable[str] = ()) -> list[str]:
    """A sentence on the LoRAs that a picture was drawn with, but for those that are the session's
    own; none where there is no other."""
    known = set(own)
    others = [
        f"“{shortened(name)}” at {strength:g}"
        for name, strength in found.loras
        if name not in known
    ]
    if not others:
        return []
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return [f"Not taken over: the LoRA {', '.join(others[:5])}{more} that it was drawn with."]


def shortened(text: str) -> str:
    """At most 80 characters of somebody's text, for a sentence."""
    return text if len(text) <= 80 else f"{text[:79]}…"
