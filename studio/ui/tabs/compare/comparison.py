"""The comparison of base and tuned: the request to the worker, and the pictures for the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio.messages import _, together, told
from studio.pictures.infotext import Parameters, lora_name
from studio.settings import (
    LARGEST_INTEGER,
    LEAST_STRENGTH,
    MAX_PROMPT_CHARACTERS,
    MOST_STRENGTH,
    SettingsError,
    StartLora,
    checked_strength,
)
from studio.store.rows import Job
from studio.ui import words
from studio.ui.adapters import round_number
from studio.ui.dropin import left_out_loras
from studio.ui.images import image_url
from studio.ui.jobs import progress
from studio.ui.models import family_of
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.compare.mix import MOST_MIXED, taste_values, whole_mix

MAX_PAIRS = 32  # of pictures in one comparison


def comparison_payload(
    text: str,
    first: float | None,
    count: float | None,
    adapter_id: str | None,
    strength: float | None,
    parts: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The payload of a job. Raises SettingsError with a sentence if it cannot be drawn.

    parts: what is mixed with the adapter, see `mix.mix_payload`.
    """
    prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise SettingsError(_("Write at least one prompt to compare with."))
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in prompts):
        raise SettingsError(
            _(
                "A prompt is longer than {most} characters.",
                most=MAX_PROMPT_CHARACTERS,
            )
        )
    if first is None or count is None or first < 0 or count < 1:
        raise SettingsError(
            _("Seeds are whole numbers from 0 upwards, and at least one is needed.")
        )
    if not adapter_id:
        raise SettingsError(_("There is nothing to compare yet: let a round learn first."))
    if len(prompts) * int(count) > MAX_PAIRS:
        raise SettingsError(
            _(
                "That would be {number} pairs of pictures; at most {most} are drawn at once. "
                "Take fewer prompts or seeds.",
                number=len(prompts) * int(count),
                most=MAX_PAIRS,
            )
        )
    seeds = [int(first) + i for i in range(int(count))]
    payload = {
        "prompts": prompts,
        "seeds": seeds,
        "adapter_id": adapter_id,
        "strength": checked_strength(strength),
    }
    return payload | ({"mix": whole_mix(adapter_id, strength, parts)} if parts else {})


def restored(snapshot: StoreSnapshot, parameters: Parameters) -> tuple[list[Any], str]:
    """Prompts, first seed, seeds, adapter, strength and rows of the mix of a picture, and a
    sentence.

    The sentence names the settings in which a new picture will differ.
    """
    if not parameters.prompt:
        raise SettingsError(_("This picture names no prompt."))
    name = snapshot.session.name
    adapter_ids = {lora_name(f"{name} round {a.number}"): a.id for a in snapshot.adapters}
    own = next((lora for lora in parameters.loras if lora[0] in adapter_ids), None)
    tastes = taste_values(snapshot)
    mixed = [one for one in parameters.loras if one[0] in tastes and one != own][:MOST_MIXED]
    seed = parameters.seed
    is_too_large = seed is not None and seed > LARGEST_INTEGER
    values = [
        " ".join(parameters.prompt.split()),
        gr.skip() if seed is None or is_too_large else seed,
        1,
        adapter_ids[own[0]] if own else snapshot.session.current_adapter_id,
        # A mix names no part whose strength is 0.
        _bounded(own[1]) if own else 0.0 if mixed else gr.skip(),
    ]
    rows = [(tastes[lora], _bounded(strength)) for lora, strength in mixed]
    for row in (*rows, *[("", 1.0)] * (MOST_MIXED - len(rows))):
        values += row
    taken = {lora for lora, _ in ([own] if own else []) + mixed}
    remarks = [*left_out_loras(parameters, taken), *parameters.unread]
    if is_too_large:
        remarks.append(_("Its seed {seed} is larger than a seed can be here.", seed=seed))
    sentence = together(_("Filled in from the picture."), *map(told, remarks))
    if different := _different_settings(snapshot, parameters):
        other = _(
            "This session has another setting for {names}: drop the picture on Prompt to take that "
            "over too.",
            names=", ".join(different),
        )
        sentence = together(sentence, other)
    return values, sentence


def _bounded(strength: float) -> float:
    return min(MOST_STRENGTH, max(LEAST_STRENGTH, strength))


def _different_settings(snapshot: StoreSnapshot, parameters: Parameters) -> list[str]:
    """The names of the settings that the picture gives and the session has otherwise."""
    sampling = snapshot.settings.sampling
    clip_skip = parameters.clip_skip if family_of(snapshot.model).reads_clip_skip else None
    pairs = {
        _("steps"): (parameters.steps, sampling.steps),
        _("guidance"): (parameters.guidance, sampling.guidance),
        _("width"): (parameters.width_px, sampling.width_px),
        _("height"): (parameters.height_px, sampling.height_px),
        _("negative prompt"): (parameters.negative_prompt, sampling.negative_prompt),
        _("clip skip"): (clip_skip, sampling.clip_skip),
    }
    return [name for name, (theirs, ours) in pairs.items() if theirs not in (None, ours)]


def viewer_value(snapshot: StoreSnapshot, jobs: list[Job]) -> dict[str, Any]:
    """The value of the viewer: the newest pictures, and the state of the newest job."""
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
        "tuned": tuned_name(snapshot, shown) if shown else "",
        "other": other_name(shown) if shown else "",
        "fit": remarks(shown) if shown else "",
        "job": progress(snapshot, newest),
        "empty": empty(snapshot),
    }


def remarks(job: Job) -> str:
    """What is mixed, and how the LoRA files fit the model."""
    found = {_("Mix"): job.result.get("mix"), other_name(job): job.result.get("fit")}
    return " ".join(f"{what}: {told(fits)}" for what, fits in found.items() if fits)


def tuned_name(snapshot: StoreSnapshot, job: Job) -> str:
    """`Round 2`, or `Round 2 at 0.8`, or `Mix of 3`."""
    if mix := job.payload.get("mix"):
        return _("Mix of {number}", number=len(mix))
    strength = job.payload.get("strength", 1.0)
    number = round_number(snapshot, job.payload.get("adapter_id"))
    return words.at_strength(_("Round {number}", number=number), strength)


def other_name(job: Job) -> str:
    """`my-style`, or `my-style at 0.8`; "" without another LoRA."""
    if not job.payload.get("other"):
        return ""
    lora = StartLora.from_dict(job.payload["other"])
    return words.at_strength(Path(lora.path).stem, lora.strength)


def empty(snapshot: StoreSnapshot) -> dict[str, str]:
    """The text of an empty viewer, and what to do next."""
    if not snapshot.adapters:
        return {
            "title": _("Nothing is tuned yet"),
            "text": _("When the first round is done, base and tuned are shown here side by side."),
            "action": _("Pick pictures"),
            "tab": "prefer",
        }
    return {
        "title": _("Base beside tuned"),
        "text": _("The same prompts and the same seeds, drawn by both. Press Compare."),
    }
