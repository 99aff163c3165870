"""The grid: strengths, rounds, seeds and prompts, any two of them across and down."""

from __future__ import annotations

import math
import re
from typing import Any

import gradio as gr

from studio.messages import _, when
from studio.settings import LEAST_STRENGTH, MOST_STRENGTH, SettingsError, checked_strength
from studio.store.rows import Job, Session
from studio.ui import words
from studio.ui.adapters import round_number
from studio.ui.images import image_url
from studio.ui.jobs import cancel_open, is_open, progress
from studio.ui.mixes import chosen_mixes, mix_choices
from studio.ui.page import Page, Values
from studio.ui.server_functions import server_function
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template

MAX_PICTURES = 144  # in one grid
GRIDS_KEPT = 50  # that can be opened again
AXES = ("prompts", "seeds", "adapter_ids", "strengths")  # the last one varies first


def build(page: Page, prompts: gr.Textbox, seed: gr.Number, seeds: gr.Number) -> None:
    """The form on the left, the grid on the right. Prompts and seeds are those of Compare."""
    with gr.Row(elem_classes="compare-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            strengths = gr.Textbox(
                label=_("Strengths"),
                info=_(
                    "From {least:g} to {most:g}, with commas between. 0 is the base "
                    "model. Prompts and seeds are as above.",
                    least=LEAST_STRENGTH,
                    most=MOST_STRENGTH,
                ),
                value="0, 0.5, 1",
                max_lines=1,
                elem_id="grid-strengths",
            )
            rounds = gr.Dropdown(
                label=_("Rounds and mixes"),
                choices=[],
                multiselect=True,
                info=_("Left empty: the round in use. Mixes are those that were compared above."),
                elem_id="grid-rounds",
            )
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button(_("Draw the grid"), elem_id="grid-draw")
                cancel = gr.Button(_("Cancel the grid"), visible=False, elem_id="grid-cancel")
        with gr.Column(scale=4, min_width=320):
            viewer = gr.HTML(
                value=None,
                html_template=template("compare/grid.html"),
                js_on_load=script("compare/grid.js"),
                server_functions=[server_function(_opener(page), page)],
                apply_default_css=False,
                elem_id="grid",
            )

    def view(snapshot: StoreSnapshot) -> Values:
        is_drawing = is_open(snapshot.newest_job("grid"))
        choices = [(_("Round {number}", number=a.number), a.id) for a in snapshot.adapters]
        return {
            viewer: grids(snapshot),
            rounds: gr.update(choices=choices + mix_choices(snapshot)),
            draw: gr.update(visible=not is_drawing, interactive=bool(snapshot.adapters)),
            cancel: gr.update(visible=is_drawing),
        }

    page.show(view, [viewer, rounds, draw, cancel])

    def make(
        session: Session,
        text: str,
        first: float | None,
        count: float | None,
        chosen: list[str] | None,
        strengths: str,
    ) -> None:
        adapter_ids = chosen or [session.current_adapter_id]
        payload = grid_payload(text, first, count, adapter_ids, strengths)
        mixes = chosen_mixes(StoreSnapshot(page.store), chosen or [])
        if mixes:
            payload["mixes"] = {value: one.asked for value, one in mixes.items()}
        page.store.add_job(session.id, "grid", payload)

    page.on(draw.click, make, inputs=[prompts, seed, seeds, rounds, strengths])
    page.on(cancel.click, lambda session: cancel_open(page.store, session.id, "grid"))


def _opener(page: Page) -> Any:
    """The server function that returns an earlier grid."""

    def grid(payload: dict[str, Any]) -> dict[str, Any]:
        job = page.store.job(str(payload["job_id"]))
        return {"grid": grid_value(StoreSnapshot(page.store), job)}

    return grid


def grid_payload(
    text: str,
    first: float | None,
    count: float | None,
    adapter_ids: list[str | None],
    strengths: str,
) -> dict[str, Any]:
    """The payload of a job. Raises SettingsError with a sentence if it cannot be drawn."""
    prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise SettingsError(_("Write at least one prompt to draw the grid with."))
    if first is None or count is None or first < 0 or count < 1:
        raise SettingsError(
            _("Seeds are whole numbers from 0 upwards, and at least one is needed.")
        )
    if not all(adapter_ids):
        raise SettingsError(_("There is nothing to draw a grid of yet: let a round learn first."))
    seeds = [int(first) + n for n in range(int(min(count, MAX_PICTURES + 1)))]
    payload = dict(zip(AXES, (prompts, seeds, adapter_ids, _numbers(strengths)), strict=True))
    if (pictures := _size(payload)) > MAX_PICTURES:
        raise SettingsError(
            _(
                "That would be {number} pictures; a grid has at most {most}. Take fewer "
                "prompts, seeds, rounds or strengths.",
                number=pictures,
                most=MAX_PICTURES,
            )
        )
    return payload


def _numbers(text: str) -> list[float]:
    """Strengths as the artist typed them, in order and without repeats."""
    try:
        strengths = sorted({float(word) for word in re.split(r"[,;\s]+", text) if word})
    except ValueError as error:
        raise SettingsError(_("Strengths are numbers, such as 0, 0.5, 1.")) from error
    if not strengths:
        raise SettingsError(_("Write the strengths, such as 0, 0.5, 1."))
    return [checked_strength(strength) for strength in strengths]


def whole_range() -> str:
    """`-1, -0.5, 0, … 2`: strengths as an artist types them, both ends among them."""
    halves = range(round(2 * LEAST_STRENGTH), round(2 * MOST_STRENGTH) + 1)
    return ", ".join(f"{half / 2:g}" for half in halves)


def _size(payload: dict[str, Any]) -> int:
    """The number of pictures in a grid."""
    return math.prod(len(payload[axis]) for axis in AXES)


def grids(snapshot: StoreSnapshot) -> dict[str, Any]:
    """The value of the viewer: the names of all grids, and the newest grid itself."""
    jobs = snapshot.store.jobs(snapshot.session.id, kind="grid", limit=GRIDS_KEPT)
    newest = jobs[0] if jobs else None
    shown = [job for job in jobs if job.result.get("image_ids") or job is newest]
    shown = [job for job in shown if job.state not in ("failed", "cancelled") or job.result]
    return {
        "grids": [{"id": job.id, "name": grid_name(job)} for job in shown],
        "newest": grid_value(snapshot, shown[0]) if shown else None,
        "job": progress(snapshot, newest),
    }


def grid_name(job: Job) -> str:
    """`22 November, 14:05 · 12 pictures`."""
    return f"{when(job.created_at_s, 'MMMMd')} · {words.pictures(_size(job.payload))}"


def grid_value(snapshot: StoreSnapshot, job: Job) -> dict[str, Any]:
    """One grid for the viewer, with the labels of its axes."""
    return {
        "id": job.id,
        "prompts": job.payload["prompts"],
        "seeds": job.payload["seeds"],
        "rounds": [_tuned_by(snapshot, job, id_) for id_ in job.payload["adapter_ids"]],
        "strengths": [f"{strength:g}" for strength in job.payload["strengths"]],
        "images": [image_url(image_id) for image_id in job.result.get("image_ids", ())],
    }


def _tuned_by(snapshot: StoreSnapshot, job: Job, id_: str) -> str:
    """`Round 2`, or what was mixed when the grid was asked for."""
    mix = job.payload.get("mixes", {}).get(id_)
    return mix["name"] if mix else _("Round {number}", number=round_number(snapshot, id_))
