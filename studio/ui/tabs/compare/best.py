"""Best of many: a prompt at many seeds, by the tuned model; those first that fit the taste best."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.messages import _
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


def build(page: Page, seed: gr.Number, adapter: gr.Dropdown, strength: gr.Slider) -> None:
    """The form on the left, the pictures on the right."""
    with gr.Row(elem_classes="compare-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            about_it = _(
                "The tuned model draws a prompt many times. Each picture is scored by how much "
                "likelier the tuned model finds it than the base model does: what it learned from "
                "your picks, and no other judge. They come one by one, the best first. Round and "
                "strength are as above."
            )
            gr.HTML(f"<p class='soft'>{about_it}</p>", apply_default_css=False)
            prompt = gr.Textbox(label=_("Prompt"), max_lines=3, elem_id="best-prompt")
            many = gr.Number(
                label=_("Pictures"),
                info=_("2 to {most}, from the first seed above.", most=MOST_PICTURES),
                value=8,
                precision=0,
                elem_id="best-many",
            )
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button(_("Draw and rank"), elem_id="best-draw")
                stop = gr.Button(_("Stop drawing"), visible=False, elem_id="best-stop")
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
        raise SettingsError(
            _("Write one prompt of at most {most} characters.", most=MAX_PROMPT_CHARACTERS)
        )
    if many is None or not 2 <= many <= MOST_PICTURES:
        raise SettingsError(_("The best of 2 to {most} pictures can be found.", most=MOST_PICTURES))
    if first is None or not 0 <= first <= LARGEST_INTEGER - MOST_PICTURES:
        raise SettingsError(_("The first seed is a whole number from 0 upwards."))
    if not adapter_id:
        raise SettingsError(_("There is nothing to rank by yet: let a round learn first."))
    if not checked_strength(strength):
        raise SettingsError(_("At strength 0 the base model draws, which has learned nothing."))
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
    """`a red apple, by round 2 at 0.8: 5 of 8 pictures, best first`"""
    strength = job.payload.get("strength", 1.0)
    values = {
        "prompt": job.payload["prompts"][0],
        "number": round_number(snapshot, job.payload["adapter_id"]),
        "strength": f"{strength:g}",
        "drawn": len(job.result["image_ids"]),
        "asked": len(job.payload["seeds"]),
    }
    if strength == 1:
        return _("{prompt}, by round {number}: {drawn} of {asked} pictures, best first", **values)
    return _(
        "{prompt}, by round {number} at {strength}: {drawn} of {asked} pictures, best first",
        **values,
    )
