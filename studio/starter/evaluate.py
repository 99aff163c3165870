"""How well the starter model does what it is told: figures, contact sheet, model card.

Trains the recogniser on the rendered drawings unless `assets/recogniser` is there, then asks for
every concept with a named style and ground, and without, and reports how often each came out right.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from studio import models, sampling
from studio.settings import RECOGNISER_PATH, SamplingSettings
from studio.starter import recogniser
from studio.starter.data import (
    BUILD_PATH,
    DRAWING_PX,
    GROUNDS,
    SIZE_PX,
    STYLES,
    Drawings,
    caption,
    compose,
    listed_concepts,
    load,
)

BATCH = 26
SHEET_COLUMNS = 12


def training_batch(
    drawings: Drawings, size: int, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Composed drawings, a little noisy and sometimes blurred, and their (B, 3) labels."""
    shape = torch.tensor([len(drawings.concepts), len(drawings.styles), len(GROUNDS)])
    labels = (torch.rand(size, 3, generator=draw) * shape).long()
    grounds = torch.tensor(list(GROUNDS.values()))[labels[:, 2]].float()
    grounds = grounds + 12 * torch.randn(size, 3, generator=draw)
    shift_px = torch.randint(SIZE_PX - DRAWING_PX + 1, (size, 2), generator=draw)
    images = compose(drawings.rgba[labels[:, 0], labels[:, 1]], grounds.clamp(0, 255), shift_px)
    blurred = F.avg_pool2d(images, 3, 1, 1)
    share = torch.rand(size, 1, 1, 1, generator=draw)
    images = images + share * (blurred - images)
    level = 0.15 * torch.rand(size, 1, 1, 1, generator=draw)
    return images + level * torch.randn(images.shape, generator=draw), labels


def train_recogniser(folder: Path, updates: int, seed: int) -> recogniser.Recogniser:
    drawings = load(folder / "drawings.safetensors", only=listed_concepts())
    torch.manual_seed(seed)
    network = recogniser.Network(len(drawings.concepts), len(STYLES), len(GROUNDS))
    network = network.to(memory_format=torch.channels_last)
    schedule = {"max_lr": 3e-3, "total_steps": updates}
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, **schedule)
    draw = torch.Generator().manual_seed(seed)
    for update in range(updates):
        images, labels = training_batch(drawings, 64, draw)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(images.to(memory_format=torch.channels_last))
        loss = sum(
            F.cross_entropy(output.float(), labels[:, column], label_smoothing=0.05)
            for column, output in enumerate(outputs)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if (update + 1) % 100 == 0:
            right = (outputs[0].argmax(1) == labels[:, 0]).float().mean()
            print(
                f"recogniser {update + 1}/{updates}  loss {loss:.3f}  objects {right:.0%}",
                flush=True,
            )
    made = recogniser.Recogniser(network.eval(), drawings.concepts, tuple(STYLES), tuple(GROUNDS))
    recogniser.save(made)
    return recogniser.load()


def check_on_drawings(judge: recogniser.Recogniser, folder: Path) -> dict[str, float]:
    """The recogniser on drawings placed and coloured anew: what it could score at best."""
    drawings = load(folder / "drawings.safetensors", only=list(judge.objects))
    images, labels = training_batch(drawings, 1000, torch.Generator().manual_seed(99))
    with torch.no_grad():
        outputs = judge.network(images)
    right = [(out.argmax(1) == labels[:, i]).float().mean().item() for i, out in enumerate(outputs)]
    return dict(zip(("object", "style", "ground"), right, strict=True))


def draw_images(
    denoiser: models.Denoiser, prompts: list[str], seeds: list[int], settings: SamplingSettings
) -> list[Image.Image]:
    images = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        chains = sampling.sample(denoiser, prompts[part], seeds[part], settings)
        images += sampling.images(denoiser, chains)
    return images


def measure(
    denoiser: models.Denoiser, judge: recogniser.Recogniser, settings: SamplingSettings
) -> tuple[dict[str, float], list[Image.Image], list[Image.Image]]:
    """Figures, the images of prompts that name everything, and of those that name the object."""
    objects = list(judge.objects)
    styles = [judge.styles[i % len(judge.styles)] for i in range(len(objects))]
    # a ground in turn for every run through the styles, so that each style meets each ground
    grounds = [
        judge.grounds[i // len(judge.styles) % len(judge.grounds)] for i in range(len(objects))
    ]
    prompts = [caption(*words) for words in zip(objects, styles, grounds, strict=True)]
    named = draw_images(denoiser, prompts, list(range(len(objects))), settings)
    plain = draw_images(denoiser, objects, [1000 + i for i in range(len(objects))], settings)

    _, style_logits, ground_logits = judge.logits(named)
    wanted_style = torch.tensor([judge.styles.index(style) for style in styles])
    wanted_ground = torch.tensor([judge.grounds.index(ground) for ground in grounds])
    named_ranks, plain_ranks = (
        judge.object_ranks(named, objects),
        judge.object_ranks(plain, objects),
    )
    _, plain_styles, plain_grounds = judge.logits(plain)
    figures = {
        "style_named": (style_logits.argmax(1) == wanted_style).float().mean().item(),
        "ground_named": (ground_logits.argmax(1) == wanted_ground).float().mean().item(),
        "object_top1": (named_ranks < 1).float().mean().item(),
        "object_top5": (named_ranks < 5).float().mean().item(),
        "object_top1_plain": (plain_ranks < 1).float().mean().item(),
        "object_top5_plain": (plain_ranks < 5).float().mean().item(),
    }
    for word, logits, names in (
        ("style", plain_styles, judge.styles),
        ("ground", plain_grounds, judge.grounds),
    ):
        shares = torch.bincount(logits.argmax(1), minlength=len(names)) / len(objects)
        figures |= {f"share_{word}_{n}": s.item() for n, s in zip(names, shares, strict=True)}
    return figures, named, plain


def contact_sheet(images: list[Image.Image], columns: int = SHEET_COLUMNS) -> Image.Image:
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    parser.add_argument("--model", default="starter", help="'starter' or a diffusers folder")
    parser.add_argument("--recogniser-updates", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if not (RECOGNISER_PATH / "recogniser.safetensors").exists():
        train_recogniser(args.folder, args.recogniser_updates, seed=0)
    judge = recogniser.load()
    if (args.folder / "drawings.safetensors").exists():
        best = check_on_drawings(judge, args.folder)
        print("recogniser on drawings: " + ", ".join(f"{k} {v:.1%}" for k, v in best.items()))
    denoiser = models.load(args.model, "cpu")
    settings = SamplingSettings(
        steps=args.steps, guidance=args.guidance, width_px=SIZE_PX, height_px=SIZE_PX
    )
    started_s = time.monotonic()
    figures, named, plain = measure(denoiser, judge, settings)
    figures["seconds_per_pair"] = 2 * (time.monotonic() - started_s) / (len(named) + len(plain))
    for name, value in figures.items():
        print(f"{name:24} {value:.3f}")
    args.folder.mkdir(parents=True, exist_ok=True)
    contact_sheet(named).save(args.folder / "contact_named.png")
    contact_sheet(plain).save(args.folder / "contact_plain.png")
    print(f"contact sheets in {args.folder}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
