"""LoRA files by whomever, as what they add to the weights of a model.

    weight + strength × alpha / rank × up @ down

is put into the weights themselves (UNet and text encoders), so that what is done with the model
afterwards need not know of it. The names of all common trainers are read: those of kohya's
sd-scripts with diffusers' or the original names of the blocks, those of diffusers, old and new, and
those of peft. What is no plain LoRA (LoHa, LoKr, DoRA and others) is refused by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.models import files
from studio.models.errors import ModelError

PEFT_FILE = "adapter_model.safetensors"  # its alpha lies in another file beside it
PEFT_CONFIG_FILE = "adapter_config.json"
DIFFUSERS_HEADER = "lora_adapter_metadata"

# What keys of other kinds of files hold, by which they are told apart.
OTHER_KINDS = (
    ("a DoRA", r"\.(dora_scale|lora_magnitude_vector|magnitude_vector)\b"),
    ("a LoHa", r"\.hada_"),
    ("a LoKr", r"\.lokr_"),
    ("a LoCon with a middle part (Tucker)", r"\.lora_mid\."),
    ("an OFT", r"\.oft_(blocks|diag|R)\b"),
    ("a GLoRA", r"\.[ab][12]\.weight$"),
    ("an IA3", r"\.(on_input$|ia3_l)"),
    ("a VeRA", r"\bvera_(lambda|[AB]\b)"),
    ("a difference of whole weights", r"\.(diff|diff_b|w_norm|b_norm)$"),
    ("a LoRA with biases", r"(lora_B|lora_up|lora\.up)\.bias$"),
)

_KEY = re.compile(
    r"(?P<name>.+?)"
    r"(?:\.lora_(?P<half>down|up|A|B)(?:\.default)?\.weight"
    r"|(?:_lora|\.lora|\.lora_linear_layer)\.(?P<old_half>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
_DOWN = ("down", "A")
_NAME = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Part:
    """What a LoRA adds to one layer: `scale × up @ down`."""

    down: Tensor  # (rank, in) or (rank, in, kh, kw)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    scale: float  # alpha / rank

    def change(self, weight: Tensor) -> Tensor:
        """In float32, on the device and in the shape of the layer's weight."""
        down, up = (
            half.to(weight.device, torch.float32).flatten(1) for half in (self.down, self.up)
        )
        return (self.scale * (up @ down)).reshape(weight.shape)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: what it adds, by the names of the layers in it.

    strays: keys that are no part of a LoRA. sha256: of all that decides what it does. metadata:
    what it says of itself.
    """

    path: Path
    sha256: str
    parts: Mapping[str, Part]
    strays: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(part.down.shape[0] for part in self.parts.values())


@dataclass(frozen=True)
class Fused:
    """A LoRA that was put into the weights of a model, and how it fitted."""

    name: str
    sha256: str
    strength: float
    rank: int
    unet_layers: int
    text_layers: int
    strays: tuple[str, ...]  # what it holds that has no place in this model

    @property
    def said(self) -> tuple[str, str, float]:
        """Which file it was, and at what strength."""
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
        if self.strays:
            parts = self.unet_layers + self.text_layers + len(self.strays)
            said += (
                f" {len(self.strays)} of its {parts} parts fit nothing in this model and are left "
                f"out, such as {self.strays[0]}."
            )
        return said


# --- the file ------------------------------------------------------------------------------------


def read(path: Path) -> LoraFile:
    """Raises ModelError with a sentence for what is no plain LoRA."""
    if path.suffix.lower() != files.SUFFIX:
        raise ModelError(
            f"{path.name} is not a .safetensors file. Other files can hide programs and are not "
            "opened; choose the LoRA as .safetensors."
        )
    header = files.read_header(path)
    for kind, mark in OTHER_KINDS:
        if any(re.search(mark, key) for key in header.tensors):
            raise ModelError(f"{path.name} is {kind}, which cannot be used here: only plain LoRAs.")
    if not any((found := _KEY.fullmatch(key)) and not found["alpha"] for key in header.tensors):
        raise ModelError(f"{path.name} is not a LoRA.")
    try:
        tensors = load_file(path)
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    said = _configuration(path, header.metadata)
    if said:
        digest.update(json.dumps(said, sort_keys=True).encode())
    halves: dict[str, dict[str, Tensor]] = {}
    strays = []
    for key, value in tensors.items():
        found = _KEY.fullmatch(key)
        if found is None:
            strays.append(key)
            continue
        half = found["half"] or found["old_half"]
        which = "alpha" if half is None else "down" if half in _DOWN else "up"
        halves.setdefault(found["name"], {})[which] = value
    parts = {}
    for name, has in sorted(halves.items()):
        if has.keys() == {"alpha"}:
            strays.append(f"{name}.alpha")
        else:
            parts[name] = _part(path, name, has, said)
    return LoraFile(path, digest.hexdigest(), parts, tuple(sorted(strays)), header.metadata)


def _part(path: Path, name: str, has: Mapping[str, Tensor], said: Mapping[str, Any]) -> Part:
    down, up, alpha = (has.get(which) for which in ("down", "up", "alpha"))
    if down is None or up is None:
        raise ModelError(f"{path.name} is damaged: {name} has only one half.")
    if min(down.ndim, up.ndim) < 2 or up.shape[1] != down.shape[0] or not down.numel():
        raise ModelError(f"{path.name} is damaged: the halves of {name} do not fit together.")
    if up[0, 0].numel() != 1:  # only a middle part could make use of it
        raise ModelError(f"{path.name} is not a plain LoRA: see {name}.")
    rank = down.shape[0]
    if alpha is None:
        scale = _said_scale(said, name, rank)
    elif alpha.numel() == 1:
        scale = alpha.item() / rank
    else:
        scale = math.nan
    halves = (down.float(), up.float())
    if not math.isfinite(scale) or not all(bool(half.isfinite().all()) for half in halves):
        raise ModelError(f"{path.name} holds values that are not numbers, in {name}.")
    return Part(down, up, scale)


def _configuration(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What diffusers' header says of the LoRA, or peft's file beside it."""
    try:
        if DIFFUSERS_HEADER in metadata:
            said = json.loads(metadata[DIFFUSERS_HEADER])
        elif path.name == PEFT_FILE:
            said = files.read_json(path.with_name(PEFT_CONFIG_FILE))
        else:
            return {}
        if not isinstance(said, dict):
            raise ValueError("no object")
        for key, value in said.items():
            # Each is to be searched for as an expression: only a name takes no time.
            if key.endswith("alpha_pattern") and not all(map(_NAME.fullmatch, value or {})):
                raise ValueError("no name")
    except FileNotFoundError as error:
        raise ModelError(
            f"{PEFT_CONFIG_FILE}, which says how strong it is, is missing beside {path.name}."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"The header of {path.name} is damaged: download it again.") from error
    if any(value for key, value in said.items() if key.rpartition(".")[2] == "use_dora"):
        raise ModelError(f"{path.name} is a DoRA, which cannot be used here: only plain LoRAs.")
    return said


def _said_scale(said: Mapping[str, Any], name: str, rank: int) -> float:
    """By peft's rules. A file that says nothing of an alpha has that of its rank, which is 1."""
    component, _, layer = name.partition(".")
    own = {
        key.removeprefix(f"{component}."): value
        for key, value in said.items()
        if key.startswith(f"{component}.") or "." not in key
    }
    try:
        patterns = own.get("alpha_pattern") or {}
        default = own.get("lora_alpha", rank)
        alpha = float(patterns.get(get_pattern_key(patterns.keys(), layer), default))
    except (TypeError, ValueError, AttributeError, re.error):
        return math.nan
    return alpha / math.sqrt(rank) if own.get("use_rslora") else alpha / rank


def diffusers_name(name: str) -> str | None:
    """A layer's name in a file, of whatever age, as diffusers has it today: its part of the model
    and a dot before it. None for names of other tools."""
    name = name.replace(".processor.", ".").replace("base_model.model.", "", 1)
    if name.startswith(("text_encoder.", "text_encoder_2.")):
        return re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", name)
    bare = name.removeprefix("unet.")
    if not bare.startswith(("down_blocks.", "mid_block.", "up_blocks.", "conv_", "time_", "add_")):
        return None
    return f"unet.{re.sub('to_out$', 'to_out.0', bare)}"


# --- its place in a model ------------------------------------------------------------------------


def fuse(file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]) -> Fused:
    """Add the LoRA to the weights, for good. Raises ModelError; the model is of no use then.

    texts: the text encoders, one or two.
    """
    fused, places = _placed(file, strength, unet, texts)
    _add(file, places, strength)
    return fused


def fitting(file: LoraFile, unet: nn.Module, texts: Sequence[nn.Module]) -> Fused:
    """How it would fit. Raises ModelError for what is no LoRA for this model."""
    fused, _ = _placed(file, 1.0, unet, texts)
    return fused


def hash_with(base_hash: str, lora_sha256: str, strength: float) -> str:
    """The hash of a model with a LoRA in it: another file or strength, another model."""
    return hashlib.sha256(f"{base_hash} {lora_sha256} {strength!r}".encode()).hexdigest()


@contextmanager
def fused_for_now(
    file: LoraFile, strength: float, unet: nn.Module, texts: Sequence[nn.Module]
) -> Iterator[None]:
    """Inside, the LoRA is in the weights; afterwards they are what they were, to the last bit."""
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
) -> tuple[Fused, list[tuple[Part, nn.Parameter]]]:
    """Every part of the file with the weight that it changes."""
    unet_layers, text_layers = dict(_unet_names(unet)), dict(_text_names(texts))
    layers = unet_layers | text_layers
    places, strays, texts_changed = [], list(file.strays), 0
    for name, part in file.parts.items():
        layer = name.replace(".processor.", ".")  # as old files of diffusers have it
        weight = layers.get(layer)
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
def _add(file: LoraFile, places: list[tuple[Part, nn.Parameter]], strength: float) -> None:
    """Raises ModelError where a sum is no number of the weights' type; some are changed then."""
    for part, weight in places:
        together = (weight.float() + strength * part.change(weight)).to(weight.dtype)
        if not bool(together.isfinite().all()):
            raise ModelError(
                f"At strength {strength:g} {file.path.name} is too strong for the numbers of this "
                "model: choose a smaller one."
            )
        weight.data.copy_(together)


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that a LoRA could change, whatever adapter is attached to them."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in name:
            yield name.removesuffix(".base_layer"), layer.weight


def _unet_names(unet: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every layer of the UNet by all names that files have for it."""
    for name, weight in _layers(unet):
        underlined = name.replace(".", "_")
        yield f"lora_unet_{underlined}", weight
        spellings = {name, name.replace("to_out.0", "to_out")}  # as old files of diffusers have it
        for spelling in spellings:
            for prefix in ("", "unet.", "base_model.model.", "unet.base_model.model."):
                yield f"{prefix}{spelling}", weight
        for original in original_names(name):
            yield f"lora_unet_{original.replace('.', '_')}", weight
            yield f"diffusion_model.{original}", weight


def _text_names(texts: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Every layer of the text encoders by all names that files have for it."""
    for number, encoder in enumerate(texts, start=1):
        tags = [f"lora_te{number}_", *(["lora_te_"] if len(texts) == 1 else [])]
        path = "text_encoder." if number == 1 else f"text_encoder_{number}."
        for name, weight in _layers(encoder):
            # Versions of transformers differ in whether there is such a level.
            bare = name.removeprefix("text_model.")
            for tag in tags:
                yield f"{tag}text_model_{bare.replace('.', '_')}", weight
                yield f"{tag}{bare.replace('.', '_')}", weight
            # Old files of diffusers called these layers as those of the UNet.
            old = re.sub(r"self_attn\.([qkv]|out)_proj", r"self_attn.to_\1", bare)
            for spelling in {bare, old}:
                yield f"{path}text_model.{spelling}", weight
                yield f"{path}{spelling}", weight


RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}


def original_names(name: str) -> list[str]:
    """A layer of diffusers' UNet as the original layout calls it; of an upsampler, which comes
    after an attention or after none, both that it can be."""
    if name in TOP:
        return [TOP[name]]
    found = re.fullmatch(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", name)
    if found is None:
        return []
    part, block, kind, index, rest = found.groups()
    block, index = int(block or 0), int(index)
    if kind == "resnets":
        rest = RESNET[rest]
    match part, kind:
        case "mid", "resnets":
            return [f"middle_block.{2 * index}.{rest}"]
        case "mid", _:
            return [f"middle_block.1.{rest}"]
        case "down", "downsamplers":
            return [f"input_blocks.{3 * block + 3}.0.op"]
        case "up", "upsamplers":
            return [f"output_blocks.{3 * block + 2}.{place}.conv" for place in (1, 2)]
        case "down", _:
            return [f"input_blocks.{3 * block + index + 1}.{int(kind == 'attentions')}.{rest}"]
        case _:
            return [f"output_blocks.{3 * block + index}.{int(kind == 'attentions')}.{rest}"]
