"""The questions of an exam: prompts that were never trained on, with seeds never seen before."""

from __future__ import annotations

import re
import secrets

from studio.messages import _
from studio.settings import MAX_PROMPT_CHARACTERS, SessionSettings, SettingsError
from studio.ui.starter_pack import starter_concepts

MAX_PAIRS = 100


def exam_prompts(text: str, settings: SessionSettings, trained: frozenset[str]) -> list[str]:
    """The artist's own prompts, or else things that the starter model can draw.

    Raises SettingsError if one of the artist's was trained on, or if nothing is left.
    """
    own = list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in own):
        raise SettingsError(
            _(
                "A prompt is longer than {most} characters.",
                most=MAX_PROMPT_CHARACTERS,
            )
        )
    refuse_practised(own, trained)
    if own:
        return own
    named = " · ".join(map(_plain, (*trained, *settings.prompts, *settings.preview_prompts)))
    fresh = [
        concept
        for concept in starter_concepts()
        if not re.search(rf"\b{re.escape(_plain(concept))}\b", named)
    ]
    if not fresh:
        raise SettingsError(_("All that is in the box was practised: write prompts of your own."))
    return secrets.SystemRandom().sample(fresh, len(fresh))


def refuse_practised(prompts: list[str], trained: frozenset[str]) -> None:
    """Raises SettingsError if one of the prompts was trained on."""
    practised = {_plain(prompt) for prompt in trained}
    known = [prompt for prompt in prompts if _plain(prompt) in practised]
    if known:
        raise SettingsError(
            _(
                "“{prompt}” was practised, and an exam asks for what was not. Take it out, or "
                "write something else.",
                prompt=known[0],
            )
        )


def with_seeds(prompts: list[str], pairs: float | None) -> list[tuple[str, int]]:
    """As many (prompt, seed) as there are pairs: the prompts in turn, each with a fresh seed."""
    if pairs is None or not 1 <= pairs <= MAX_PAIRS:
        raise SettingsError(_("An exam has between 1 and {most} pairs.", most=MAX_PAIRS))
    return [(prompts[n % len(prompts)], secrets.randbits(31)) for n in range(int(pairs))]


def _plain(prompt: str) -> str:
    """A prompt without its case, spaces and first article, which change no picture."""
    return re.sub(r"^(a|an|the) ", "", " ".join(prompt.casefold().split())).rstrip(". ")
