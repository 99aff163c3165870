"""How good the starter's pictures are, perhaps beside another model's: figures, contact sheets.

Asks for every object in every style, with the grounds taking turns, and for every object alone.
The recogniser judges what comes out; it was trained on drawings alone.

    object, style, ground   shares of the named ones that were recognised
    open                    the same for what no word said: how unevenly styles and grounds fall
    frechet                 Fréchet distance between the recogniser's features of drawn pictures and
                            of the drawings that were asked for (2401.09603 says what it cannot see)
    edges                   mean gradient of drawn pictures, as a ratio to the drawings'
    seconds_a_pair          the least of three pairs

Needs the drawings that `python -m studio.starter.pictures` renders. `--beside` names a model that
is asked for the same, in its own size; then `pairs.png` shows pictures of both for the same prompts
and seeds, their sides shuffled, and `pairs.json` says which is which.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio import models
from studio.engine import recogniser, sampling
from studio.settings import RECOGNISER_PATH, SamplingSettings
from studio.starter.captions import words
from studio.starter.pictures import BUILD_PATH, GROUNDS, SIZE_PX, Pictures, load
from studio.starter.styles import STYLES

BATCH = 16
PAIRS = 40
SHEET_PX, PAIR_PX = 128, 192  # a picture, on a sheet
PAIR_COLUMNS = 10
SHEET_COLUMNS = 12

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


def draw_images(
    denoiser: models.Denoiser, settings: SamplingSettings, prompts: list[str]
) -> Images:
    """One of each prompt, its seed its place."""
    images: Images = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [start + i for i in range(len(part))]
        chains = sampling.sample(denoiser, part, seeds, settings)
        images += sampling.images(denoiser, chains)
    return images


def pictures_of(pixels: torch.Tensor) -> Images:
    """(B, 3, h, w) in -1..1, as the recogniser is shown what a model draws."""
    values = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in values.permute(0, 2, 3, 1).numpy()]


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


def when_not_named(
    judge: recogniser.Recogniser, images: Images, objects: list[str]
) -> dict[str, Any]:
    """Objects that came out right, and how the styles and grounds that were left open fell.

    `uneven` is the share of pictures that would have to change for all to appear equally often.
    """
    ranks = judge.object_ranks(images, objects)
    figures: dict[str, Any] = {
        "object_top1": (ranks < 1).float().mean().item(),
        "object_top5": (ranks < 5).float().mean().item(),
    }
    _, styles, grounds = judge.logits(images)
    for word, logits, names in (
        ("style", styles, judge.styles),
        ("ground", grounds, judge.grounds),
    ):
        shares = torch.bincount(logits.argmax(1), minlength=len(names)) / len(images)
        figures[f"{word}_shares"] = dict(zip(names, shares.tolist(), strict=True))
        figures[f"{word}_uneven"] = (shares - 1 / len(names)).clamp(min=0).sum().item()
    return figures


def seconds_a_pair(denoiser: models.Denoiser, settings: SamplingSettings) -> float:
    """The least of three pairs."""
    seconds = []
    for _ in range(3):
        started_s = time.perf_counter()
        sampling.images(denoiser, sampling.sample(denoiser, ["owl"] * 2, [0, 1], settings))
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def contact_sheet(images: Images, columns: int = SHEET_COLUMNS) -> Image.Image:
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def small(images: Images, side_px: int) -> Images:
    return [image.resize((side_px,) * 2, Image.Resampling.LANCZOS) for image in images]


def blind_pairs(ours: Images, theirs: Images, chance: random.Random) -> tuple[Images, list[str]]:
    """The pictures side by side, and which side is ours."""
    sides = [chance.choice(("left", "right")) for _ in ours]
    shown: Images = []
    for our, their, side in zip(ours, theirs, sides, strict=True):
        shown += [our, their] if side == "left" else [their, our]
    return shown, sides


def own_size(denoiser: models.Denoiser, args: argparse.Namespace) -> SamplingSettings:
    """Settings for pictures of the size that a model was made for."""
    side_px = denoiser.network.config.sample_size * denoiser.vae_scale_factor
    return SamplingSettings(
        steps=args.steps, guidance=args.guidance, width_px=side_px, height_px=side_px
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    parser.add_argument("--model", default="starter", help="'starter' or a diffusers folder")
    parser.add_argument("--judge", type=Path, default=RECOGNISER_PATH)
    parser.add_argument("--beside", help="a diffusers folder")
    parser.add_argument("--every", type=int, default=1, help="ask for every so manyth picture")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args(argv)
    pictures, judge = load(args.folder), recogniser.load(args.judge)
    asked = all_named(pictures)[:: args.every]
    prompts = [prompt_of(pictures, parts) for parts in asked]
    objects = list(pictures.concepts)[:: args.every]
    drawings = rendered(pictures, asked)
    figures: dict[str, Any] = {"drawings": judged(judge, drawings, drawings, asked)}
    alone: list[Images] = []
    for name in filter(None, (args.model, args.beside)):
        denoiser = models.load(str(name), "cpu")
        settings = own_size(denoiser, args)
        drawn = draw_images(denoiser, settings, prompts)
        alone.append(draw_images(denoiser, settings, objects))
        figures[name] = judged(judge, drawn, drawings, asked) | {
            "open": when_not_named(judge, alone[-1], objects),
            "seconds_a_pair": seconds_a_pair(denoiser, settings),
        }
        if name == args.model:
            contact_sheet(small(drawn, SHEET_PX), len(STYLES)).save(args.folder / "named.png")
    print(json.dumps(figures, indent=2))
    contact_sheet(small(drawings, SHEET_PX), len(STYLES)).save(args.folder / "drawings.png")
    contact_sheet(small(alone[0], SHEET_PX)).save(args.folder / "open.png")
    if args.beside:
        chance = random.Random(0)
        some = chance.sample(range(len(objects)), min(PAIRS, len(objects)))
        shown, sides = blind_pairs(*([each[n] for n in some] for each in alone), chance)
        contact_sheet(small(shown, PAIR_PX), PAIR_COLUMNS).save(args.folder / "pairs.png")
        key = [{"prompt": objects[n], "ours": side} for n, side in zip(some, sides, strict=True)]
        (args.folder / "pairs.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    print(f"contact sheets in {args.folder}")


if __name__ == "__main__":
    main()
