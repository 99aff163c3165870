"""The comparison of base and tuned: the request to the worker, and the pictures for the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

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
        raise SettingsError("Write at least one prompt to compare with.")
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in prompts):
        raise SettingsError(f"A prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
    if first is None or count is None or first < 0 or count < 1:
        raise SettingsError("Seeds are whole numbers from 0 upwards, and at least one is needed.")
    if not adapter_id:
        raise SettingsError("There is nothing to compare yet: let a round learn first.")
    if len(prompts) * int(count) > MAX_PAIRS:
        raise SettingsError(
            f"That would be {len(prompts) * int(count)} pairs of pictures; "
            f"at most {MAX_PAIRS} are drawn at once. Take fewer prompts or seeds."
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
        raise SettingsError("This picture names no prompt.")
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
        remarks.append(f"Its seed {seed} is larger than a seed can be here.")
    sentence = " ".join(["Filled in from the picture.", *remarks])
    if different := _different_settings(snapshot, parameters):
        sentence += (
            f" This session has another setting for {', '.join(different)}: drop the picture on "
            "Prompt to take that over too."
        )
    return values, sentence


def _bounded(strength: float) -> float:
    return min(MOST_STRENGTH, max(LEAST_STRENGTH, strength))


def _different_settings(snapshot: StoreSnapshot, parameters: Parameters) -> list[str]:
    """The names of the settings that the picture gives and the session has otherwise."""
    sampling = snapshot.settings.sampling
    clip_skip = parameters.clip_skip if family_of(snapshot.model).reads_clip_skip else None
    pairs = {
        "steps": (parameters.steps, sampling.steps),
        "guidance": (parameters.guidance, sampling.guidance),
        "width": (parameters.width_px, sampling.width_px),
        "height": (parameters.height_px, sampling.height_px),
        "negative prompt": (parameters.negative_prompt, sampling.negative_prompt),
        "clip skip": (clip_skip, sampling.clip_skip),
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
    found = {"Mix": job.result.get("mix"), other_name(job): job.result.get("fit")}
    return " ".join(f"{what}: {words}" for what, words in found.items() if words)


def tuned_name(snapshot: StoreSnapshot, job: Job) -> str:
    """`Round 2`, or `Round 2 at 0.8`, or `Mix of 3`."""
    if mix := job.payload.get("mix"):
        return f"Mix of {len(mix)}"
    strength = job.payload.get("strength", 1.0)
    number = round_number(snapshot, job.payload.get("adapter_id"))
    return f"Round {number}" + (f" at {strength:g}" if strength != 1 else "")


def other_name(job: Job) -> str:
    """`my-style`, or `my-style at 0.8`; "" without another LoRA."""
    if not job.payload.get("other"):
        return ""
    lora = StartLora.from_dict(job.payload["other"])
    return Path(lora.path).stem + (f" at {lora.strength:g}" if lora.strength != 1 else "")


def empty(snapshot: StoreSnapshot) -> dict[str, str]:
    """The text of an empty viewer, and what to do next."""
    if not snapshot.adapters:
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
