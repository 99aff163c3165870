"""A small classifier of the starter model's drawings: object, style and ground.

It is trained on rendered drawings only, never on the model's output, so that it can judge that.
Its weights are in `assets/recogniser`. `studio.starter.evaluate` and the benchmarks use it: a
taste gained is worth nothing if the objects are lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.settings import RECOGNISER_PATH

INPUT_PX = 64


class _Block(nn.Module):
    """Residual block that halves the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(inner)) + self.shortcut(x)).relu()


class Network(nn.Module):
    """(B, 3, 64, 64) in -1..1 to logits of object, style and ground."""

    def __init__(self, objects: int, styles: int, grounds: int) -> None:
        super().__init__()
        self.sizes = (objects, styles, grounds)
        self.body = nn.Sequential(_Block(3, 32), _Block(32, 64), _Block(64, 128), _Block(128, 256))
        self.head = nn.Linear(256, sum(self.sizes))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.body(x).mean((2, 3))).split(self.sizes, dim=1)


def _pixels(images: list[Image.Image]) -> Tensor:
    """(B, 3, INPUT_PX, INPUT_PX) in -1..1."""
    arrays = [
        np.asarray(image.convert("RGB").resize((INPUT_PX, INPUT_PX), Image.Resampling.BOX))
        for image in images
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Recogniser:
    network: Network
    objects: tuple[str, ...]
    styles: tuple[str, ...]
    grounds: tuple[str, ...]

    def object_in(self, prompt: str) -> str | None:
        """The longest name of a known object in a prompt; None if there is none."""
        words = f" {' '.join(prompt.lower().replace(',', ' ').split())} "
        names = [name for name in self.objects if f" {name} " in words]
        return max(names, key=len, default=None)

    @torch.no_grad()
    def logits(self, images: list[Image.Image]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of object (B, objects), style (B, styles) and ground (B, grounds)."""
        return self.network(_pixels(images))

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """What the logits are read from, (B, 256)."""
        return self.network.body(_pixels(images)).mean((2, 3))

    def object_ranks(self, images: list[Image.Image], objects: list[str]) -> Tensor:
        """(B,) rank of the right object among all, 0 for the likeliest."""
        logits = self.logits(images)[0]
        right = torch.tensor([self.objects.index(name) for name in objects])
        return (logits > logits.gather(1, right[:, None])).sum(1)


def save(recogniser: Recogniser, folder: Path = RECOGNISER_PATH) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = recogniser.network.state_dict()
    tensors = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    words = {
        name: json.dumps(getattr(recogniser, name)) for name in ("objects", "styles", "grounds")
    }
    save_file(tensors, folder / "recogniser.safetensors", metadata=words)


def load(folder: Path = RECOGNISER_PATH) -> Recogniser:
    with safe_open(folder / "recogniser.safetensors", "pt") as file:
        words = {name: tuple(json.loads(value)) for name, value in file.metadata().items()}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    network = Network(*(len(words[name]) for name in ("objects", "styles", "grounds")))
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    )
    return Recogniser(network.eval(), words["objects"], words["styles"], words["grounds"])
