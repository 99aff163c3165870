"""How pictures are drawn: steps, guidance, seed, size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from studio.messages import _
from studio.settings import SamplingSettings, SessionSettings, SettingsError
from studio.store.rows import Session
from studio.ui.fields import Field, save_fields
from studio.ui.models import family_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt.preview import refresh_preview
from studio.ui.tabs.prompt.sizes import size_chips
from studio.ui.widgets import click_events

SIZES_PX = (64, 128, 256, 384, 512, 640, 768, 896, 1024)


def build(page: Page) -> None:
    """A field for every setting, and the sizes that fit the model."""
    with gr.Row(elem_classes="numbers"):
        steps = _number(_("Steps"), _("More is finer and slower."), "steps", precision=0)
        guidance = _number(
            _("Guidance"), _("How closely it follows the prompt; 1 for Turbo and LCM."), "guidance"
        )
        seed = _number(_("Seed"), _("Another number, other pictures."), "seed", precision=0)
    sizes = gr.HTML(
        apply_default_css=False, elem_id="shapes", js_on_load=click_events("choose_size")
    )
    with gr.Row(elem_classes="numbers"):
        width = gr.Dropdown(
            SIZES_PX, label=_("Width"), info=_("In pixels."), allow_custom_value=True, min_width=120
        )
        height = gr.Dropdown(
            SIZES_PX,
            label=_("Height"),
            info=_("In pixels."),
            allow_custom_value=True,
            min_width=120,
        )
        ready = _number(_("Pairs kept ready"), _("Drawn ahead."), "queue-target", precision=0)
    with gr.Column(elem_id="clip-skip-row") as clip_skip_row:
        clip_skip = _number(
            _("Clip skip"),
            _("As in other tools: 1 reads all of the text encoder, 2 leaves out its last layer."),
            "clip-skip",
            precision=0,
        )
    shared = gr.Checkbox(
        label=_("Both pictures of a pair start from the same noise"),
        info=_("They then differ in detail rather than in everything, which teaches more."),
        elem_id="shared-noise",
    )
    note = gr.HTML(apply_default_css=False, elem_classes="under-field")
    save_fields(
        page,
        [
            _field(steps, "steps", int),
            _field(guidance, "guidance", float),
            _field(seed, "seed", int),
            _field(width, "width_px", pixels),
            _field(height, "height_px", pixels),
            Field(ready, lambda s: s.queue_target, lambda s, n: replace(s, queue_target=int(n))),
            _field(clip_skip, "clip_skip", int),
            _field(shared, "shared_noise", bool),
        ],
        after=partial(refresh_preview, page),
    )

    def view(snapshot: StoreSnapshot) -> Values:
        settings = snapshot.settings
        return {
            sizes: size_chips(settings.base_model, snapshot.model, settings.sampling),
            clip_skip_row: gr.update(visible=family_of(snapshot.model).reads_clip_skip),
            note: _notes(settings.sampling, bool(snapshot.counts.usable)),
        }

    page.show(view, [sizes, clip_skip_row, note])

    def choose_size(session: Session, event: gr.EventData) -> None:
        width_px, height_px = (pixels(event._data.get(key)) for key in ("width", "height"))
        saved = page.store.change_settings(
            session.id, lambda now: with_sampling(now, width_px=width_px, height_px=height_px)
        )
        refresh_preview(page, session.settings, saved)

    page.on(sizes.choose_size, choose_size, with_event=True, refill=True)


def _notes(sampling: SamplingSettings, has_picks: bool) -> str:
    """Consequences of the settings that are not obvious."""
    notes = []
    if has_picks:
        notes.append(
            _(
                "Picks on pictures made in different ways cannot be learned together: after a "
                "change here, a round learns from the new pictures alone."
            )
        )
    if sampling.guidance <= 1 and sampling.negative_prompt:
        notes.append(_("The negative prompt is read only with guidance above 1."))
    if sampling.steps == 1 and sampling.shared_noise:
        notes.append(
            _("With a single step, both pictures of a pair start from noise of their own.")
        )
    return "".join(f"<p class='soft'>{note}</p>" for note in notes)


def _number(label: str, info: str, elem_id: str, precision: int | None = None) -> gr.Number:
    return gr.Number(
        label=label,
        info=info,
        elem_id=elem_id,
        elem_classes="autosave",
        min_width=120,
        precision=precision,
    )


def _field(component: Any, name: str, convert: Any) -> Field:
    """A field for one of the sampling settings."""
    return Field(
        component,
        lambda s: getattr(s.sampling, name),
        lambda s, value: with_sampling(s, **{name: convert(value)}),
    )


def with_sampling(settings: SessionSettings, **changes: Any) -> SessionSettings:
    """The settings with some of the sampling settings changed."""
    return replace(settings, sampling=replace(settings.sampling, **changes))


def pixels(value: Any) -> int:
    """A size as the artist typed it. Raises SettingsError if it is no whole number."""
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(_("A size is a whole number of pixels, such as 512.")) from error
