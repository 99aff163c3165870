"""Editing of the metadata of LoRA files, of any kind."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import safetensors.torch
from torch import Tensor

from studio import weights
from studio.families import FAMILIES
from studio.lora.format import DIFFUSERS_HEADER, LoraError
from studio.lora.metadata import Serialised, file_header, storable, thumbnail_url
from studio.lora.tools import publish, require_new
from studio.pictures import files as picture_files

CHUNK_BYTES = 1 << 20
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
