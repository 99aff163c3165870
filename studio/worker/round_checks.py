"""Collapse detection for a trained round: its pictures of the fixed prompts against the base's."""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image

from studio import models
from studio.engine import collapse, recogniser, sampling
from studio.settings import SamplingSettings
from studio.store import Session
from studio.worker.renderer import Renderer, preview_seed
from studio.worker.status import StatusReporter

REFERENCE_SEEDS = 2  # pictures of each fixed prompt that a round is judged by


@dataclass
class ReferenceImages:
    """Pictures of the fixed prompts, prompt by prompt, for the check for collapse."""

    prompts: tuple[str, ...]
    texts: tuple[str, ...]  # the prompts with their alternatives chosen
    sampling: SamplingSettings
    base_hash: str
    pictures: list[list[PIL.Image.Image]]


class RoundChecks:
    """Draws the fixed prompts with a trained adapter, and caches the base model's pictures."""

    def __init__(self, renderer: Renderer, status: StatusReporter) -> None:
        self.renderer, self.status = renderer, status
        self._base: ReferenceImages | None = None

    def run(
        self, session: Session, denoiser: models.Denoiser
    ) -> tuple[ReferenceImages, collapse.Checks | None]:
        """The trained adapter's pictures of the fixed prompts, and their comparison with the
        base's; no checks if there is no prompt."""
        tuned = self._draw(session, denoiser)
        if not tuned.prompts:
            return tuned, None
        base = self._base
        inputs = ("texts", "sampling", "base_hash")
        if base is None or any(getattr(base, name) != getattr(tuned, name) for name in inputs):
            with denoiser.adapters.off():
                base = self._base = self._draw(session, denoiser)
        recognised = [None, None]
        if session.settings.base_model == "starter":
            recognised = [_share_recognised(images) for images in (base, tuned)]
        return tuned, collapse.compare(base.pictures, tuned.pictures, *recognised)

    def _draw(self, session: Session, denoiser: models.Denoiser) -> ReferenceImages:
        """Draw the fixed prompts with the model in its present state."""
        settings, shown = session.settings.sampling, session.settings.shown_prompts
        texts, pictures = [], []
        for prompt in shown:
            self.status.report("training", "Checking the pictures of the round.")
            first = preview_seed(settings.seed, prompt)
            seeds = [first + offset for offset in range(REFERENCE_SEEDS)]
            texts.append(self.renderer.expand(prompt, first))
            chains = sampling.sample(denoiser, texts[-1:] * REFERENCE_SEEDS, seeds, settings)
            pictures.append(sampling.images(denoiser, chains))
        return ReferenceImages(shown, tuple(texts), settings, denoiser.base_hash, pictures)


def _share_recognised(reference_images: ReferenceImages) -> float | None:
    """Share of the pictures that show the object of their prompt; None if no prompt names one."""
    judge = recogniser.load()
    named = [
        (picture, name)
        for text, pictures in zip(reference_images.texts, reference_images.pictures, strict=True)
        if (name := judge.object_in(text)) is not None
        for picture in pictures
    ]
    if not named:
        return None
    ranks = judge.object_ranks([picture for picture, _ in named], [name for _, name in named])
    return float((ranks == 0).float().mean())
