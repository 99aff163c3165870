"""Settings taken over from a picture that was dropped on the tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.messages import _, ngettext, together, told
from studio.pictures.infotext import Parameters
from studio.prompting.alternatives import expand
from studio.settings import LEAST_PX, MOST_PX, STEP_PX, SessionSettings, SettingsError
from studio.store.rows import KnownModel, Session
from studio.ui.dropin import left_out_loras, shortened
from studio.ui.models import family_of
from studio.ui.page import Page
from studio.ui.tabs.prompt.preview import refresh_preview
from studio.ui.tabs.prompt.sampling import with_sampling


def restore(page: Page, session: Session, parameters: Parameters) -> str:
    """Save the settings of a picture; returns the sentence for the artist."""
    model = page.store.known_model(session.settings.base_model)
    wildcards = page.store.wildcards_path
    sentence = restored(session.settings, parameters, wildcards, model)[1]
    saved = page.store.change_settings(
        session.id, lambda now: restored(now, parameters, wildcards, model)[0]
    )
    refresh_preview(page, session.settings, saved)
    return sentence


def restored(
    settings: SessionSettings,
    parameters: Parameters,
    wildcards: Path,
    model: KnownModel | None = None,
) -> tuple[SessionSettings, str]:
    """The settings with those of a picture, and sentences on what was taken over and what was not.

    Every setting is taken over or refused by itself. wildcards: the folder of the artist's lists.
    model: the session's. The picture's prompt becomes the first one of the list. Eta stays: without
    noise in its steps nothing can be learned from a drawing.
    """
    taken: list[str] = []
    refused: list[str] = []

    def take(what: str, change: Callable[[SessionSettings], SessionSettings]) -> None:
        nonlocal settings
        try:
            settings = change(settings)
        except SettingsError as error:
            refused.append(together(_("Not taken over: {what}.", what=what), told(str(error))))
        else:
            taken.append(what)

    def take_sampling(what: str, **changes: Any) -> None:
        take(what, lambda now: with_sampling(now, **changes))

    if prompt := " ".join(parameters.prompt.split()):
        take(_("its prompt"), lambda now: _with_first(now, prompt, wildcards))
    negative = " ".join(parameters.negative_prompt.split())
    if negative or settings.sampling.negative_prompt:
        what = _("no negative prompt")
        if negative:
            what = _("negative prompt “{prompt}”", prompt=shortened(negative))
        take_sampling(what, negative_prompt=negative)
    if (seed := parameters.seed) is not None:
        take_sampling(_("seed {seed}", seed=seed), seed=seed)
    if (steps := parameters.steps) is not None:
        take_sampling(ngettext("{number} step", "{number} steps", steps), steps=steps)
    if (guidance := parameters.guidance) is not None:
        take_sampling(_("guidance {guidance:g}", guidance=guidance), guidance=guidance)
    if parameters.width_px and parameters.height_px:
        width_px, height_px = nearest_size(parameters.width_px, parameters.height_px)
        what = _("{width} × {height} pixels", width=width_px, height=height_px)
        if (width_px, height_px) != (parameters.width_px, parameters.height_px):
            what = _(
                "{size}, the nearest size to its {width} × {height}",
                size=what,
                width=parameters.width_px,
                height=parameters.height_px,
            )
        take_sampling(what, width_px=width_px, height_px=height_px)
    # A1111 writes clip skip only where it is used: settings without it mean 1.
    without = 1 if parameters.steps is not None else settings.sampling.clip_skip
    clip_skip = parameters.clip_skip or without
    if clip_skip != settings.sampling.clip_skip and family_of(model).reads_clip_skip:
        take_sampling(_("clip skip {number}", number=clip_skip), clip_skip=clip_skip)
    sentences = (
        [_("Taken over: {listed}.", listed=", ".join(taken))]
        if taken
        else [_("Nothing is taken over.")]
    )
    own = family_of(model).sampler
    if parameters.sampler and not parameters.sampler.upper().startswith(own.upper()):
        sampler = shortened(parameters.sampler)
        sentences.append(
            _("It was drawn by {sampler}; the studio draws with {own}.", sampler=sampler, own=own)
        )
    sentences += [*refused, *left_out_loras(parameters), *map(told, parameters.unread)]
    return settings, together(*sentences)


def _with_first(settings: SessionSettings, prompt: str, wildcards: Path) -> SessionSettings:
    """The settings with a prompt before the others. Raises SettingsError if it cannot be used."""
    changed = replace(
        settings, prompts=(prompt, *(other for other in settings.prompts if other != prompt))
    )
    expand(prompt, 0, wildcards)
    return changed


def nearest_size(width_px: int, height_px: int) -> tuple[int, int]:
    """The nearest size of about the same shape that can be drawn."""
    scale = min(1.0, MOST_PX / max(width_px, height_px))
    sides = (round(side * scale / STEP_PX) * STEP_PX for side in (width_px, height_px))
    width_px, height_px = (min(max(side, LEAST_PX), MOST_PX) for side in sides)
    return width_px, height_px
