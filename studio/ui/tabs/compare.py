"""Compare: base beside tuned, the same prompts and the same seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio.paths import typed
from studio.pictures.infotext import Parameters, lora_name
from studio.settings import LARGEST_INTEGER, MAX_PROMPT_CHARACTERS, SettingsError, StartLora
from studio.store.rows import Job, Session
from studio.ui import words
from studio.ui.dropin import left_out_loras, takes_settings
from studio.ui.images import image_url
from studio.ui.page import Look, Page, Values
from studio.ui.sizes import reads_clip_skip
from studio.ui.tabs import grid, story

MAX_PICTURES = 32  # pairs in one comparison

_ASSETS = Path(__file__).parent.parent / "assets"


def build(page: Page) -> None:
    """The pictures take the room; what to compare stands beside them."""
    with gr.Row(elem_classes="compare-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            prompts = gr.Textbox(
                label="Prompts",
                info="One on each line. Ones it has not practised are the fairest test.",
                lines=5,
                max_lines=10,
                elem_id="compare-prompts",
            )
            with gr.Row(elem_classes="numbers"):
                seed = gr.Number(label="First seed", value=1000, precision=0, min_width=110)
                seeds = gr.Number(
                    label="Seeds",
                    value=2,
                    precision=0,
                    min_width=90,
                    elem_id="compare-seeds",
                )
            adapter = gr.Dropdown(
                label="Tuned by", choices=[], elem_id="compare-adapter", interactive=True
            )
            strength = gr.Slider(
                0.0,
                2.0,
                value=1.0,
                step=0.05,
                label="Strength",
                info="1 is what was learned, 0 is the base model.",
                elem_id="compare-strength",
            )
            with gr.Accordion("Beside them, another LoRA", open=False, elem_id="compare-other"):
                other = gr.Textbox(
                    label="A LoRA on this computer",
                    info="Somebody’s .safetensors file, to see what it does to the base model.",
                    placeholder="/home/me/loras/my-style.safetensors",
                    lines=1,
                    elem_id="compare-other-path",
                )
                other_strength = gr.Slider(
                    -2.0,
                    2.0,
                    value=1.0,
                    step=0.05,
                    label="Its strength",
                    info="1 is as it was made.",
                )
            drop = gr.Column(elem_classes="drop-column")
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button("Compare", variant="primary", elem_id="compare-draw")
                cancel = gr.Button("Cancel", visible=False, elem_id="compare-cancel")
        with gr.Column(scale=4, min_width=320):
            viewer = gr.HTML(
                value=None,
                html_template=(_ASSETS / "compare.html").read_text(encoding="utf-8"),
                js_on_load=(_ASSETS / "compare.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="compare-viewer",
            )

    with gr.Accordion("Grid over strengths and rounds", open=False, elem_id="grid-fold"):
        grid.build(page, prompts, seed, seeds)
    with gr.Accordion("The story so far", open=False, elem_id="story-fold"):
        story.build(page)

    def view(look: Look) -> Values:
        jobs = look.store.jobs(look.session.id, kind="compare")
        is_open = bool(jobs) and jobs[0].state in ("queued", "running")
        return {
            viewer: comparison(look, jobs),
            adapter: gr.update(choices=choices(look), value=look.session.current_adapter_id)
            if look.adapters
            else gr.update(choices=[], value=None),
            draw: gr.update(visible=not is_open, interactive=bool(look.adapters)),
            cancel: gr.update(visible=is_open),
        }

    page.shows(view, [viewer, adapter, draw, cancel])
    page.fills(lambda look: {prompts: "\n".join(look.settings.shown_prompts)}, [prompts])

    def compare(
        session: Session,
        text: str,
        first: float,
        count: float,
        chosen: str | None,
        strength: float,
        path: str | None,
        path_strength: float,
    ) -> None:
        payload = comparison_payload(text, first, count, chosen, strength)
        if path and path.strip():
            named = StartLora(typed(path), float(path_strength))
            payload["other"] = named.to_dict()
        page.store.add_job(session.id, "compare", payload)

    def leave(session: Session) -> None:
        for job in page.store.jobs(session.id, kind="compare"):
            if job.state in ("queued", "running"):
                page.store.cancel_job(job.id)

    def restore(session: Session, found: Parameters) -> tuple[Values, str]:
        values, said = restored(Look(page.store), found)
        return dict(zip((prompts, seed, seeds, adapter, strength), values, strict=True)), said

    with drop:
        fields = [prompts, seed, seeds, adapter, strength]
        takes_settings(page, "compare-drop", restore, outputs=fields)

    page.hears(draw.click, compare, inputs=[*fields, other, other_strength])
    page.hears(cancel.click, leave)


def choices(look: Look) -> list[tuple[str, str]]:
    """The rounds that left an adapter, the newest first."""
    return [
        (f"Round {adapter.number} · {words.count(adapter.picks, 'pick')}", adapter.id)
        for adapter in reversed(look.adapters)
    ]


def comparison_payload(
    text: str, first: float | None, count: float | None, adapter_id: str | None, strength: float
) -> dict[str, Any]:
    """What the worker is asked for; says in a sentence what cannot be compared."""
    prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise SettingsError("Write at least one prompt to compare with.")
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in prompts):
        raise SettingsError(f"A prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
    if first is None or count is None or first < 0 or count < 1:
        raise SettingsError("Seeds are whole numbers from 0 upwards, and at least one is needed.")
    if not adapter_id:
        raise SettingsError("There is nothing to compare yet: let a round learn first.")
    if len(prompts) * int(count) > MAX_PICTURES:
        raise SettingsError(
            f"That would be {len(prompts) * int(count)} pairs of pictures; "
            f"at most {MAX_PICTURES} are drawn at once. Take fewer prompts or seeds."
        )
    seeds = [int(first) + i for i in range(int(count))]
    return {"prompts": prompts, "seeds": seeds, "adapter_id": adapter_id, "strength": strength}


def restored(look: Look, found: Parameters) -> tuple[list[Any], str]:
    """Prompts, first seed, seeds, adapter and strength that draw what a picture shows.

    And a sentence that says what of it will be another than in the picture.
    """
    if not found.prompt:
        raise SettingsError("This picture names no prompt.")
    names = {lora_name(f"{look.session.name} round {a.number}"): a.id for a in look.adapters}
    own = [one for one in found.loras if one[0] in names]
    seed = found.seed if found.seed is not None and found.seed <= LARGEST_INTEGER else None
    values = [
        " ".join(found.prompt.split()),
        gr.skip() if seed is None else seed,
        1,
        names[own[0][0]] if own else look.session.current_adapter_id,
        min(2.0, max(0.0, own[0][1])) if own else gr.skip(),
    ]
    said = " ".join(["Filled in from the picture.", *left_out_loras(found, names), *found.unread])
    if found.seed is not None and seed is None:
        said += f" Its seed {found.seed} is larger than a seed can be here."
    here = look.settings.sampling
    others = [
        name
        for name, there, now in (
            ("steps", found.steps, here.steps),
            ("guidance", found.guidance, here.guidance),
            ("width", found.width_px, here.width_px),
            ("height", found.height_px, here.height_px),
            ("negative prompt", found.negative_prompt, here.negative_prompt),
            ("clip skip", found.clip_skip if reads_clip_skip(look.model) else None, here.clip_skip),
        )
        if there is not None and there != now
    ]
    if others:
        said += (
            f" This session has another setting for {', '.join(others)}: drop the picture on "
            "Prompt to take that over too."
        )
    return values, said


def comparison(look: Look, jobs: list[Job]) -> dict[str, Any]:
    """What the viewer shows: the pictures there are, and how the newest comparison goes."""
    newest = jobs[0] if jobs else None
    shown = next((job for job in jobs if job.result.get("cells")), None)
    return {
        "cells": [
            {
                "prompt": cell["prompt"],
                "seed": cell["seed"],
                "base": image_url(cell["base"]),
                "tuned": image_url(cell["tuned"]),
                "other": image_url(cell["other"]) if "other" in cell else None,
            }
            for cell in (shown.result["cells"] if shown else ())
        ],
        "tuned": tuned_name(look, shown) if shown else "",
        "other": other_name(shown) if shown else "",
        "fit": shown.result.get("fit", "") if shown else "",
        "job": newest
        and {"state": newest.state, "progress": newest.progress, "message": newest.message},
        "empty": empty(look),
    }


def tuned_name(look: Look, job: Job) -> str:
    """`Round 2`, or `Round 2 at 0.8`."""
    adapter_id, strength = job.payload.get("adapter_id"), job.payload.get("strength", 1.0)
    number = next((a.number for a in look.adapters if a.id == adapter_id), "?")
    return f"Round {number}" + (f" at {strength:g}" if strength != 1 else "")


def other_name(job: Job) -> str:
    """`my-style`, or `my-style at 0.8`; "" where there is no other LoRA."""
    if not job.payload.get("other"):
        return ""
    named = StartLora.from_dict(job.payload["other"])
    return Path(named.path).stem + (f" at {named.strength:g}" if named.strength != 1 else "")


def empty(look: Look) -> dict[str, str]:
    """What to do when there is nothing to see."""
    if not look.adapters:
        return {
            "title": "Nothing is tuned yet",
            "text": "When the first round is done, base and tuned are shown here side by side.",
            "action": "Pick pictures",
            "tab": "prefer",
        }
    return {
        "title": "Base beside tuned",
        "text": "The same prompts and the same seeds, drawn by both. Press Compare.",
    }
