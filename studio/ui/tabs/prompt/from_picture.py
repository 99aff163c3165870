"""Settings taken over from a picture that was dropped on the tab."""

from __future__ import annotations

from dataclasses import replace

from studio.pictures.infotext import Parameters
from studio.settings import SessionSettings
from studio.store.rows import KnownModel, Session
from studio.ui.models import reads_clip_skip
from studio.ui.page import Page
from studio.ui.tabs.prompt.preview import refresh_preview
from studio.ui.tabs.prompt.sampling import with_sampling


def restore(page: Page, session: Session, parameters: Parameters) -> str:
    """Save the settings of a picture; returns the sentence for the artist."""
    model = page.store.known_model(session.settings.base_model)
    _, sentence = restored(session.settings, parameters, model)
    saved = page.store.change_settings(session.id, lambda now: restored(now, parameters, model)[0])
    refresh_preview(page, session.settings, saved)
    return sentence


def restored(
    settings: SessionSettings, parameters: Parameters, model: KnownModel | None = None
) -> tuple[SessionSettings, str]:
    """The settings with those of a picture, and a sentence that names what was taken over.

    `model` is the session's. The picture's prompt becomes the first one of the list. Eta stays:
    without noise in its steps nothing can be learned from a drawing.
    """
    taken, changes = [], {}
    prompt = " ".join(parameters.prompt.split())
    prompts = settings.prompts
    if prompt:
        taken.append("its prompt")
        prompts = (prompt, *(other for other in prompts if other != prompt))
    negative = " ".join(parameters.negative_prompt.split())
    if negative or settings.sampling.negative_prompt:
        taken.append(f"negative prompt “{negative}”" if negative else "no negative prompt")
        changes["negative_prompt"] = negative
    for name, value, words in (
        ("seed", parameters.seed, "seed {}"),
        ("steps", parameters.steps, "{} steps"),
        ("guidance", parameters.guidance, "guidance {:g}"),
        ("width_px", parameters.width_px, "{} pixels wide"),
        ("height_px", parameters.height_px, "{} high"),
    ):
        if value is not None:
            taken.append(words.format(value))
            changes[name] = value
    # A1111 writes clip skip only where it is used: settings without it mean 1.
    without = 1 if parameters.steps is not None else settings.sampling.clip_skip
    clip_skip = parameters.clip_skip or without
    if clip_skip != settings.sampling.clip_skip and reads_clip_skip(model):
        taken.append(f"clip skip {clip_skip}")
        changes["clip_skip"] = clip_skip
    settings = with_sampling(replace(settings, prompts=prompts), **changes)
    sentence = f"Taken over: {', '.join(taken)}."
    if parameters.sampler and not parameters.sampler.startswith("DDIM"):
        sentence += f" It was drawn by {parameters.sampler}; the studio draws with DDIM."
    return settings, sentence
