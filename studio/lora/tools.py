"""Operations on LoRA files: blend, resize, merge into a model, edit the metadata.

Plain LoRAs of any trainer can be read. A result has the format of its source, with the same rank
and alpha in all layers, which every tool reads alike. It is read back and compared before it gets
its name.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from studio import weights
from studio.families import FAMILIES, UNET_PREFIX
from studio.files import write_atomically
from studio.lora import format as lora_format
from studio.lora.format import (
    DIFFUSERS_HEADER,
    Format,
    LoraError,
    LowRank,
    Precision,
    is_same,
    peft_header,
)
from studio.lora.metadata import (
    sd_scripts_hashes,
    storable,
    tensors_sha256,
    thumbnail_url,
)
from studio.lora.names import diffusers_name, kohya_name, original_name
from studio.pictures import files as picture_files
from studio.weights import ModelError

UNET_STEM = "diffusion_pytorch_model"
MOST_RANK = 1024
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Lora:
    """A LoRA to write: its layers by their names in the file, and its metadata."""

    form: Format
    parts: Mapping[str, LowRank]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(part.rank for part in self.parts.values())


def read(path: Path) -> Lora:
    """Read a LoRA file. Raises ModelError unless it is a plain LoRA, LoraError if it holds parts
    that `write` would lose."""
    file = lora_format.read(path)
    if file.strays:
        raise LoraError(
            f"{path.name} is not a plain LoRA: it holds {len(file.strays)} parts that would be "
            f"lost, such as {file.strays[0]}."
        )
    names = {name: diffusers_name(name) for name in file.parts}
    form: Format = "kohya" if None in names.values() else "diffusers"
    parts = {
        (names[name] if form == "diffusers" else name) or name: LowRank(
            part.down.float(), part.up.float(), part.alpha
        )
        for name, part in file.parts.items()
    }
    return Lora(form, parts, file.metadata)


# --- blend and resize ----------------------------------------------------------------------------


def blend(loras: Sequence[Lora], strengths: Sequence[float]) -> Lora:
    """One LoRA with exactly the summed effect of all, each at its strength.

    Its rank is the sum of the ranks; it has the metadata of the first. Raises LoraError.
    """
    first = loras[0]
    if any(lora.form != first.form for lora in loras):
        raise LoraError("Blend files of one format: both for diffusers, or both for other tools.")
    _require_one_base(loras)
    rank = sum(lora.rank for lora in loras)
    by_layer: dict[str, list[LowRank]] = {}
    for lora, strength in zip(loras, strengths, strict=True):
        for name, part in lora.parts.items():
            scaled = LowRank(part.down, part.up * (strength * part.scale), math.nan)
            by_layer.setdefault(name, []).append(scaled)
    parts = {}
    for name, terms in sorted(by_layer.items()):
        if len({(term.down.shape[1:], term.up.shape[:1]) for term in terms}) != 1:
            raise LoraError(f"The LoRAs were made for different models: {name} does not fit.")
        total = LowRank(
            torch.cat([term.down for term in terms]),
            torch.cat([term.up for term in terms], 1),
            float(rank),
        )
        parts[name] = _padded(total, rank)
    return Lora(first.form, parts, first.metadata)


def _require_one_base(loras: Sequence[Lora]) -> None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        values = {lora.metadata[key] for lora in loras if lora.metadata.get(key)}
        if len(values) > 1:
            raise LoraError(
                f"The LoRAs were made for different kinds of model: {', '.join(sorted(values))}."
            )


def resize(lora: Lora, rank: int) -> tuple[Lora, float]:
    """The nearest LoRA of this rank, and the share (0 to 1) of the change's norm that remains in
    the layer that loses most. Raises LoraError."""
    if not 1 <= rank <= MOST_RANK:
        raise LoraError(f"A rank lies between 1 and {MOST_RANK}.")
    parts, least = {}, 1.0
    for name, part in lora.parts.items():
        parts[name], share = _resized(part, rank)
        least = min(least, share)
    return Lora(lora.form, parts, lora.metadata), least


def _resized(part: LowRank, rank: int) -> tuple[LowRank, float]:
    """A truncated SVD of up @ down, computed from the small triangles of two QR decompositions."""
    up_basis, up_rest = torch.linalg.qr(part.up.flatten(1).double())
    down_basis, down_rest = torch.linalg.qr(part.down.flatten(1).double().T)
    left, values, right = torch.linalg.svd(part.scale * (up_rest @ down_rest.T))
    count = min(rank, len(values))
    root = values[:count].sqrt()
    up = (up_basis @ left[:, :count] * root).float()
    down = (root[:, None] * right[:count] @ down_basis.T).float()
    whole = float(values.norm())
    share = float(values[:count].norm()) / whole if whole else 1.0
    truncated = LowRank(
        down.reshape(count, *part.down.shape[1:]),
        up.reshape(up.shape[0], count, *part.up.shape[2:]),
        float(rank),
    )
    return _padded(truncated, rank), share


def _padded(part: LowRank, rank: int) -> LowRank:
    """Pad a layer with zeros to the common rank of its file."""
    missing = rank - part.rank
    down = torch.cat([part.down, part.down.new_zeros(missing, *part.down.shape[1:])])
    up_zeros = part.up.new_zeros(part.up.shape[0], missing, *part.up.shape[2:])
    return LowRank(down, torch.cat([part.up, up_zeros], 1), part.alpha)


def write(path: Path, lora: Lora, precision: Precision = "float32") -> None:
    """Write a new file; it is read back and compared before it gets its name.

    The metadata stays the same, except for name, rank, alpha and hashes.
    """
    _require_new(path)
    tensors = lora_format.tensors(lora.form, lora.parts, precision)
    body = tensors_sha256(tensors)
    metadata = dict(lora.metadata)
    if "modelspec.title" in metadata:
        metadata |= {"modelspec.title": path.stem, "modelspec.hash_sha256": f"0x{body}"}
    if lora.form == "kohya":
        metadata |= {
            "ss_output_name": path.stem,
            "ss_network_dim": str(lora.rank),
            "ss_network_alpha": str(float(lora.rank)),
        }
        metadata |= sd_scripts_hashes(tensors, body, metadata)
    else:
        metadata[DIFFUSERS_HEADER] = peft_header(lora.parts)

    def verify(draft: Path) -> None:
        written = read(draft)
        same = written.parts.keys() == lora.parts.keys() and all(
            is_same(written.parts[name], part, precision) for name, part in lora.parts.items()
        )
        if not same:
            raise LoraError(f"{path.name} was not written: read back, it was not the same.")

    _publish(path, lambda draft: safetensors.torch.save_file(tensors, draft, metadata), verify)


# --- metadata ------------------------------------------------------------------------------------

# Fields that a tool needs to load the file correctly. The LoRA below it is one of them: without
# that LoRA the file has little effect.
NEEDED_TO_LOAD = (
    "format",
    DIFFUSERS_HEADER,
    "ss_base_model_version",
    "ss_v2",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "modelspec.sai_model_spec",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "d3po_studio.start_lora",
    "d3po_studio.start_lora_sha256",
    "d3po_studio.start_lora_strength",
)
# Fields that can be edited, by their names in the modelspec.
WORDS = ("title", "description", "author", "trigger_phrase", "license", "thumbnail")
PICTURE_KINDS = ("PNG", "JPEG", "WEBP")
_LAYER = re.compile(r"lora|hada_|lokr_|oft_|dora_")


def restate(
    path: Path, out: Path, words: Mapping[str, str], *, strip: bool = False
) -> dict[str, str]:
    """Write a copy of a LoRA file of any kind with other metadata, and return that metadata.

    words: fields of `WORDS`; an empty one is removed. strip: first remove all fields that are not
    needed for loading; then any safetensors file is allowed. Metadata that breaks the format is
    repaired. The tensors stay the same to the byte, and the hashes are updated. Raises ModelError
    unless it is a safetensors file, LoraError unless it is a LoRA.
    """
    _require_new(out)
    header = weights.read_header(path, is_clean=False)
    if not strip and not any(map(_LAYER.search, header.tensors)):
        raise LoraError(f"{path.name} is not a LoRA.")
    metadata = dict(header.metadata)
    if strip:
        metadata = {key: value for key, value in metadata.items() if key in NEEDED_TO_LOAD}
    for key, value in words.items():
        metadata.pop(f"modelspec.{key}", None)
        if value:
            metadata[f"modelspec.{key}"] = value
    metadata = {storable(key): storable(value) for key, value in metadata.items()}
    body, stem = weights.body_sha256(path), storable(out.stem)
    if any(key.startswith("modelspec.") for key in metadata):
        version = metadata.get("ss_base_model_version")
        for family in FAMILIES.values():
            if family.lora.base_version == version:
                metadata.setdefault("modelspec.architecture", family.lora.architecture)
        metadata.setdefault("modelspec.sai_model_spec", "1.0.1")
        metadata.setdefault("modelspec.title", stem)
        metadata["modelspec.hash_sha256"] = f"0x{body}"
    if any(key.startswith("ss_") for key in metadata):
        metadata["ss_output_name"] = stem  # A1111's alias, which must be the file's name
        metadata |= sd_scripts_hashes(_tensors(path), body, metadata)

    def verify(draft: Path) -> None:
        if weights.body_sha256(draft) != body or weights.read_header(draft).metadata != metadata:
            raise LoraError(f"{out.name} was not written: read back, it was not the same.")

    def write_draft(draft: Path) -> None:
        with draft.open("wb") as target:
            _write_restated(path, target, metadata)

    _publish(out, write_draft, verify)
    return metadata


def _write_restated(source: Path, copy: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Write the source's own tensor bytes behind a header with other metadata."""
    with source.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        text = json.dumps({"__metadata__": metadata, **header}, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # aligns the tensors
        copy.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(file, copy, CHUNK_BYTES)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file with metadata that may break the format."""
    clean = io.BytesIO()
    _write_restated(path, clean, {})
    return safetensors.torch.load(clean.getvalue())


def thumbnail(path: Path) -> str:
    """A picture file in the format of `modelspec.thumbnail`. Raises LoraError."""
    try:
        with PIL.Image.open(path, formats=PICTURE_KINDS) as picture:
            return thumbnail_url(picture_files.rgb(picture))
    except (
        OSError,
        ValueError,
        SyntaxError,
        PIL.Image.DecompressionBombError,
        PIL.Image.DecompressionBombWarning,
    ) as error:
        raise LoraError(f"{path} is not a readable picture (PNG, JPEG or WebP).") from error


# --- merge ---------------------------------------------------------------------------------------


def merge(
    lora: Lora,
    strength: float,
    model: Path,
    family: str,
    layers: Mapping[str, tuple[int, ...]],
    out: Path,
) -> int:
    """Copy a base model with the LoRA added to its weights; gives the number of changed layers.

    model: a file in the original layout or a diffusers folder; `out` becomes the same. family: a
    key of `FAMILIES`. layers: of the UNet, by name (`Adapters.layer_shapes`). The weights keep
    their type. Raises LoraError unless all layers of the LoRA are attention layers or shortcuts of
    this model.
    """
    _require_new(out)
    changes = {
        name: strength * part.change() for name, part in _by_layer(lora, family, layers).items()
    }
    if model.is_dir():
        _, variant = weights.component_header(model / "unet", UNET_STEM)
        name = f"{UNET_STEM}.{variant}.safetensors" if variant else f"{UNET_STEM}.safetensors"
        if not (model / "unet" / name).is_file():
            raise LoraError(
                "The UNet of this folder is split into several files. Choose a copy of the model "
                "with a single file."
            )
        keys = {f"{name}.weight": change for name, change in changes.items()}

        def copy(draft: Path) -> None:
            shutil.copytree(model, draft)
            (draft / "unet" / name).unlink()
            _write_merged(model / "unet" / name, draft / "unet" / name, keys)

        _publish(out, copy)
    else:
        keys = {
            f"{UNET_PREFIX}{original_name(name)}.weight": change for name, change in changes.items()
        }
        _publish(out, lambda draft: _write_merged(model, draft, keys))
    return len(changes)


def _by_layer(lora: Lora, family: str, layers: Mapping[str, tuple[int, ...]]) -> dict[str, LowRank]:
    """The LoRA's parts by the names of the model's layers."""
    names: dict[str, str] = {}
    for layer in layers:
        if ".attentions." in layer or layer.endswith(".conv_shortcut"):
            names[f"unet.{layer}"] = layer
            names[kohya_name(layer, family)] = layer
            names[kohya_name(layer, "sd1")] = layer  # some trainers use these for SDXL, too
    by_layer = {}
    for name, part in lora.parts.items():
        layer = names.get(name)
        if layer is None:
            raise LoraError(
                "Only attention layers and shortcuts of the UNet can be merged, and this model has "
                f"no such layer {name}."
            )
        if not part.fits(layers[layer]):
            raise LoraError(f"The LoRA was made for another kind of model: {layer} does not fit.")
        by_layer[layer] = part
    return by_layer


def _write_merged(source: Path, target: Path, changes: Mapping[str, Tensor]) -> None:
    """Write all tensors of a file, with changes added to some; read the copy back and compare."""
    with safe_open(source, "pt") as file:
        missing = sorted(changes.keys() - set(file.keys()))
        if missing:
            raise LoraError(f"{source.name} has no {missing[0]}: its names are of another format.")
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, change in changes.items():
        before = tensors[key]
        tensors[key] = (before.float() + change.reshape(before.shape)).to(before.dtype)
        if not bool(tensors[key].isfinite().all()):
            raise LoraError(
                f"At this strength {key} is too large for the model's numbers: choose a smaller "
                "strength."
            )
    safetensors.torch.save_file(tensors, target, metadata)
    with safe_open(target, "pt") as written:
        if not all(torch.equal(written.get_tensor(key), value) for key, value in tensors.items()):
            raise LoraError(f"{target.name} was not written: read back, it was not the same.")


# --- the disk ------------------------------------------------------------------------------------


def _require_new(path: Path) -> None:
    if path.exists():
        raise LoraError(f"{path} exists already: choose another name.")


def _publish(
    path: Path, write_draft: Callable[[Path], None], verify: Callable[[Path], None] | None = None
) -> None:
    """Write a file or folder, verify the draft, and give it its name."""

    def write_checked(draft: Path) -> None:
        write_draft(draft)
        if verify is not None:
            verify(draft)

    try:
        write_atomically(path, write_checked)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path} could not be written: {error}.") from error
    except ModelError as error:
        raise LoraError(str(error)) from error
