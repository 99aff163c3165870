"""Fusing of a LoRA into the weights of a model, text encoders included.

Afterwards the model is an ordinary one: sampling and training need not know of the LoRA.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from studio.families import FAMILIES
from studio.lora.format import LoraFile, LowRank, bundled_words
from studio.lora.names import TEXT, text_spellings
from studio.lora.network_names import network_spellings
from studio.weights import ModelError

Match = tuple[str, LowRank, nn.Parameter]  # a layer by diffusers' name, its change, its weight


@dataclass(frozen=True)
class Fused:
    """A LoRA in the weights of a model, and how well it fits."""

    name: str
    sha256: str
    strength: float
    rank: int
    unet_layers: int
    text_layers: int
    strays: tuple[str, ...]  # parts and keys that fit no layer of this model

    @property
    def identity(self) -> tuple[str, str, float]:
        """Name, checksum and strength."""
        return self.name, self.sha256, self.strength

    @property
    def words(self) -> str:
        """`128 layers of the image network and 72 of the text encoder, rank 16.` and the strays."""
        image, text = self.unet_layers, self.text_layers
        counts = []
        if image:
            one, many = "1 layer of the image network", f"{image} layers of the image network"
            counts.append(one if image == 1 else many)
        if text:
            one, many = "1 layer of the text encoder", f"{text} layers of the text encoder"
            counts.append(one if text == 1 else many)
        sentence = f"{' and '.join(counts)}, rank {self.rank}."
        if words := bundled_words(self.strays):
            named = ", ".join(f"“{word[:60]}”" for word in words[:5])
            sentence += (
                f" Its embeddings are not used: {named}. For their words, save each embedding as "
                "a file in the folder embeddings beside the model."
            )
        if self.strays:
            parts = self.unet_layers + self.text_layers + len(self.strays)
            sentence += (
                f" {len(self.strays)} of its {parts} parts fit nothing in this model and are left "
                f"out, such as {self.strays[0]}."
            )
        return sentence


def fuse(file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]) -> Fused:
    """Add the LoRA to the weights permanently. Raises ModelError; then the model is unusable.

    texts: the text encoders, one or two.
    """
    fused, matches = _match(file, strength, unet, texts)
    _add(file, matches, strength)
    return fused


def fitting(file: LoraFile, unet: nn.Module, texts: Sequence[nn.Module]) -> Fused:
    """How a LoRA fits a model. Raises ModelError if it is for another kind of model."""
    fused, _ = _match(file, 1.0, unet, texts)
    return fused


def by_layer(
    file: LoraFile, unet: nn.Module, texts: Sequence[nn.Module]
) -> list[tuple[str, LowRank]]:
    """The changes that `fuse` makes, in the shapes of the weights. The layers have diffusers'
    names, those of text encoders behind `TEXT`. Raises ModelError."""
    _, matches = _match(file, 1.0, unet, texts)
    found = []
    for layer, part, weight in matches:
        down = part.down.float().reshape(part.rank, *weight.shape[1:])
        up = part.up.float().reshape(weight.shape[0], part.rank, *(1 for _ in weight.shape[2:]))
        found.append((layer, LowRank(down, up, part.alpha)))
    return found


def hash_with(base_hash: str, lora_sha256: str, strength: float) -> str:
    """The hash of a model with a LoRA fused: it depends on the file and on the strength."""
    return hashlib.sha256(f"{base_hash} {lora_sha256} {strength!r}".encode()).hexdigest()


@contextmanager
def fused_for_now(
    loras: Sequence[tuple[LoraFile, float]], unet: nn.Module, texts: Sequence[nn.Module]
) -> Iterator[None]:
    """Inside, LoRAs are in the weights, each at its strength; afterwards the weights are restored
    to the bit. Raises ModelError if one does not fit, or is too strong."""
    matched = [_match(file, strength, unet, texts)[1] for file, strength in loras]
    weights = {id(weight): weight for matches in matched for _, _, weight in matches}
    before = {key: weight.detach().cpu().clone() for key, weight in weights.items()}
    try:
        for (file, strength), matches in zip(loras, matched, strict=True):
            _add(file, matches, strength)
        yield
    finally:
        for key, weight in weights.items():
            weight.data.copy_(before[key])


def _match(
    file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]
) -> tuple[Fused, list[Match]]:
    """Match every part of the file with the layer that it changes."""
    known: dict[str, list[tuple[str, nn.Parameter, int | None]]] = {}
    for layer, weight in layers(unet):
        for name, third in network_spellings(layer):
            known.setdefault(name, []).append((layer, weight, third))
    text_layers = {
        name: [(f"{TEXT[number - 1]}.text_model.{layer.removeprefix('text_model.')}", weight, None)]
        for number, encoder in enumerate(texts, start=1)
        for layer, weight in layers(encoder)
        for name in text_spellings(layer, number, len(texts))
    }
    known |= text_layers
    matches, strays = [], list(file.strays)
    network_changed = texts_changed = 0
    for name, part in file.parts.items():
        layer = name.replace(".processor.", ".")  # in old files of diffusers
        if layer not in known:
            strays.append(name)
            continue
        rows = sum(weight.shape[0] for _, weight, _ in known[layer])
        columns = {math.prod(weight.shape[1:]) for _, weight, _ in known[layer]}
        if part.up.shape[0] != rows or {math.prod(part.down.shape[1:])} != columns:
            raise ModelError(f"{_made_for(file)}: {name} has other dimensions.")
        matches += [(place, part.of(third), weight) for place, weight, third in known[layer]]
        texts_changed += layer in text_layers
        network_changed += layer not in text_layers
    if not matches:
        raise ModelError(f"{_made_for(file)}: nothing in it fits this one.")
    fused = Fused(
        name=file.path.stem,
        sha256=file.sha256,
        strength=strength,
        rank=file.rank,
        unet_layers=network_changed,
        text_layers=texts_changed,
        strays=tuple(strays),
    )
    return fused, matches


def _made_for(file: LoraFile) -> str:
    """`It was made for another kind of model`, with the family that it names."""
    named = file.metadata.get("ss_base_model_version")
    words = [one.words for one in FAMILIES.values() if one.lora.base_version == named]
    kind = f" ({words[0]})" if words else ""
    return f"{file.path.name} was made for another kind of model{kind}"


@torch.no_grad()
def _add(file: LoraFile, matches: list[Match], strength: float) -> None:
    """Raises ModelError if a sum overflows the weights' type; some weights are changed then."""
    for _, part, weight in matches:
        change = part.change(weight.device).reshape(weight.shape)
        total = (weight.float() + strength * change).to(weight.dtype)
        if not bool(total.isfinite().all()):
            raise ModelError(
                f"At strength {strength:g} {file.path.name} is too strong for the numbers of this "
                "model: choose a smaller strength."
            )
        weight.data.copy_(total)


def layers(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, weight) of every layer that a LoRA can change, with or without an adapter attached."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in name:
            yield name.removesuffix(".base_layer"), layer.weight
