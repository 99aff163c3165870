"""How good the crisp starter's pictures are, beside those of another model: figures and sheets.

Asks for every object in every style, with the grounds taking turns, and for every object alone.
The recogniser of the build folder judges what comes out; it was trained on drawings alone.

    object, style, ground   shares of the named ones that were recognised
    open                    the same for what no word said: how unevenly styles and grounds fall
    frechet                 Fréchet distance between the recogniser's features of drawn pictures and
                            of the drawings that were asked for (2401.09603 says what it cannot see)
    edges                   mean gradient of drawn pictures, as a ratio to the drawings'

The other model is asked for what both know. `pairs.png` shows pictures of both for the same prompts
and seeds, their sides shuffled; `pairs.json` says which is which.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio import models
from studio.engine import recogniser
from studio.settings import STARTER_SIZE_PX, SamplingSettings
from studio.starter.crisp import pictures as crisp_pictures
from studio.starter.crisp.captions import words
from studio.starter.crisp.pictures import BUILD_PATH, GROUNDS, SIZE_PX, Pictures
from studio.starter.crisp.styles import STYLES
from studio.starter.evaluate import contact_sheet, draw_images, pictures_of, when_not_named

BATCH = 16
PAIRS = 40
SHEET_PX, PAIR_PX = 128, 192  # a picture, on a sheet
PAIR_COLUMNS = 10

Images = list[Image.Image]
Asked = list[tuple[int, int, int]]  # concept, style, ground


def frechet(first: Tensor, second: Tensor) -> float:
    """Between Gaussians fitted to features (N, d) and (M, d), as in arXiv 1706.08500, eq. 6."""
    first, second = first.double(), second.double()  # many values are nearly 0
    means = first.mean(0), second.mean(0)
    covariances = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * mixed
    return float((means[0] - means[1]).square().sum() + spread)


def mean_gradient(images: Images) -> float:
    """Of neighbouring pixels' values in 0..1, at SIZE_PX, over rows and columns."""
    total = 0.0
    for image in images:
        whole = image.convert("RGB").resize((SIZE_PX,) * 2, Image.Resampling.BICUBIC)
        values = np.asarray(whole, np.float32) / 255
        total += sum(float(np.abs(np.diff(values, axis=axis)).mean()) for axis in (0, 1)) / 2
    return total / len(images)


def all_named(pictures: Pictures) -> Asked:
    """Every object in every style, the grounds taking turns so that each style meets each."""
    concepts, styles, grounds, _ = pictures.sizes
    return [(c, s, (c + 2 * s) % grounds) for c in range(concepts) for s in range(styles)]


def prompt_of(pictures: Pictures, asked: tuple[int, int, int]) -> str:
    concept, style, ground = asked
    return words(pictures.concepts[concept], STYLES[style], GROUNDS[ground], 0)


def rendered(pictures: Pictures, asked: Asked) -> Images:
    """The drawings themselves, in the first placement."""
    by_parts = np.arange(pictures.count).reshape(pictures.sizes)
    numbers = np.array([by_parts[(*parts, 0)] for parts in asked])
    images = []
    for some in np.array_split(numbers, -(-len(numbers) // BATCH)):
        images += pictures_of(pictures.drawn(some))
    return images


def shares_right(judge: recogniser.Recogniser, images: Images, asked: Asked) -> dict[str, float]:
    found = judge.logits(images)
    return {
        name: (logits.argmax(1) == torch.tensor(wanted)).float().mean().item()
        for name, logits, wanted in zip(
            ("object", "style", "ground"), found, zip(*asked, strict=True), strict=True
        )
    }


def judged(
    judge: recogniser.Recogniser, drawn: Images, drawings: Images, asked: Asked
) -> dict[str, float]:
    distance = frechet(judge.features(drawn), judge.features(drawings))
    edges = mean_gradient(drawn) / mean_gradient(drawings)
    return shares_right(judge, drawn, asked) | {"frechet": distance, "edges": edges}


def small(images: Images, side_px: int) -> Images:
    return [image.resize((side_px,) * 2, Image.Resampling.LANCZOS) for image in images]


def blind_pairs(ours: Images, theirs: Images, chance: random.Random) -> tuple[Images, list[str]]:
    """The pictures side by side, and which side is ours."""
    sides = [chance.choice(("left", "right")) for _ in ours]
    shown: Images = []
    for our, their, side in zip(ours, theirs, sides, strict=True):
        shown += [our, their] if side == "left" else [their, our]
    return shown, sides


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    parser.add_argument("--beside", default="starter", help="'starter' or a diffusers folder")
    parser.add_argument("--every", type=int, default=1, help="ask for every so manyth picture")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args(argv)
    pictures = crisp_pictures.load(args.folder)
    judge = recogniser.load(args.folder / "recogniser")
    ours, theirs = (models.load(str(name), "cpu") for name in (args.folder / "model", args.beside))
    settings = SamplingSettings(
        steps=args.steps, guidance=args.guidance, width_px=SIZE_PX, height_px=SIZE_PX
    )
    theirs_px = replace(settings, width_px=STARTER_SIZE_PX, height_px=STARTER_SIZE_PX)

    asked = all_named(pictures)[:: args.every]
    drawn = draw_images(ours, settings, [prompt_of(pictures, parts) for parts in asked])
    drawings = rendered(pictures, asked)
    figures: dict[str, Any] = {
        "drawings": judged(judge, drawings, drawings, asked),
        "ours": judged(judge, drawn, drawings, asked),
    }
    known = recogniser.load()  # the other model's
    shared = [
        parts
        for parts in asked
        if pictures.concepts[parts[0]] in known.objects
        and STYLES[parts[1]] in known.styles
        and GROUNDS[parts[2]] in known.grounds
    ]
    prompts = [prompt_of(pictures, parts) for parts in shared]
    both = rendered(pictures, shared)
    figures["both know"] = {
        "pictures": len(shared),
        "ours": judged(judge, draw_images(ours, settings, prompts), both, shared),
        "theirs": judged(judge, draw_images(theirs, theirs_px, prompts), both, shared),
    }
    objects = list(pictures.concepts)[:: args.every]
    alone = draw_images(ours, settings, objects)
    figures["open"] = when_not_named(judge, alone, objects)
    print(json.dumps(figures, indent=2))

    contact_sheet(small(drawn, SHEET_PX), len(STYLES)).save(args.folder / "named.png")
    contact_sheet(small(drawings, SHEET_PX), len(STYLES)).save(args.folder / "drawings.png")
    contact_sheet(small(alone, SHEET_PX)).save(args.folder / "open.png")
    chance = random.Random(0)
    some = chance.sample(objects, min(PAIRS, len(objects)))
    shown, sides = blind_pairs(
        draw_images(ours, settings, some), draw_images(theirs, theirs_px, some), chance
    )
    contact_sheet(small(shown, PAIR_PX), PAIR_COLUMNS).save(args.folder / "pairs.png")
    key = [{"prompt": prompt, "ours": side} for prompt, side in zip(some, sides, strict=True)]
    (args.folder / "pairs.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    print(f"contact sheets in {args.folder}")


if __name__ == "__main__":
    main()
