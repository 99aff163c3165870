"""A LoRA in the weights of a base model's files: a single file, or a folder of diffusers.

Where `fuse` changes modules, this changes the files that they are read from, so that nothing else
in them becomes another: names, types, and whatever the studio does not read.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from studio import weights
from studio.families import FAMILIES, UNET_PREFIX, TextEncoder
from studio.lora import flux2
from studio.lora.format import LoraError
from studio.lora.names import original_names, text_spellings
from studio.lora.network_names import network_spellings
from studio.lora.tools import Lora, publish, require_new

UNET_STEM, TEXT_STEM = "diffusion_pytorch_model", "model"
NETWORKS = {family.network for family in FAMILIES.values()}
# Of a text encoder's layer: its weight in OpenCLIP's own names, and which third of it.
OPEN_CLIP: dict[str, tuple[str, int | None]] = {
    "self_attn.q_proj": ("attn.in_proj_weight", 0),
    "self_attn.k_proj": ("attn.in_proj_weight", 1),
    "self_attn.v_proj": ("attn.in_proj_weight", 2),
    "self_attn.out_proj": ("attn.out_proj.weight", None),
    "mlp.fc1": ("mlp.c_fc.weight", None),
    "mlp.fc2": ("mlp.c_proj.weight", None),
}

Shapes = Mapping[str, tuple[int, ...]]  # of the weights of layers, by name


@dataclass(frozen=True)
class Place:
    """Where the weight of a layer lies.

    part: the folder of its file in a diffusers model. keys: names that it can have in the file.
    third: which third of its rows, where three layers lie in one; None: all of them. lora_third:
    the same of the rows of the LoRA's change.
    """

    part: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    third: int | None = None
    lora_third: int | None = None


@dataclass(frozen=True)
class Change:
    """What is added to a weight."""

    place: Place
    added: Tensor


def merge(
    lora: Lora,
    strength: float,
    model: Path,
    family: str,
    unet: Shapes,
    texts: Sequence[Shapes],
    out: Path,
) -> int:
    """A copy of a base model with the LoRA in its weights; gives how many layers were changed.

    model: a file in the original layout or a diffusers folder, and `out` is the same. family: a key
    of `FAMILIES`. unet, texts: the layers of the network and of each text encoder. The weights keep
    their type. Raises LoraError when the LoRA has a layer that the model has not.
    """
    require_new(out)
    known: dict[str, list[Place]] = {}
    for name, place in _places(family, unet, texts, model.is_dir()):
        known.setdefault(name, []).append(place)
    changes = []
    for name, part in lora.parts.items():
        places = known.get(name, [])
        if not places:
            raise LoraError(f"This model has no layer {name}: the LoRA is for another kind.")
        rows = sum(place.shape[0] for place in places)
        if (part.up.shape[0], math.prod(part.down.shape[1:])) != (rows, _columns(places[0].shape)):
            raise LoraError(f"The LoRA was made for another kind of model: {name} does not fit.")
        for place in places:
            changes.append(Change(place, strength * part.of(place.lora_third).change()))
    if model.is_dir():
        parts = dict.fromkeys(change.place.part for change in changes)
        files = {part: _file(model / part) for part in parts}

        def copy(draft: Path) -> None:
            shutil.copytree(model, draft)
            for part, file in files.items():
                target = draft / part / file.name
                target.unlink()
                _write_merged(file, target, [one for one in changes if one.place.part == part])

        publish(out, copy)
    else:
        publish(out, lambda draft: _write_merged(model, draft, changes))
    return len(lora.parts)


def _places(
    family: str, unet: Shapes, texts: Sequence[Shapes], is_folder: bool
) -> Iterator[tuple[str, Place]]:
    """Every layer by all names that LoRA files have for it."""
    part = FAMILIES[family].network
    for layer, shape in unet.items():
        keys, third = ((f"{layer}.weight",), None) if is_folder else _original_keys(layer)
        for spelling in network_spellings(layer):
            yield spelling.name, Place(part, keys, shape, third, spelling.third)
    if not texts:  # of a family whose LoRAs change the network alone
        return
    encoders = FAMILIES[family].text_encoders
    for number, (encoder, layers) in enumerate(zip(encoders, texts, strict=True), start=1):
        for layer, shape in layers.items():
            found = _text_place(encoder, layer.removeprefix("text_model."), shape, is_folder)
            spellings = text_spellings(layer, number, len(texts))
            yield from ((spelling, found) for spelling in spellings if found is not None)


def _original_keys(layer: str) -> tuple[tuple[str, ...], int | None]:
    """The names that a layer's weight can have in a single file, and which third of it."""
    if flux2.is_layer(layer):
        own = flux2.original(layer)
        if own is None:
            return (), None
        return tuple(f"{prefix}{own.name}.weight" for prefix in (UNET_PREFIX, "")), own.third
    return tuple(f"{UNET_PREFIX}{name}.weight" for name in original_names(layer)), None


def _text_place(
    encoder: TextEncoder, layer: str, shape: tuple[int, ...], is_folder: bool
) -> Place | None:
    if is_folder or not encoder.is_open_clip:  # some finetunes were saved without the level
        prefix = "" if is_folder else encoder.prefix
        keys = (f"{prefix}text_model.{layer}.weight", f"{prefix}{layer}.weight")
        return Place(encoder.part, keys, shape)
    start, _, number_and_rest = layer.partition("encoder.layers.")
    number, _, rest = number_and_rest.partition(".")
    if start or rest not in OPEN_CLIP:
        return None
    key, third = OPEN_CLIP[rest]
    keys = (f"{encoder.prefix}transformer.resblocks.{number}.{key}",)
    return Place(encoder.part, keys, shape, third)


def _columns(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _file(folder: Path) -> Path:
    """The one file of weights of a part of a diffusers model."""
    stem = UNET_STEM if folder.name in NETWORKS else TEXT_STEM
    _, variant = weights.component_header(folder, stem)
    path = folder / (f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors")
    if not path.is_file():
        raise LoraError(
            f"The {folder.name} of this folder lies in several files: merge into one file."
        )
    return path


def _write_merged(source: Path, target: Path, changes: Sequence[Change]) -> None:
    """All tensors of a file, with changes added to some of them; read back and compared."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    together: dict[str, Tensor] = {}
    for change in changes:
        key = next((key for key in change.place.keys if key in tensors), None)
        if key is None:
            missing = change.place.keys[0] if change.place.keys else "layer of this name"
            raise LoraError(f"{source.name} has no {missing}: it is named in another way.")
        whole = together.setdefault(key, tensors[key].float().clone())
        third = change.place.third
        rows = whole if third is None else whole.chunk(3)[third]
        rows += change.added.reshape(rows.shape)
    for key, whole in together.items():
        tensors[key] = whole.to(tensors[key].dtype)
        if not bool(tensors[key].isfinite().all()):
            raise LoraError(f"At this strength {key} is too large for the model's numbers.")
    safetensors.torch.save_file(tensors, target, metadata)
    with safe_open(target, "pt") as written:
        if not all(torch.equal(written.get_tensor(key), value) for key, value in tensors.items()):
            raise LoraError(f"{target.name} was not written: read back, it was not the same.")
