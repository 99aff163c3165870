"""Operations on LoRA files: blend, resize, edit the metadata.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from studio import weights
from studio.families import FAMILIES
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
    Serialised,
    file_header,
    storable,
    thumbnail_url,
)
from studio.lora.names import diffusers_name
from studio.pictures import files as picture_files
from studio.weights import ModelError

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
    if words := lora_format.bundled_words(file.strays):
        raise LoraError(
            f"{path.name} bundles the embedding “{words[0][:60]}”, whose word would be lost: such "
            "files cannot be written anew."
        )
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
    with _one_thread():
        resized = {name: _resized(part, rank) for name, part in lora.parts.items()}
    parts = {name: part for name, (part, _) in resized.items()}
    return Lora(lora.form, parts, lora.metadata), min(share for _, share in resized.values())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread. With several, threads wait for one another at each of
    thousands of small matrices: on a busy computer a hundred times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    require_new(path)
    tensors = Serialised(lora_format.tensors(lora.form, lora.parts, precision))
    metadata = dict(lora.metadata)
    if "modelspec.title" in metadata:
        metadata |= {"modelspec.title": path.stem, "modelspec.hash_sha256": f"0x{tensors.sha256}"}
    if lora.form == "kohya":
        metadata |= {
            "ss_output_name": path.stem,
            "ss_network_dim": str(lora.rank),
            "ss_network_alpha": str(float(lora.rank)),
        }
        metadata |= tensors.sd_scripts_hashes(metadata)
    else:
        metadata[DIFFUSERS_HEADER] = peft_header(lora.parts)

    def verify(draft: Path) -> None:
        written = read(draft)
        same = written.parts.keys() == lora.parts.keys() and all(
            is_same(written.parts[name], part, precision) for name, part in lora.parts.items()
        )
        if not same:
            raise LoraError(f"{path.name} was not written: read back, it was not the same.")

    publish(path, lambda draft: draft.write_bytes(tensors.content(metadata)), verify)


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
    require_new(out)
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
        metadata |= Serialised(_tensors(path)).sd_scripts_hashes(metadata)

    def verify(draft: Path) -> None:
        if weights.body_sha256(draft) != body or weights.read_header(draft).metadata != metadata:
            raise LoraError(f"{out.name} was not written: read back, it was not the same.")

    def write_draft(draft: Path) -> None:
        with draft.open("wb") as target:
            _write_restated(path, target, metadata)

    publish(out, write_draft, verify)
    return metadata


def _write_restated(source: Path, copy: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Write the source's own tensor bytes behind a header with other metadata."""
    with source.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        copy.write(file_header(metadata, header))
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


# --- the disk ------------------------------------------------------------------------------------


def require_new(path: Path) -> None:
    if path.exists():
        raise LoraError(f"{path} exists already: choose another name.")


def publish(
    path: Path, write_draft: Callable[[Path], object], verify: Callable[[Path], None] | None = None
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
