"""How well a starter model does what it is told: figures and contact sheets.

Asks for every object with a named style and ground, and without, for combinations that training
held out, and for scenes; the recogniser judges what comes out. `--model` names the embedded model,
which assets/recogniser judges, or a diffusers folder, which the build's own recogniser does.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio import models
from studio.engine import recogniser, sampling
from studio.settings import RECOGNISER_PATH, SamplingSettings
from studio.starter import scenes
from studio.starter.data import Drawings, arguments, chosen, load, load_for
from studio.starter.recipe import Recipe
from studio.starter.scenes import Combinations, Scene, caption
from studio.starter.train import any_ground_batch, autoencoder_concepts, generator, recogniser_batch

BATCH = 26
SHEET_COLUMNS = 12
SCENES_OF_A_KIND = 20

Pictures = list[Image.Image]


def check_on_drawings(
    judge: recogniser.Recogniser, recipe: Recipe, drawings: Drawings
) -> dict[str, float]:
    """The recogniser on drawings placed and coloured anew: what it could score at best."""
    images, labels = recogniser_batch(recipe, drawings, 1000, generator(99, 0))
    with torch.no_grad():
        outputs = judge.network(images)
    right = [(out.argmax(1) == labels[:, i]).float().mean().item() for i, out in enumerate(outputs)]
    return dict(zip(("object", "style", "ground"), right, strict=True))


def draw_images(
    denoiser: models.Denoiser, settings: SamplingSettings, prompts: list[str]
) -> Pictures:
    """One of each prompt, its seed its place."""
    images: Pictures = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [start + i for i in range(len(part))]
        chains = sampling.sample(denoiser, part, seeds, settings)
        images += sampling.images(denoiser, chains)
    return images


def asked(judge: recogniser.Recogniser, unseen: Combinations, held_out: bool) -> Iterator[Scene]:
    """Every object alone, in a combination that training held out, or in one that it did not.

    Styles and grounds take turns, so that each style meets each ground.
    """
    each = list(product(judge.grounds, judge.styles))
    for number, name in enumerate(judge.objects):
        first = number % len(each)
        for ground, style in each[first:] + each[:first]:
            if ((name, style, ground) in unseen) == held_out:
                yield Scene("alone", (name,), style, ground)
                break


def prompt_of(scene: Scene) -> str:
    return caption(scenes.subject(scene), scene.style, scene.ground)


def recognised(
    judge: recogniser.Recogniser, images: Pictures, shown: list[Scene]
) -> dict[str, float]:
    """Shares of pictures of one object each whose object, style and ground came out right."""
    ranks = judge.object_ranks(images, [scene.objects[0] for scene in shown])
    _, styles, grounds = judge.logits(images)
    right = {
        "style": styles.argmax(1) == torch.tensor([judge.styles.index(s.style) for s in shown]),
        "ground": grounds.argmax(1) == torch.tensor([judge.grounds.index(s.ground) for s in shown]),
        "object_top1": ranks < 1,
        "object_top5": ranks < 5,
    }
    return {name: each.float().mean().item() for name, each in right.items()}


def when_not_named(
    judge: recogniser.Recogniser, images: Pictures, objects: list[str]
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


def objects_in_cells(judge: recogniser.Recogniser, images: Pictures, shown: list[Scene]) -> float:
    """The share of scenes in which every object is recognised in the square where it belongs."""
    right = 0
    for image, scene in zip(images, shown, strict=True):
        squares = scenes.cells(scene.relation, image.width)
        crops = [
            image.crop((left, top, left + side, top + side)).resize(
                (recogniser.INPUT_PX,) * 2, Image.Resampling.BICUBIC
            )
            for top, left, side in squares
        ]
        names = scene.objects + scene.objects[-1:] * (len(crops) - len(scene.objects))
        right += bool((judge.object_ranks(crops, list(names)) == 0).all())
    return right / len(images)


def pictures_of(pixels: torch.Tensor) -> Pictures:
    """(B, 3, h, w) in -1..1, as the recogniser is shown what a model draws."""
    values = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in values.permute(0, 2, 3, 1).numpy()]


def scenes_right(
    denoiser: models.Denoiser,
    settings: SamplingSettings,
    judge: recogniser.Recogniser,
    recipe: Recipe,
    drawings: Drawings,
    unseen: Combinations,
) -> tuple[dict[str, dict[str, float]], Pictures]:
    """By relation, the shares of scenes recognised: drawn by the model, and composed of drawings.

    The second is what the recogniser could score at best. And the model's pictures.
    """
    figures, drawn = {}, []
    for relation in scenes.CELLS if recipe.scenes else ():
        chance = random.Random(relation)
        shown = [
            scenes.draw_scene(relation, drawings, unseen, chance) for _ in range(SCENES_OF_A_KIND)
        ]
        placed = [scenes.boxes(relation, recipe, chance) for _ in shown]
        composed = scenes.drawn(drawings, shown, placed, scenes.palette(shown), recipe.size_px)
        images = draw_images(denoiser, settings, [prompt_of(scene) for scene in shown])
        figures[relation] = {
            "drawn": objects_in_cells(judge, images, shown),
            "composed": objects_in_cells(judge, pictures_of(composed), shown),
        }
        drawn += images
    return figures, drawn


@torch.no_grad()
def autoencoder_psnr_db(vae: torch.nn.Module, recipe: Recipe, drawings: Drawings) -> float:
    """Of single drawings that its training held out, or of any where the recipe holds out none."""
    held_out = autoencoder_concepts(recipe, drawings, seen=not recipe.held_out)
    alone = replace(recipe, scenes=0.0)
    images = any_ground_batch(alone, drawings.only(held_out), 128, generator(99, 0))
    images = images.to(vae.device, vae.dtype)
    errors = []
    for part in images.split(BATCH):
        rebuilt = vae.decode(vae.encode(part).latent_dist.mode()).sample
        errors.append((rebuilt.clamp(-1, 1) - part).float().square().mean((1, 2, 3)))
    return 10 * math.log10(4 / torch.cat(errors).mean().item())


def seconds_a_pair(denoiser: models.Denoiser, settings: SamplingSettings) -> float:
    """The least of three pairs."""
    seconds = []
    for _ in range(3):
        started_s = time.perf_counter()
        sampling.images(denoiser, sampling.sample(denoiser, ["owl"] * 2, [0, 1], settings))
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def weights_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6


def evaluate(
    denoiser: models.Denoiser,
    judge: recogniser.Recogniser,
    recipe: Recipe,
    folder: Path,
    settings: SamplingSettings,
    subset: int,
) -> tuple[dict[str, Any], dict[str, Pictures]]:
    """All figures, and the pictures for the contact sheets by their names."""
    drawings = load_for(recipe, folder)
    unseen = scenes.held_out(recipe, drawings)
    objects = list(judge.objects)

    def named(shown: list[Scene], **changes: float) -> tuple[dict[str, float], Pictures]:
        prompts = [prompt_of(scene) for scene in shown]
        images = draw_images(denoiser, replace(settings, **changes), prompts)
        return recognised(judge, images, shown), images

    def some(shown: list[Scene]) -> list[Scene]:
        return shown[:: max(1, len(shown) // subset)][:subset]

    seen = list(asked(judge, unseen, held_out=False))
    figures: dict[str, Any] = {"drawings": check_on_drawings(judge, recipe, drawings)}
    sheets: dict[str, Pictures] = {}
    figures["named"], sheets["named"] = named(seen)
    if unseen:
        held_out = list(asked(judge, unseen, held_out=True))
        figures["named_held_out"], sheets["held_out"] = named(held_out)
    sheets["plain"] = draw_images(denoiser, settings, objects)
    figures["plain"] = when_not_named(judge, sheets["plain"], objects)
    figures["guidance"] = {g: named(some(seen), guidance=g)[0] for g in (2.0, 4.0, 6.0)}
    figures["steps"] = {n: named(some(seen), steps=n)[0] for n in (20, 50)}
    figures["scenes"], sheets["scenes"] = scenes_right(
        denoiser, settings, judge, recipe, drawings, unseen
    )
    figures["autoencoder_psnr_db"] = autoencoder_psnr_db(denoiser.vae, recipe, load(folder))
    figures["seconds_a_pair"] = seconds_a_pair(denoiser, settings)
    figures["weights_mb"] = weights_mb(denoiser.info.path)
    return figures, sheets


def contact_sheet(images: Pictures, columns: int = SHEET_COLUMNS) -> Image.Image:
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="starter", help="'starter' or a diffusers folder")
    parser.add_argument("--device", help="default: the GPU, if there is one")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument(
        "--subset", type=int, default=60, help="objects for other guidance and other steps"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    recipe, folder = chosen(args)
    judge = recogniser.load(RECOGNISER_PATH if args.model == "starter" else folder / "recogniser")
    denoiser = models.load(args.model, args.device)
    settings = SamplingSettings(
        steps=args.steps,
        guidance=args.guidance,
        width_px=recipe.size_px,
        height_px=recipe.size_px,
    )
    if denoiser.latent_shape(settings)[1] != denoiser.unet.config.sample_size:
        raise SystemExit(f"{args.model} does not draw the {recipe.size_px} px of this recipe.")
    figures, sheets = evaluate(denoiser, judge, recipe, folder, settings, args.subset)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    for name, images in sheets.items():
        if images:
            contact_sheet(images).save(folder / f"contact_{name}.png")
    print(f"contact sheets in {folder}")


if __name__ == "__main__":
    main()
