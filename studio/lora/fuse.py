"""A LoRA in the weights of a model, text encoders included.

The model is an ordinary one afterwards: sampling and training need not know of the LoRA.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from studio.lora.format import LoraFile, LowRank, bundled
from studio.lora.names import text_spellings, unet_spellings
from studio.weights import ModelError


@dataclass(frozen=True)
class Fused:
    """A LoRA in the weights of a model, and how it fitted."""

    name: str
    sha256: str
    strength: float
    rank: int
    unet_layers: int
    text_layers: int
    strays: tuple[str, ...]  # parts and keys without a place in this model

    @property
    def said(self) -> tuple[str, str, float]:
        """Name, checksum and strength."""
        return self.name, self.sha256, self.strength

    @property
    def words(self) -> str:
        """`128 layers of the image network and 72 of the text encoder, rank 16.` and the strays."""
        found = []
        for count, where in (
            (self.unet_layers, "the image network"),
            (self.text_layers, "the text encoder"),
        ):
            if count:
                found.append(f"{count} {'layer' if count == 1 else 'layers'} of {where}")
        said = f"{' and '.join(found)}, rank {self.rank}."
        if words := bundled(self.strays):
            named = ", ".join(f"“{word[:60]}”" for word in words[:5])
            said += (
                f" It brings words of its own, which mean nothing here: {named}. For them, save "
                "the embedding as a file of its own, in the folder embeddings beside the model."
            )
        if self.strays:
            parts = self.unet_layers + self.text_layers + len(self.strays)
            said += (
                f" {len(self.strays)} of its {parts} parts fit nothing in this model and are left "
                f"out, such as {self.strays[0]}."
            )
        return said


def fuse(file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]) -> Fused:
    """Add the LoRA to the weights, for good. Raises ModelError; the model is of no use then.

    texts: the text encoders, one or two.
    """
    fused, places = _placed(file, strength, unet, texts)
    _add(file, places, strength)
    return fused


def fitting(file: LoraFile, unet: nn.Module, texts: Sequence[nn.Module]) -> Fused:
    """How it would fit. Raises ModelError if it is a LoRA for another kind of model."""
    fused, _ = _placed(file, 1.0, unet, texts)
    return fused


def hash_with(base_hash: str, lora_sha256: str, strength: float) -> str:
    """The hash of a model with a LoRA in it: another file or strength, another model."""
    return hashlib.sha256(f"{base_hash} {lora_sha256} {strength!r}".encode()).hexdigest()


@contextmanager
def fused_for_now(
    file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]
) -> Iterator[None]:
    """Inside, the LoRA is in the weights; afterwards they are as before, to the last bit."""
    _, places = _placed(file, strength, unet, texts)
    weights = {id(weight): weight for _, weight in places}
    before = {key: weight.detach().cpu().clone() for key, weight in weights.items()}
    try:
        _add(file, places, strength)
        yield
    finally:
        for key, weight in weights.items():
            weight.data.copy_(before[key])


def _placed(
    file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]
) -> tuple[Fused, list[tuple[LowRank, nn.Parameter]]]:
    """Every part of the file with the weight that it changes."""
    unet_layers = {name: weight for layer, weight in layers(unet) for name in unet_spellings(layer)}
    text_layers = {
        name: weight
        for number, encoder in enumerate(texts, start=1)
        for layer, weight in layers(encoder)
        for name in text_spellings(layer, number, len(texts))
    }
    known = unet_layers | text_layers
    places, strays, texts_changed = [], list(file.strays), 0
    for name, part in file.parts.items():
        layer = name.replace(".processor.", ".")  # as old files of diffusers have it
        weight = known.get(layer)
        if weight is None:
            strays.append(name)
            continue
        if (part.up.shape[0], math.prod(part.down.shape[1:])) != weight.flatten(1).shape:
            raise ModelError(
                f"{file.path.name} was made for another kind of model: {name} has other dimensions."
            )
        places.append((part, weight))
        texts_changed += layer in text_layers
    if not places:
        raise ModelError(
            f"{file.path.name} was made for another kind of model: nothing in it fits this one."
        )
    fused = Fused(
        name=file.path.stem,
        sha256=file.sha256,
        strength=strength,
        rank=file.rank,
        unet_layers=len(places) - texts_changed,
        text_layers=texts_changed,
        strays=tuple(strays),
    )
    return fused, places


@torch.no_grad()
def _add(file: LoraFile, places: list[tuple[LowRank, nn.Parameter]], strength: float) -> None:
    """Raises ModelError where a sum is not finite in the weights' type; some are changed then."""
    for part, weight in places:
        change = part.change(weight.device).reshape(weight.shape)
        together = (weight.float() + strength * change).to(weight.dtype)
        if not bool(together.isfinite().all()):
            raise ModelError(
                f"At strength {strength:g} {file.path.name} is too strong for the numbers of this "
                "model: choose a smaller one."
            )
        weight.data.copy_(together)


def layers(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, weight) of every layer that a LoRA could change, whatever adapter is attached."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in name:
            yield name.removesuffix(".base_layer"), layer.weight
