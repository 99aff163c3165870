"""Comparison of a tuned model with its base on held-out prompts."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image

from studio import models
from studio.bench.artists import Artist
from studio.engine import collapse, recogniser, sampling
from studio.settings import SamplingSettings
from studio.starter.captions import words
from studio.statistics import wilson

HELD_OUT_PROMPTS = 32
IMAGES_PER_PROMPT = 2
NAMED_PROMPTS = 20  # prompts that also name style and ground
SAMPLE_BATCH = 16


@dataclass(frozen=True)
class HeldOut:
    """The prompts of the comparison: objects, and (object, style, ground) by name."""

    objects: tuple[str, ...]
    named: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Drawn:
    """Pictures of the held-out prompts: `IMAGES_PER_PROMPT` of each object, one of each named."""

    plain: list[Image.Image]
    named: list[Image.Image]


@dataclass(frozen=True)
class Comparison:
    """Scores of base and tuned on the same prompts and seeds, and the recogniser's results.

    The results are lists of booleans by feature: "object" for the pictures of objects, "style" and
    "ground" for those whose prompts name them. `checks` are those of collapse detection.
    """

    base_scores: list[float]
    tuned_scores: list[float]
    base_recognised: dict[str, list[bool]]
    tuned_recognised: dict[str, list[bool]]
    checks: collapse.Checks


def split_prompts(judge: recogniser.Recogniser, seed: int) -> tuple[list[str], HeldOut]:
    """Training prompts, and the held-out prompts, which are the same for every seed."""
    shuffled = list(judge.objects)
    random.Random(20).shuffle(shuffled)
    held_out, training = shuffled[:HELD_OUT_PROMPTS], shuffled[HELD_OUT_PROMPTS:]
    random.Random(seed).shuffle(training)
    grounds = [g for g in judge.grounds for _ in judge.styles]  # every style on every ground
    styles = list(judge.styles) * len(judge.grounds)
    named = zip(held_out[:NAMED_PROMPTS], styles, grounds, strict=False)
    return training, HeldOut(tuple(held_out), tuple(named))


@cache
def draw_held_out_by_base(
    denoiser: models.Denoiser, held_out: HeldOut, settings: SamplingSettings
) -> Drawn:
    with denoiser.adapters.off():
        return draw_held_out(denoiser, held_out, settings)


def draw_held_out(
    denoiser: models.Denoiser, held_out: HeldOut, settings: SamplingSettings
) -> Drawn:
    """Draw the held-out prompts with the denoiser in its present state, always with the same
    seeds."""

    def draw(prompts: list[str], first_seed: int) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(prompts), SAMPLE_BATCH):
            part = prompts[start : start + SAMPLE_BATCH]
            seeds = [first_seed + start + i for i in range(len(part))]
            images += sampling.images(denoiser, sampling.sample(denoiser, part, seeds, settings))
        return images

    plain = [prompt for prompt in held_out.objects for _ in range(IMAGES_PER_PROMPT)]
    return Drawn(
        draw(plain, 9_000_000), draw([words(*names, form=0) for names in held_out.named], 9_500_000)
    )


def recognised(
    judge: recogniser.Recogniser, drawn: Drawn, held_out: HeldOut
) -> dict[str, list[bool]]:
    """Whether each picture shows the features that its prompt names."""
    plain = [name for name in held_out.objects for _ in range(IMAGES_PER_PROMPT)]
    _, styles, grounds = judge.logits(drawn.named)
    return {
        "object": (judge.object_ranks(drawn.plain, plain) == 0).tolist(),
        "style": [
            judge.styles[row.argmax()] == name
            for row, (_, name, _) in zip(styles, held_out.named, strict=True)
        ],
        "ground": [
            judge.grounds[row.argmax()] == name
            for row, (_, _, name) in zip(grounds, held_out.named, strict=True)
        ],
    }


def compare(
    base: Drawn,
    tuned: Drawn,
    held_out: HeldOut,
    judge: recogniser.Recogniser,
    artist: Artist,
) -> Comparison:
    """Compare base and tuned on all held-out prompts."""
    names = [prompt for prompt in held_out.objects for _ in range(IMAGES_PER_PROMPT)]

    def by_prompt(drawn: Drawn) -> list[list[Image.Image]]:
        starts = range(0, len(drawn.plain), IMAGES_PER_PROMPT)
        return [drawn.plain[i : i + IMAGES_PER_PROMPT] for i in starts]

    return Comparison(
        base_scores=[artist(image, name) for image, name in zip(base.plain, names, strict=True)],
        tuned_scores=[artist(image, name) for image, name in zip(tuned.plain, names, strict=True)],
        base_recognised=recognised(judge, base, held_out),
        tuned_recognised=recognised(judge, tuned, held_out),
        checks=collapse.compare(by_prompt(base), by_prompt(tuned)),
    )


def summarise(comparisons: list[Comparison]) -> dict[str, float]:
    """The figures over all seeds."""
    base = torch.tensor([s for c in comparisons for s in c.base_scores], dtype=torch.float64)
    tuned = torch.tensor([s for c in comparisons for s in c.tuned_scores], dtype=torch.float64)
    wins = float((tuned > base).sum() + 0.5 * (tuned == base).sum())
    low, high = wilson(wins, len(base))
    deviation = max(float(base.std()), 1e-12)
    figures = {
        "win_rate": wins / len(base),
        "win_rate_low": low,
        "win_rate_high": high,
        "shift_sd": float(tuned.mean() - base.mean()) / deviation,
        "score_base": float(base.mean()),
        "score_tuned": float(tuned.mean()),
        "comparisons": len(base),
        "diversity": statistics.mean(c.checks.diversity for c in comparisons),
        "drift": statistics.mean(c.checks.drift for c in comparisons),
    }
    for what in ("object", "style", "ground"):
        for side in ("base", "tuned"):
            lists = [getattr(c, f"{side}_recognised")[what] for c in comparisons]
            flat = [value for values in lists for value in values]
            figures[f"{what}_accuracy_{side}"] = sum(flat) / len(flat)
    return figures


def sheet(base: list[Image.Image], tuned: list[Image.Image], columns: int = 16) -> Image.Image:
    """Rows of base images, each above the tuned ones of the same seeds."""
    size_px = base[0].width
    rows = -(-len(base) // columns)
    picture = Image.new("RGB", (columns * size_px, rows * (2 * size_px + 8)), "white")
    for index, pair in enumerate(zip(base, tuned, strict=True)):
        left, top = index % columns * size_px, index // columns * (2 * size_px + 8)
        for row, image in enumerate(pair):
            picture.paste(image, (left, top + row * size_px))
    return picture
