"""Trains the classifier of the crisp starter's drawings, on rendered pictures alone."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from studio.engine import recogniser
from studio.starter.crisp_data import (
    ALL_GROUNDS,
    DRAWING_PX,
    SIZE_PX,
    SOURCES,
    Pictures,
    Placement,
    pasted,
)
from studio.starter.train import generator, read_checkpoint, save_checkpoint

BATCH = 64
PEAK = 3e-3
LEAST_PX = 128  # of a drawing's side


def labelled_pictures(
    pictures: Pictures, size: int, draw: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawings of any size at any place, (size, 3, INPUT_PX, INPUT_PX), and their (size, 3) labels.

    Places are freer than the starter's own, so that a drawing is known wherever a model puts it.
    """
    labels = np.stack([draw.integers(0, count, size) for count in pictures.sizes[:3]], 1)
    images = []
    for concept, style, ground in labels:
        side = int(draw.integers(LEAST_PX, DRAWING_PX + 1))
        left, top = (int(draw.integers(0, SIZE_PX - side + 1)) for _ in range(2))
        place = Placement(side, left, top, bool(draw.integers(2)), 1.0)
        image = torch.from_numpy(pictures.grounds[ground].copy())
        rgba = torch.from_numpy(pictures.rgba[concept, style].astype(np.float32))
        images.append(pasted(image, rgba, place))
    small = F.adaptive_avg_pool2d(torch.stack(images) / 127.5 - 1, recogniser.INPUT_PX)
    return small, torch.from_numpy(labels)


def spoiled(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """A little blurred, noisy and shifted in colour, as what a model draws."""
    shape = (len(images), 1, 1, 1)
    images = images + torch.rand(shape, generator=draw) * (F.avg_pool2d(images, 3, 1, 1) - images)
    tint = 0.06 * torch.randn((len(images), 3, 1, 1), generator=draw)
    level = 0.15 * torch.rand(shape, generator=draw)
    return images + tint + level * torch.randn(images.shape, generator=draw)


def train_recogniser(
    pictures: Pictures,
    folder: Path,
    updates: int,
    seed: int,
    bfloat16: bool,
    deadline_s: float = math.inf,
) -> None:
    """Written to `folder`/recogniser when it is done."""
    torch.manual_seed(seed)
    words = (pictures.concepts, tuple(SOURCES), ALL_GROUNDS)
    network = recogniser.Network(*map(len, words))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    checkpoint, first = folder / "recogniser.pt", 0
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["update"]
    right, started_s = [], time.monotonic()
    for update in range(first, updates):
        draw = generator(seed + 3, update)
        images, labels = labelled_pictures(
            pictures, BATCH, np.random.default_rng(draw.initial_seed())
        )
        for group in optimiser.param_groups:
            group["lr"] = PEAK * min((update + 1) / 100, 1 - update / updates)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = network(spoiled(images, draw))
        loss = sum(
            F.cross_entropy(output.float(), labels[:, column], label_smoothing=0.05)
            for column, output in enumerate(outputs)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        right.append(
            [(out.argmax(1) == labels[:, i]).float().mean() for i, out in enumerate(outputs)]
        )
        done = update + 1
        stops = done == updates or time.monotonic() > deadline_s
        if stops or done % 100 == 0:
            shares = " ".join(f"{share:.3f}" for share in torch.tensor(right).mean(0))
            speed = (done - first) * BATCH / (time.monotonic() - started_s)
            print(f"{done}/{updates}  right {shares}  {speed:.0f} pictures/s", flush=True)
            right.clear()
            parts = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(checkpoint, parts | {"update": done})
        if stops:
            break
    if done == updates:
        recogniser.save(recogniser.Recogniser(network.eval(), *words), folder / "recogniser")
