"""Best of many: a prompt at many seeds, by the tuned model; those first that fit the taste best."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.settings import LARGEST_INTEGER, MAX_PROMPT_CHARACTERS, SettingsError, checked_strength
from studio.store.rows import Job, Session
from studio.ui.adapters import round_number
from studio.ui.images import image_url
from studio.ui.jobs import cancel_open, is_open, progress
from studio.ui.page import Page, Values
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template

MOST_PICTURES = 64  # to choose from
ABOUT = (
    "<p class='soft'>The tuned model draws a prompt many times. Each picture is scored by how much "
    "likelier the tuned model finds it than the base model does: what it learned from your picks, "
    "and no other judge. They come one by one, the best first. Round and strength are as above.</p>"
)


def build(page: Page, seed: gr.Number, adapter: gr.Dropdown, strength: gr.Slider) -> None:
    """The form on the left, the pictures on the right."""
    with gr.Row(elem_classes="compare-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            gr.HTML(ABOUT, apply_default_css=False)
            prompt = gr.Textbox(label="Prompt", max_lines=3, elem_id="best-prompt")
            many = gr.Number(
                label="Pictures",
                info=f"2 to {MOST_PICTURES}, from the first seed above.",
                value=8,
                precision=0,
                elem_id="best-many",
            )
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button("Draw and rank", elem_id="best-draw")
                stop = gr.Button("Stop drawing", visible=False, elem_id="best-stop")
        with gr.Column(scale=4, min_width=320):
            viewer = gr.HTML(
                value=None,
                html_template=template("compare/best.html"),
                js_on_load=script("compare/best.js"),
                server_functions=[server_function(_keeper(page), page)],
                apply_default_css=False,
                elem_id="best",
            )

    def view(snapshot: StoreSnapshot) -> Values:
        jobs = snapshot.store.jobs(snapshot.session.id, kind="best_of")
        is_drawing = bool(jobs) and is_open(jobs[0])
        return {
            viewer: viewer_value(snapshot, jobs),
            draw: gr.update(visible=not is_drawing, interactive=bool(snapshot.adapters)),
            stop: gr.update(visible=is_drawing),
        }

    page.show(view, [viewer, draw, stop])
    page.fill(lambda snapshot: {prompt: next(iter(snapshot.settings.shown_prompts), "")}, [prompt])

    def make(session: Session, *values: Any) -> None:
        page.store.add_job(session.id, "best_of", best_payload(*values))

    page.on(draw.click, make, inputs=[prompt, seed, many, adapter, strength])
    page.on(stop.click, lambda session: cancel_open(page.store, session.id, "best_of"))


def _keeper(page: Page) -> Any:
    """The server function that keeps a picture as a favourite, or no longer."""

    def keep(payload: dict[str, Any]) -> dict[str, Any]:
        page.store.set_favourite(str(payload["image_id"]), bool(payload["favourite"]))
        return {}

    return keep


def best_payload(
    prompt: str,
    first: float | None,
    many: float | None,
    adapter_id: str | None,
    strength: float | None,
) -> dict[str, Any]:
    """The payload of a job. Raises SettingsError with a sentence if it cannot be drawn."""
    prompt = prompt.strip()
    if not 0 < len(prompt) <= MAX_PROMPT_CHARACTERS:
        raise SettingsError(f"Write one prompt of at most {MAX_PROMPT_CHARACTERS} characters.")
    if many is None or not 2 <= many <= MOST_PICTURES:
        raise SettingsError(f"The best of 2 to {MOST_PICTURES} pictures can be found.")
    if first is None or not 0 <= first <= LARGEST_INTEGER - MOST_PICTURES:
        raise SettingsError("The first seed is a whole number from 0 upwards.")
    if not adapter_id:
        raise SettingsError("There is nothing to rank by yet: let a round learn first.")
    if not checked_strength(strength):
        raise SettingsError("At strength 0 the base model draws, which has learned nothing.")
    return {
        "prompts": [prompt],
        "seeds": [int(first) + number for number in range(int(many))],
        "adapter_id": adapter_id,
        "strength": checked_strength(strength),
    }


def viewer_value(snapshot: StoreSnapshot, jobs: list[Job]) -> dict[str, Any]:
    """The newest pictures, the best first, and the state of the newest job."""
    shown = next((job for job in jobs if job.result.get("image_ids")), None)
    ids = shown.result["image_ids"] if shown else []
    images = sorted(snapshot.store.images_of(ids), key=lambda image: ids.index(image.id))
    return {
        "about": about(snapshot, shown) if shown else "",
        "pictures": [
            {
                "image_id": image.id,
                "url": image_url(image.id),
                "seed": image.seed,
                "prompt": image.prompt,
                "favourite": image.favourite,
            }
            for image in images
            if image.deleted_at_s is None
        ],
        "job": progress(snapshot, jobs[0] if jobs else None),
    }


def about(snapshot: StoreSnapshot, job: Job) -> str:
    """`a red apple, by round 2 at 0.8: 5 of 8 pictures, the best first`"""
    drawn, asked = len(job.result["image_ids"]), len(job.payload["seeds"])
    count = f"{asked} pictures" if drawn == asked else f"{drawn} of {asked} pictures"
    strength = job.payload.get("strength", 1.0)
    at = f" at {strength:g}" if strength != 1 else ""
    number = round_number(snapshot, job.payload["adapter_id"])
    return f"{job.payload['prompts'][0]}, by round {number}{at}: {count}, the best first"
