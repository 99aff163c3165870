"""A mix: other tastes and LoRA files on top of the round that is compared, each with a slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.messages import N_, _
from studio.paths import typed
from studio.pictures.infotext import lora_name
from studio.settings import (
    LEAST_STRENGTH,
    MOST_STRENGTH,
    MixPart,
    SettingsError,
    checked_strength,
)
from studio.store.rows import Adapter, Session
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot

MOST_MIXED = 5  # with the round that is compared
NOTHING = (N_("Nothing more"), "")
TASTE = "taste:"  # and an adapter's id: the value of a choice, which no path begins like
ABOUT = N_(
    "What each of them changes is added up, as other tools do it when LoRAs are used together. Let "
    "a slider go or press Compare, and the mix is drawn instead of the round. Below 0, each does "
    "the opposite."
)


@dataclass(frozen=True)
class Form:
    """The components of a mix. rows: part and strength of every row, in turn. columns: what holds
    a row, each."""

    rows: list[Any]
    columns: list[gr.Column]
    name: gr.Textbox
    rank: gr.Number
    save: gr.Button


def build(page: Page) -> Form:
    """A row for each part, and what the mix is saved as."""
    columns: list[gr.Column] = []
    sources: list[gr.Dropdown] = []
    strengths: list[gr.Slider] = []
    with gr.Accordion(_("Mixed with others"), open=False, elem_id="compare-mix"):
        gr.HTML(f"<p class='soft'>{ABOUT}</p>", apply_default_css=False)
        for number in range(1, MOST_MIXED + 1):
            with gr.Column(visible=number == 1, elem_classes="mix-row") as column:
                source = gr.Dropdown(
                    [NOTHING],
                    value="",
                    label=_("Taste or LoRA file {number}", number=number),
                    info=_("Choose a round, or write the path of a .safetensors file.")
                    if number == 1
                    else None,
                    allow_custom_value=True,
                    interactive=True,
                    elem_id=f"mix-source-{number}",
                )
                strength = gr.Slider(
                    LEAST_STRENGTH,
                    MOST_STRENGTH,
                    value=1.0,
                    step=0.05,
                    label=_("Strength {number}", number=number),
                    elem_id=f"mix-strength-{number}",
                )
            columns.append(column)
            sources.append(source)
            strengths.append(strength)
        name = gr.Textbox(
            label=_("Name of the mix"), max_lines=1, max_length=120, elem_id="mix-name"
        )
        rank = gr.Number(
            label=_("Rank"),
            info=_("0 keeps the mix exact. A small rank, such as 16, makes a smaller file."),
            value=0,
            precision=0,
            elem_id="mix-rank",
        )
        save = gr.Button(_("Save this mix as one LoRA"), elem_id="mix-save")

    def view(snapshot: StoreSnapshot) -> Values:
        choices = taste_choices(snapshot)
        return {source: gr.update(choices=choices) for source in sources}

    page.show(view, sources)

    page.fill(lambda snapshot: {name: mix_name(snapshot.session)}, [name])

    def reveal(session: Session, *chosen: str | None) -> Values:
        return revealed(columns, chosen)

    for source in sources:
        page.on(source.input, reveal, inputs=sources, outputs=columns)
    rows = [component for row in zip(sources, strengths, strict=True) for component in row]
    return Form(rows, columns, name, rank, save)


def mix_name(session: Session) -> str:
    """The name of a mix that the artist gives none."""
    return _("{name} mix", name=session.name)


def revealed(columns: Sequence[gr.Column], chosen: Sequence[str | None]) -> Values:
    """One row more than there are parts is shown."""
    last = max((n for n, one in enumerate(chosen) if one and one.strip()), default=-1)
    return {column: gr.update(visible=n <= last + 1) for n, column in enumerate(columns)}


def taste_choices(snapshot: StoreSnapshot) -> list[tuple[str, str]]:
    """(label, value) of all rounds of all sessions for the model of this session's rounds."""
    return [(_(NOTHING[0]), NOTHING[1])] + [
        (_("{name} · round {number}", name=name, number=adapter.number), TASTE + adapter.id)
        for name, adapter in _tastes(snapshot)
    ]


def taste_values(snapshot: StoreSnapshot) -> dict[str, str]:
    """The values of `taste_choices` by the names that saved pictures have for them."""
    return {
        lora_name(f"{name} round {adapter.number}"): TASTE + adapter.id
        for name, adapter in reversed(_tastes(snapshot))
    }


def _tastes(snapshot: StoreSnapshot) -> list[tuple[str, Adapter]]:
    newest = snapshot.current_adapter or next(reversed(snapshot.adapters), None)
    return snapshot.store.tastes(newest.base_hash) if newest else []


def mix_payload(values: Sequence[Any]) -> list[dict[str, Any]]:
    """The parts of a mix, from part and strength of every row in turn. Raises SettingsError."""
    parts = []
    for source, strength in zip(values[::2], values[1::2], strict=True):
        if source and source.strip():
            if source.startswith(TASTE):
                part = MixPart(adapter_id=source.removeprefix(TASTE), strength=strength)
            else:
                part = MixPart(path=typed(source), strength=strength)
            parts.append(part.to_dict())
    return parts


def whole_mix(
    adapter_id: str | None, strength: float | None, parts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The round that is compared, and what is mixed with it."""
    first = MixPart(adapter_id=adapter_id, strength=checked_strength(strength))
    return [first.to_dict(), *parts]


def export_payload(
    adapter_id: str | None,
    strength: float | None,
    name: str,
    rank: float | None,
    parts: list[dict[str, Any]],
) -> dict[str, Any]:
    """The payload of a job that saves a mix. Raises SettingsError with a sentence."""
    if not adapter_id:
        raise SettingsError(_("There is nothing to mix yet: let a round learn first."))
    if not parts:
        raise SettingsError(_("Choose something to mix in first. The round alone is on Export."))
    if rank is None or not 0 <= rank < 1e6:
        raise SettingsError(_("A rank is a whole number, such as 16; 0 keeps the mix exact."))
    return {
        "adapter_id": adapter_id,
        "mix": whole_mix(adapter_id, strength, parts),
        "name": name,
        "formats": ["kohya", "diffusers"],
        "rank": int(rank),
    }
