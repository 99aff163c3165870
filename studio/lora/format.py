"""The formats of LoRA files: low-rank changes by layer name, and one reader for all formats.

    weight + strength × alpha / rank × up @ down

The reader knows the key names of all common trainers: kohya's sd-scripts (with diffusers' or the
original block names), diffusers (old and new), and peft. It refuses other kinds (LoHa, LoKr, DoRA
and more) by name. Three formats are written: *kohya*, which every tool reads for Stable Diffusion;
*original*, which every tool reads for newer families (`diffusion_model.` and the names of the
model's own code, without alphas); and *diffusers*, for diffusers only.
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
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from studio import weights
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from studio.weights import ModelError

Format = Literal["kohya", "original", "diffusers"]
FORMATS: tuple[Format, ...] = ("kohya", "diffusers")  # to choose from: see `export.written_as`
HALVES: dict[Format, tuple[str, str]] = {
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "original": ("lora_A.weight", "lora_B.weight"),
    "diffusers": ("lora_A.weight", "lora_B.weight"),
}

Precision = Literal["float32", "float16", "bfloat16"]
# Largest relative rounding error of a layer's change.
ROUNDING: dict[Precision, float] = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}

DIFFUSERS_HEADER = "lora_adapter_metadata"  # diffusers' metadata key for rank and alpha

# Patterns in the keys of other kinds of files.
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
    """A LoRA operation failed; the message is a sentence for the artist."""


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

    @property
    def n_bytes(self) -> int:
        """Its size in float32."""
        return 4 * (self.down.numel() + self.up.numel())

    def change(self, device: torch.device | str = "cpu") -> Tensor:
        """(out, in × kh × kw) in float32."""
        down, up = (half.to(device, torch.float32).flatten(1) for half in (self.down, self.up))
        return self.scale * (up @ down)

    def of(self, third: int | None) -> LowRank:
        """The part of it that changes a third of the outputs; None: all of it."""
        if third is None:
            return self
        return LowRank(self.down, self.up.chunk(3)[third], self.alpha)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it fits a weight of this shape."""
        return (self.up.shape[0], *self.down.shape[1:]) == tuple(shape)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: its parts by their layer names in the file.

    sha256: of the file and of the configuration beside it, if it has one. strays: keys that do not
    belong to a LoRA. metadata: the texts in its header.
    """

    path: Path
    sha256: str
    parts: Mapping[str, LowRank]
    strays: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(part.rank for part in self.parts.values())


def read(path: Path) -> LoraFile:
    """Read a LoRA file of any trainer. Raises ModelError with a sentence unless it is plain."""
    if path.suffix.lower() != weights.SUFFIX:
        raise ModelError(
            f"{path.name} is not a .safetensors file. Other files can hide programs and are not "
            "opened; choose the LoRA as .safetensors."
        )
    header = weights.read_header(path)
    for kind, mark in OTHER_KINDS if any(map(_OTHER_KINDS.search, header.tensors)) else ():
        if any(re.search(mark, key) for key in header.tensors):
            raise ModelError(f"{path.name} is {kind}, which cannot be used here: only plain LoRAs.")
    if not any((match := _KEY.fullmatch(key)) and not match["alpha"] for key in header.tensors):
        raise ModelError(f"{path.name} is not a LoRA.")
    try:
        # In one piece: the weights are those of the checksum, also if another program writes the
        # file anew just now. Of a mapped file they would change later, or end the process.
        content = path.read_bytes()
        tensors = load(content)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path.name} changed while it was read: try again.") from error
    digest = hashlib.sha256(content)
    configuration = _configuration(path, header.metadata)
    if configuration:
        digest.update(json.dumps(configuration, sort_keys=True).encode())
    by_name: dict[str, dict[str, Tensor]] = {}
    strays = []
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            strays.append(key)
            continue
        half = match["half"] or match["old_half"]
        which = "alpha" if half is None else "down" if half in _DOWN else "up"
        by_name.setdefault(match["name"], {})[which] = value
    alphas = _Alphas(configuration)
    parts: dict[str, LowRank] = {}
    for name, values in sorted(by_name.items()):
        if values.keys() == {"alpha"}:
            strays.append(f"{name}.alpha")
        else:
            parts[name] = _part(path, name, values, alphas)
    return LoraFile(path, digest.hexdigest(), parts, tuple(sorted(strays)), header.metadata)


def _part(path: Path, name: str, values: Mapping[str, Tensor], alphas: _Alphas) -> LowRank:
    down, up, alpha = (values.get(which) for which in ("down", "up", "alpha"))
    if down is None or up is None:
        raise ModelError(f"{path.name} is damaged: {name} has only one half.")
    if min(down.ndim, up.ndim) < 2 or up.shape[1] != down.shape[0] or not down.numel():
        raise ModelError(f"{path.name} is damaged: the halves of {name} do not fit together.")
    if up[0, 0].numel() != 1:  # a LoCon with a middle part
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
            configuration = json.loads(metadata[DIFFUSERS_HEADER])
        elif path.name == ADAPTER_FILE:
            configuration = weights.read_json(path.with_name(ADAPTER_CONFIG_FILE))
        else:
            return {}
        if not isinstance(configuration, dict):
            raise ValueError("no object")
        for key, value in configuration.items():
            if key.rpartition(".")[2] != "alpha_pattern" or value is None:
                continue
            # peft uses each as a regular expression; only a plain name means the same to everybody
            if not isinstance(value, dict) or not all(map(_NAME.fullmatch, value)):
                raise ValueError("no names")
    except FileNotFoundError as error:
        raise ModelError(
            f"{ADAPTER_CONFIG_FILE}, which holds the strength of {path.name}, is missing beside it."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"The header of {path.name} is damaged: download it again.") from error
    if any(value for key, value in configuration.items() if key.rpartition(".")[2] == "use_dora"):
        raise ModelError(f"{path.name} is a DoRA, which cannot be used here: only plain LoRAs.")
    return configuration


class _Alphas:
    """Alphas by peft's rules. A lookup takes time in the length of a layer's name, and not in the
    number of patterns."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._of: dict[str, dict[str, Any]] = {"": {}}  # by component; "" for all components
        for key, value in configuration.items():
            component, dot, name = key.partition(".")
            self._of.setdefault(component if dot else "", {})[name if dot else key] = value
        for own in self._of.values():
            if patterns := own.get("alpha_pattern"):
                places = enumerate(patterns.items())
                own["alpha_pattern"] = {key: (place, value) for place, (key, value) in places}

    def of(self, name: str, rank: int) -> float:
        """The alpha of a layer; NaN unless it is a number. The default is the rank, which gives a
        scale of 1."""
        component, _, layer = name.partition(".")
        own, shared = self._of.get(component, {}), self._of[""]

        def configured(key: str, default: Any) -> Any:
            return own.get(key, shared.get(key, default))

        patterns = configured("alpha_pattern", None) or {}
        words = layer.split(".")
        ends = (".".join(words[-count:]) for count in range(1, min(len(words), _DEEPEST) + 1))
        matches = [patterns[end] for end in ends if end in patterns]
        try:
            # peft takes the first matching pattern of the file
            alpha = float(min(matches)[1] if matches else configured("lora_alpha", rank))
        except (TypeError, ValueError, OverflowError):
            return math.nan
        return alpha * math.sqrt(rank) if configured("use_rslora", False) else alpha


def bundled_words(strays: Iterable[str]) -> list[str]:
    """The words of the embeddings that a file bundles, from its keys that belong to no LoRA."""
    return sorted({match[1] for key in strays if (match := _BUNDLED.fullmatch(key))})


def from_peft(state: Mapping[str, Tensor], rank: int, alpha: float) -> dict[str, LowRank]:
    """peft's tensors by layer, in float32. Raises LoraError unless they are a plain LoRA.

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
    """The tensors of a file; `parts` by their layer names in the file."""
    down, up = HALVES[form]
    dtype = getattr(torch, precision)
    result = {}
    for name, part in parts.items():
        scaled = part.up * part.scale if form == "original" else part.up  # it has no alphas
        result[f"{name}.{down}"] = part.down.to(dtype).contiguous()
        result[f"{name}.{up}"] = scaled.to(dtype).contiguous()
        if form == "kohya":  # alphas stay float32 in every precision
            result[f"{name}.alpha"] = torch.tensor(part.alpha)
    return result


def peft_header(parts: Mapping[str, LowRank]) -> str:
    """The value of `DIFFUSERS_HEADER`: rank, alpha and layers of each component.

    It has only settings that differ from peft's defaults: other versions of peft refuse unknown
    ones. All layers of a component must have the same rank and alpha.
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


def is_same(actual: LowRank, expected: LowRank, precision: Precision) -> bool:
    """Whether both change a layer alike, within the rounding of `precision`."""
    change, wanted = actual.change(), expected.change()
    if change.shape != wanted.shape:
        return False
    return bool((change - wanted).norm() <= ROUNDING[precision] * wanted.norm())
