"""The grid of Compare: strengths, rounds, seeds and prompts, any two of them across and down."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import gradio as gr

from studio.settings import SettingsError
from studio.store.rows import Job, Session
from studio.ui.images import image_url
from studio.ui.page import Look, Page, Values
from studio.ui.static import script, template
from studio.ui.tabs.prefer import answered

MOST_PICTURES = 144  # in one grid
GRIDS_KEPT = 50  # that can be opened again


def build(page: Page, prompts: gr.Textbox, seed: gr.Number, seeds: gr.Number) -> None:
    """Its prompts and seeds are those that are compared."""
    with gr.Row(elem_classes="compare-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            strengths = gr.Textbox(
                label="Strengths",
                info="With commas between. 0 is the base model. Prompts and seeds are as above.",
                value="0, 0.5, 1",
                max_lines=1,
                elem_id="grid-strengths",
            )
            rounds = gr.Dropdown(
                label="Rounds",
                choices=[],
                multiselect=True,
                info="Left empty: the round in use.",
                elem_id="grid-rounds",
            )
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button("Draw the grid", elem_id="grid-draw")
                cancel = gr.Button("Cancel the grid", visible=False, elem_id="grid-cancel")
        with gr.Column(scale=4, min_width=320):
            viewer = gr.HTML(
                value=None,
                html_template=template("compare/grid.html"),
                js_on_load=script("compare/grid.js"),
                server_functions=[answered(_opener(page), page)],
                apply_default_css=False,
                elem_id="grid",
            )

    def view(look: Look) -> Values:
        job = look.newest_job("grid")
        is_open = job is not None and job.state in ("queued", "running")
        return {
            viewer: grids(look),
            rounds: gr.update(choices=[(f"Round {a.number}", a.id) for a in look.adapters]),
            draw: gr.update(visible=not is_open, interactive=bool(look.adapters)),
            cancel: gr.update(visible=is_open),
        }

    page.shows(view, [viewer, rounds, draw, cancel])

    def make(
        session: Session,
        text: str,
        first: float | None,
        count: float | None,
        chosen: list[str] | None,
        numbers: str,
    ) -> None:
        adapter_ids = chosen or [session.current_adapter_id]
        payload = grid_payload(text, first, count, adapter_ids, numbers)
        page.store.add_job(session.id, "grid", payload)

    def leave(session: Session) -> None:
        for job in page.store.jobs(session.id, kind="grid"):
            if job.state in ("queued", "running"):
                page.store.cancel_job(job.id)

    page.hears(draw.click, make, inputs=[prompts, seed, seeds, rounds, strengths])
    page.hears(cancel.click, leave)


def _opener(page: Page) -> Any:
    def grid(payload: dict[str, Any]) -> dict[str, Any]:
        return {"grid": grid_value(Look(page.store), page.store.job(str(payload["job_id"])))}

    return grid


def grid_payload(
    text: str,
    first: float | None,
    count: float | None,
    adapter_ids: list[str | None],
    numbers: str,
) -> dict[str, Any]:
    """What the worker is asked for; says in a sentence what cannot be drawn."""
    prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise SettingsError("Write at least one prompt to draw the grid with.")
    if first is None or count is None or first < 0 or count < 1:
        raise SettingsError("Seeds are whole numbers from 0 upwards, and at least one is needed.")
    if not all(adapter_ids):
        raise SettingsError("There is nothing to draw a grid of yet: let a round learn first.")
    try:
        strengths = sorted({float(word) for word in re.split(r"[,;\s]+", numbers) if word})
    except ValueError as error:
        raise SettingsError("Strengths are numbers, such as 0, 0.5, 1.") from error
    if not strengths or not all(0 <= strength <= 2 for strength in strengths):
        raise SettingsError("Strengths lie between 0 and 2, such as 0, 0.5, 1.")
    seeds = [int(first) + n for n in range(int(min(count, MOST_PICTURES + 1)))]
    axes = (prompts, seeds, adapter_ids, strengths)
    pictures = math.prod(len(axis) for axis in axes)
    if pictures > MOST_PICTURES:
        raise SettingsError(
            f"That would be {pictures} pictures; a grid has at most {MOST_PICTURES}. "
            "Take fewer prompts, seeds, rounds or strengths."
        )
    names = ("prompts", "seeds", "adapter_ids", "strengths")
    return dict(zip(names, axes, strict=True))


def grids(look: Look) -> dict[str, Any]:
    """The grids there are, by name; the newest one whole."""
    jobs = look.store.jobs(look.session.id, kind="grid", limit=GRIDS_KEPT)
    drawn = [job for job in jobs if job.result.get("image_ids") or job is jobs[0]]
    drawn = [job for job in drawn if job.state not in ("failed", "cancelled") or job.result]
    newest = jobs[0] if jobs else None
    return {
        "grids": [{"id": job.id, "name": grid_name(job)} for job in drawn],
        "newest": grid_value(look, drawn[0]) if drawn else None,
        "job": newest
        and {"state": newest.state, "progress": newest.progress, "message": newest.message},
    }


def grid_name(job: Job) -> str:
    """`22 November, 14:05 · 12 pictures`."""
    when = time.strftime("%d %B, %H:%M", time.localtime(job.created_at_s))
    axes = ("prompts", "seeds", "adapter_ids", "strengths")
    return f"{when} · {math.prod(len(job.payload[axis]) for axis in axes)} pictures"


def grid_value(look: Look, job: Job) -> dict[str, Any]:
    """A grid as the browser knows it: the last of its four things varies first in `images`."""
    numbers = {adapter.id: adapter.number for adapter in look.adapters}
    return {
        "id": job.id,
        "prompts": job.payload["prompts"],
        "seeds": job.payload["seeds"],
        "rounds": [f"Round {numbers.get(id_, '?')}" for id_ in job.payload["adapter_ids"]],
        "strengths": [f"{strength:g}" for strength in job.payload["strengths"]],
        "images": [image_url(image_id) for image_id in job.result.get("image_ids", ())],
    }
