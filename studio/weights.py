"""Checks of weight files from other people, before any library maps or reads them.

A weight file can be anything: the page of a failed download, a pickle under another name, an
endless pipe, a header that points outside of the file. So the header is read with plain means, and
every length is checked against the size of the file. A bad file raises ModelError with a sentence.
Nothing in a file is ever run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

# Far more than real files need: SDXL's header has 0.4 MB, a LoRA's with thumbnail and tags a few.
# The format's own limit is 100 MB.
MAX_HEADER_BYTES = 25_000_000
MAX_RANK = 8  # dimensions of a tensor; a convolution has four
MAX_SIZE = 2**48  # bytes, elements and offsets: more than any disk holds
MAX_CONFIG_BYTES = 10_000_000
SUFFIX = ".safetensors"
SNAPSHOTS = "snapshots"  # the parent folder of a model in the hub's cache

# Bytes of one element, by safetensors' names.
ELEMENT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
FLOATS = ("F64", "F32", "F16", "BF16")

# First bytes of files that are not safetensors.
SIGNATURES = (
    (b"PK\x03\x04", "a PyTorch file under another name"),
    (b"\x80\x02", "a Python pickle under another name"),
    (b"\x80\x03", "a Python pickle under another name"),
    (b"\x80\x04", "a Python pickle under another name"),
    (b"\x80\x05", "a Python pickle under another name"),
)


class ModelError(Exception):
    """A model, adapter or LoRA file that cannot be used; the message is a sentence."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: tensors by name, and metadata."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; () if there is none of this name."""
        entry = self.tensors.get(name)
        return entry.shape if entry else ()


def require_plain_file(path: Path) -> int:
    """The size of a file in bytes. Raises ModelError if it is missing, unreadable or special."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path.name} is not a file that can be read.")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise ModelError(f"{path.name} is missing from {path.parent}.") from error
    except PermissionError as error:
        raise ModelError(f"{path.name} may not be read: allow it first.") from error
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    return status.st_size


def read_header(path: Path, is_clean: bool = True) -> Header:
    """The header of a safetensors file, with everything in it checked against the file's size.

    is_clean: refuse metadata that is not text, which breaks the format and which the library would
    refuse; else turn it into text. Raises ModelError that names the actual kind of the file, or its
    fault.
    """
    size_bytes = require_plain_file(path)
    if size_bytes == 0:
        raise ModelError(f"{path.name} is empty: copy or download it again.")
    try:
        with path.open("rb") as file:
            first = file.read(512)
            _refuse_others(path, first)
            header_bytes = int.from_bytes(first[:8], "little")
            if size_bytes < 8 or header_bytes > size_bytes - 8:
                raise ModelError(
                    f"{path.name} is not a safetensors file, or only part of one: copy or "
                    "download it again."
                )
            if header_bytes > MAX_HEADER_BYTES:
                raise ModelError(
                    f"The header of {path.name} is far too long ({header_bytes:,} bytes), so it is "
                    "not opened. Download it again, or choose another copy."
                )
            file.seek(8)
            header = _parsed(file.read(header_bytes))
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"The header of {path.name} is damaged: download it again.") from error
    checked = _checked(path, header, size_bytes - 8 - header_bytes, is_clean)
    if is_clean:
        _require_library(path)
    return checked


def _require_library(path: Path) -> None:
    """Refuse now a file that the library would refuse when it loads the weights."""
    try:
        with safe_open(path, "np"):
            pass
    except SafetensorError as error:
        raise ModelError(f"The header of {path.name} is damaged: download it again.") from error
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _refuse_others(path: Path, first: bytes) -> None:
    if first[:4] == b"GGUF":
        raise ModelError(
            f"{path.name} is a GGUF file, compressed for drawing only. To learn, choose the "
            "model's .safetensors file."
        )
    if first.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{path.name} is only a pointer to the model's file: fetch the file with git lfs."
        )
    is_json = first[8:9] == b"{"  # then the first bytes are a length, which can have any value
    for signature, what in SIGNATURES:
        if first.startswith(signature) and not is_json:
            raise ModelError(
                f"{path.name} is {what}. Such files can hide programs and are not opened; "
                "choose a real .safetensors file."
            )
    if first.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            f"{path.name} is a web page, left by a failed download: download it again."
        )
    if first[8:9] != b"{" and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in first):
        raise ModelError(f"{path.name} is a text file, not a model.")


def _parsed(content: bytes) -> Any:
    """JSON by the rules of the format: UTF-8, and unique names. Raises ValueError."""
    return json.loads(content.decode(), object_pairs_hook=_with_unique_names)


def _with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("the same name twice")
    return values


def _metadata(path: Path, metadata: Any, is_clean: bool) -> dict[str, str]:
    """The metadata of a header: texts by name.

    Raises ModelError for anything else, which some tools have written by mistake."""
    if metadata is None:
        return {}
    wrong = "" if isinstance(metadata, dict) else "no texts by name"
    if not wrong:
        for key, value in metadata.items():
            if not isinstance(value, str) or not _is_text(key + value):
                wrong = f"{key[:40]!a}, which is not text"
                break
    if wrong and is_clean:
        raise ModelError(
            f"The weights of {path.name} may be intact, but its metadata breaks the format: it "
            f"holds {wrong}. `python launch.py lora strip` writes a copy that can be used."
        )
    if not isinstance(metadata, dict):
        return {}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}


def _is_text(text: str) -> bool:
    """Whether a text can be stored: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(path: Path, header: Any, body_bytes: int, is_clean: bool) -> Header:
    damaged = ModelError(f"The header of {path.name} is damaged: download it again.")
    if not isinstance(header, dict):
        raise damaged
    metadata = header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        if not _is_text(name):
            raise damaged
        tensor, start, end = _entry(path, entry)
        spans.append((start, end))
        tensors[name] = tensor
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise damaged
        at = end
    if at != body_bytes:
        raise ModelError(
            f"{path.name} is incomplete: {at - body_bytes:,} bytes are missing. "
            "Copy or download it again."
            if at > body_bytes
            else f"The header of {path.name} is damaged: download it again."
        )
    if not tensors:
        raise ModelError(f"{path.name} holds no weights.")
    return Header(tensors, _metadata(path, metadata, is_clean))


def _entry(path: Path, entry: Any) -> tuple[Entry, int, int]:
    """A tensor of a header, and where its bytes begin and end.

    Every number is checked before use: the product of a long list of large numbers takes quadratic
    time.
    """
    damaged = ModelError(f"The header of {path.name} is damaged: download it again.")
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise damaged from error
    if not (isinstance(dtype, str) and isinstance(shape, list)) or len(shape) > MAX_RANK:
        raise damaged
    if not all(type(number) is int and 0 <= number < MAX_SIZE for number in (*shape, start, end)):
        raise damaged
    if dtype not in ELEMENT_BYTES:
        raise ModelError(f"{path.name} holds weights of an unsupported type ({dtype[:20]}).")
    if end - start != math.prod(shape) * ELEMENT_BYTES[dtype]:
        raise damaged
    return Entry(dtype, tuple(shape)), start, end


def body_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file without its header, as in kohya's tools."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file. Raises FileNotFoundError, or ModelError if it is unusable."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if require_plain_file(path) > MAX_CONFIG_BYTES:
        raise ModelError(f"{path.name} in {path.parent} is far too long for a configuration.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} in {path.parent} is damaged.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path.name} in {path.parent} is damaged.")
    return values


def component_header(folder: Path, stem: str) -> tuple[Header, str | None]:
    """The header of one part of a diffusers folder, for all shards together, and their variant.

    `stem` is the name of the part's weight file, such as "model". The variant is None or "fp16". In
    the hub's cache fp16 has precedence, as in `hub.download`; other tools may add the other one at
    any time. Raises ModelError if weights are missing or lie outside of the folder.
    """
    is_cached = folder.parent.parent.name == SNAPSHOTS
    for variant in ("fp16", None) if is_cached else (None, "fp16"):
        name = f"{stem}.{variant}" if variant else stem
        whole = folder / f"{name}{SUFFIX}"
        if whole.exists():
            return read_header(whole), variant
        shards = folder / (
            f"{stem}{SUFFIX}.index.{variant}.json" if variant else f"{stem}{SUFFIX}.index.json"
        )
        if shards.exists():
            return _sharded(shards), variant
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")):
        raise ModelError(
            f"The weights in {folder} are .bin files, which can hide programs and are not opened. "
            "Choose a copy of the model with .safetensors files."
        )
    raise ModelError(f"The model is incomplete: {folder.name}/{stem}{SUFFIX} is missing.")


def component_files(folder: Path, stem: str) -> list[Path]:
    """The weight files that `component_header` describes. Raises ModelError likewise."""
    _, variant = component_header(folder, stem)
    name = f"{stem}.{variant}" if variant else stem
    whole = folder / f"{name}{SUFFIX}"
    if whole.exists():
        return [whole]
    ending = f".index.{variant}.json" if variant else ".index.json"
    weight_map = read_json(folder / f"{stem}{SUFFIX}{ending}")["weight_map"]
    return [folder / shard for shard in sorted(set(weight_map.values()))]


def _sharded(index: Path) -> Header:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index.name} in {index.parent} is damaged.")
    tensors: dict[str, Entry] = {}
    for name in sorted({str(shard) for shard in weight_map.values()}):
        if Path(name).name != name or not name.endswith(SUFFIX):
            raise ModelError(
                f"{index.name} points to {name}, outside of its folder; the model is not opened."
            )
        tensors |= read_header(index.parent / name).tensors
    lost = sorted(set(weight_map) - set(tensors))
    if lost:
        raise ModelError(f"The model is incomplete: {lost[0]} is in none of its files.")
    return Header(tensors, {})
