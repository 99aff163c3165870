"""LoRA files: low-rank changes by the names of the layers, and one reader for all of them.

    weight + strength × alpha / rank × up @ down

The names of all common trainers are read: those of kohya's sd-scripts with diffusers' or the
original names of the blocks, those of diffusers, old and new, and those of peft. Other kinds (LoHa,
LoKr, DoRA and more) are refused by their names. Two forms are written. *kohya* is the one that
every tool reads; *diffusers* is for diffusers alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from studio import weights
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from studio.weights import ModelError

Format = Literal["kohya", "diffusers"]
FORMATS: tuple[Format, ...] = ("kohya", "diffusers")
HALVES: dict[Format, tuple[str, str]] = {
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "diffusers": ("lora_A.weight", "lora_B.weight"),
}

Precision = Literal["float32", "float16", "bfloat16"]
# How far rounding may move the change of a layer, relative to it.
ROUNDING: dict[Precision, float] = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}

DIFFUSERS_HEADER = "lora_adapter_metadata"  # the metadata in which diffusers keeps rank and alpha

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

_OTHER_KINDS = re.compile("|".join(mark for _, mark in OTHER_KINDS))

_KEY = re.compile(
    r"(?P<name>.+?)"
    r"(?:\.lora_(?P<half>down|up|A|B)(?:\.default)?\.weight"
    r"|(?:_lora|\.lora|\.lora_linear_layer)\.(?P<old_half>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
_DOWN = ("down", "A")
_NAME = re.compile(r"[\w.]+")
_DEEPEST = 32  # parts of a layer's name that a pattern can have
_BUNDLED = re.compile(r"bundle_emb\.(.+?)\..+")


class LoraError(Exception):
    """Something that cannot be done with a LoRA; the message is a sentence for the artist."""


@dataclass(frozen=True)
class LowRank:
    """The change of one layer: `alpha / rank × up @ down`."""

    down: Tensor  # (rank, in) or (rank, in, kh, kw)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def change(self, device: torch.device | str = "cpu") -> Tensor:
        """(out, in × kh × kw) in float32."""
        down, up = (half.to(device, torch.float32).flatten(1) for half in (self.down, self.up))
        return self.scale * (up @ down)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it can change a weight of this shape."""
        return (self.up.shape[0], *self.down.shape[1:]) == tuple(shape)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: its parts by the names of the layers in it.

    sha256: of the file and, where it counts, of the configuration beside it. strays: keys that are
    not part of a LoRA. metadata: the text in its header.
    """

    path: Path
    sha256: str
    parts: Mapping[str, LowRank]
    strays: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(part.rank for part in self.parts.values())


def read(path: Path) -> LoraFile:
    """A LoRA file by anybody. Raises ModelError, with a sentence, unless it is a plain LoRA."""
    if path.suffix.lower() != weights.SUFFIX:
        raise ModelError(
            f"{path.name} is not a .safetensors file. Other files can hide programs and are not "
            "opened; choose the LoRA as .safetensors."
        )
    header = weights.read_header(path)
    for kind, mark in OTHER_KINDS if any(map(_OTHER_KINDS.search, header.tensors)) else ():
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
    alphas = _Alphas(said)
    parts: dict[str, LowRank] = {}
    for name, has in sorted(halves.items()):
        if has.keys() == {"alpha"}:
            strays.append(f"{name}.alpha")
        else:
            parts[name] = _part(path, name, has, alphas)
    return LoraFile(path, digest.hexdigest(), parts, tuple(sorted(strays)), header.metadata)


def _part(path: Path, name: str, has: Mapping[str, Tensor], alphas: _Alphas) -> LowRank:
    down, up, alpha = (has.get(which) for which in ("down", "up", "alpha"))
    if down is None or up is None:
        raise ModelError(f"{path.name} is damaged: {name} has only one half.")
    if min(down.ndim, up.ndim) < 2 or up.shape[1] != down.shape[0] or not down.numel():
        raise ModelError(f"{path.name} is damaged: the halves of {name} do not fit together.")
    if up[0, 0].numel() != 1:  # only a middle part could make use of it
        raise ModelError(f"{path.name} is not a plain LoRA: see {name}.")
    rank = down.shape[0]
    if alpha is None:
        strength = alphas.of(name, rank)
    elif alpha.numel() == 1:
        strength = float(alpha.item())
    else:
        strength = math.nan
    halves = (down.float(), up.float())
    if not math.isfinite(strength) or not all(bool(half.isfinite().all()) for half in halves):
        raise ModelError(f"{path.name} holds values that are not numbers, in {name}.")
    return LowRank(down, up, strength)


def _configuration(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Ranks and alphas from diffusers' header, or from peft's file beside the LoRA."""
    try:
        if DIFFUSERS_HEADER in metadata:
            said = json.loads(metadata[DIFFUSERS_HEADER])
        elif path.name == ADAPTER_FILE:
            said = weights.read_json(path.with_name(ADAPTER_CONFIG_FILE))
        else:
            return {}
        if not isinstance(said, dict):
            raise ValueError("no object")
        for key, value in said.items():
            # For peft each is an expression; only a name means the same to everybody.
            if key.rpartition(".")[2] != "alpha_pattern" or value is None:
                continue
            if not isinstance(value, dict) or not all(map(_NAME.fullmatch, value)):
                raise ValueError("no names")
    except FileNotFoundError as error:
        raise ModelError(
            f"{ADAPTER_CONFIG_FILE}, which says how strong it is, is missing beside {path.name}."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"The header of {path.name} is damaged: download it again.") from error
    if any(value for key, value in said.items() if key.rpartition(".")[2] == "use_dora"):
        raise ModelError(f"{path.name} is a DoRA, which cannot be used here: only plain LoRAs.")
    return said


class _Alphas:
    """Alphas by peft's rules, each found in time of its layer's name, however many there are."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._of: dict[str, dict[str, Any]] = {"": {}}  # by component; "": of all
        for key, value in said.items():
            component, dot, name = key.partition(".")
            self._of.setdefault(component if dot else "", {})[name if dot else key] = value
        for own in self._of.values():
            if patterns := own.get("alpha_pattern"):
                places = enumerate(patterns.items())
                own["alpha_pattern"] = {key: (place, value) for place, (key, value) in places}

    def of(self, name: str, rank: int) -> float:
        """Without any, it is the rank, so that the scale is 1. NaN for what is no number."""
        component, _, layer = name.partition(".")
        own, shared = self._of.get(component, {}), self._of[""]

        def said(key: str, default: Any) -> Any:
            return own.get(key, shared.get(key, default))

        patterns = said("alpha_pattern", None) or {}
        words = layer.split(".")
        ends = (".".join(words[-count:]) for count in range(1, min(len(words), _DEEPEST) + 1))
        found = [patterns[end] for end in ends if end in patterns]
        try:
            # of several that fit, the first in the file
            alpha = float(min(found)[1] if found else said("lora_alpha", rank))
        except (TypeError, ValueError, OverflowError):
            return math.nan
        return alpha * math.sqrt(rank) if said("use_rslora", False) else alpha


def bundled(strays: Iterable[str]) -> list[str]:
    """The words that a file brings with it as embeddings, from its keys that are no LoRA's."""
    return sorted({found[1] for key in strays if (found := _BUNDLED.fullmatch(key))})


def from_peft(state: Mapping[str, Tensor], rank: int, alpha: float) -> dict[str, LowRank]:
    """peft's tensors, by layer and in float32. Raises LoraError for what a LoRA file cannot hold.

    state: `<layer>.lora_A.weight` and `.lora_B.weight`, with or without the prefix
    `base_model.model.`.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight", key)
        if match is None:
            raise LoraError(f"The adapter holds something that is not a plain LoRA: {key}.")
        halves.setdefault(match[1], {})[match[2]] = tensor.detach().to("cpu", torch.float32)
    if not halves:
        raise LoraError("The adapter is empty: train a round first.")
    for layer, half in halves.items():
        if set(half) != {"A", "B"}:
            raise LoraError(f"The adapter is incomplete: {layer} has only one half.")
        if half["A"].shape[0] != rank or half["B"].shape[1] != rank:
            raise LoraError(f"The adapter does not have rank {rank} everywhere: see {layer}.")
        if not all(tensor.isfinite().all() for tensor in half.values()):
            raise LoraError(f"The adapter holds numbers that are not finite, in {layer}.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise LoraError("The adapter's alpha must be a number greater than 0.")
    return {layer: LowRank(half["A"], half["B"], alpha) for layer, half in sorted(halves.items())}


def tensors(
    form: Format, parts: Mapping[str, LowRank], precision: Precision = "float32"
) -> dict[str, Tensor]:
    """The tensors of a file; `parts` by the names that the layers have in it."""
    down, up = HALVES[form]
    dtype = getattr(torch, precision)
    found = {}
    for name, part in parts.items():
        found[f"{name}.{down}"] = part.down.to(dtype).contiguous()
        found[f"{name}.{up}"] = part.up.to(dtype).contiguous()
        if form == "kohya":  # an alpha is exact in every precision
            found[f"{name}.alpha"] = torch.tensor(part.alpha)
    return found


def peft_header(parts: Mapping[str, LowRank]) -> str:
    """The value of `DIFFUSERS_HEADER`: rank, alpha and layers of each component.

    Only the settings that differ from peft's defaults: other versions of peft refuse unknown ones.
    All layers of a component must have one rank and one alpha.
    """
    components: dict[str, dict[str, LowRank]] = {}
    for name in sorted(parts):
        component, _, layer = name.partition(".")
        components.setdefault(component, {})[layer] = parts[name]
    header: dict[str, Any] = {}
    for component, layers in components.items():
        first = next(iter(layers.values()))
        header |= {f"{component}.r": first.rank, f"{component}.lora_alpha": first.alpha}
        header[f"{component}.target_modules"] = list(layers)
    return json.dumps(header)


def is_same(found: LowRank, expected: LowRank, precision: Precision) -> bool:
    """Whether both change a layer alike, but for the rounding of `precision`."""
    is_, wanted = found.change(), expected.change()
    if is_.shape != wanted.shape:
        return False
    return bool((is_ - wanted).norm() <= ROUNDING[precision] * wanted.norm())
