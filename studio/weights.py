"""Files of others, looked at before anything maps or reads their weights.

A weight file can be anything: a page of a download that failed, a pickle under another name, a
pipe that never ends, a header that points outside of the file. So the first bytes are read by
plain means, with every length checked against the size of the file, and what does not hold becomes
a sentence. Nothing in a file is ever run.
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

# Far more than real files have: SDXL's header takes 0.4 MB, and a LoRA's with its thumbnail and the
# words it was trained on a few. The format's own limit is 100 MB.
MAX_HEADER_BYTES = 25_000_000
MAX_RANK = 8  # dimensions of a tensor; a convolution has four
MAX_SIZE = 2**48  # bytes, elements and offsets: more than any disk holds
MAX_CONFIG_BYTES = 10_000_000
SUFFIX = ".safetensors"
SNAPSHOTS = "snapshots"  # holds a model, in the hub's cache

# Bytes of one element of what a model's weights can be (safetensors' names).
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

# What the first bytes of files that are not safetensors say.
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
    """What a safetensors file holds: tensors by name, and its own words about itself."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]

    def shape(self, name: str) -> tuple[int, ...]:
        """() where there is no such tensor."""
        entry = self.tensors.get(name)
        return entry.shape if entry else ()


def require_plain_file(path: Path) -> int:
    """Its size in bytes; ModelError for what is missing, unreadable, or no plain file."""
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

    is_clean: what it says of itself must be text, as the format has it, or the library would not
    read the file; else it is made text. Raises ModelError with what the file is instead, or what is
    wrong with it.
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
                    f"{path.name} is not a safetensors file, or only a part of one: copy or "
                    "download it again."
                )
            if header_bytes > MAX_HEADER_BYTES:
                raise ModelError(
                    f"{path.name} says far too much about itself ({header_bytes:,} bytes): it is "
                    "not opened. Download it again, or choose another copy."
                )
            file.seek(8)
            header = _parsed(file.read(header_bytes))
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"The header of {path.name} is damaged: download it again.") from error
    found = _checked(path, header, size_bytes - 8 - header_bytes, is_clean)
    if is_clean:
        _require_library(path)
    return found


def _require_library(path: Path) -> None:
    """Nothing is taken here that the library, which loads the weights, would refuse then."""
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
            f"{path.name} is a note of where the model is, not the model: fetch it with git lfs."
        )
    is_json = first[8:9] == b"{"  # then the first bytes are a length, which can be any
    for signature, what in SIGNATURES:
        if first.startswith(signature) and not is_json:
            raise ModelError(
                f"{path.name} is {what}. Such files can hide programs and are not opened; "
                "choose a real .safetensors file."
            )
    if first.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            f"{path.name} is a web page, as a download that failed leaves it: download it again."
        )
    if first[8:9] != b"{" and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in first):
        raise ModelError(f"{path.name} is a text, not a model.")


def _parsed(content: bytes) -> Any:
    """JSON as the format has it: UTF-8, and no name twice. Raises ValueError."""
    return json.loads(content.decode(), object_pairs_hook=_without_doubles)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same name twice")
    return found


def _words(path: Path, said: Any, is_clean: bool) -> dict[str, str]:
    """What a file says of itself: text by names, and nothing else.

    Raises ModelError for what is neither, which tools have written that did not know better."""
    if said is None:
        return {}
    wrong = "" if isinstance(said, dict) else "no names and texts"
    if not wrong:
        for key, value in said.items():
            if not isinstance(value, str) or not _is_text(key + value):
                wrong = f"{key[:40]!a}, which is not text"
                break
    if wrong and is_clean:
        raise ModelError(
            f"The weights of {path.name} may be whole, but what it says of itself (__metadata__) "
            f"breaks the format: it holds {wrong}. `python launch.py lora strip` writes a copy "
            "that can be used."
        )
    if not isinstance(said, dict):
        return {}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}


def _is_text(text: str) -> bool:
    """Whether it can be stored: not with half of a letter that takes two of UTF-16."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(path: Path, header: Any, body_bytes: int, is_clean: bool) -> Header:
    damaged = ModelError(f"The header of {path.name} is damaged: download it again.")
    if not isinstance(header, dict):
        raise damaged
    said = header.pop("__metadata__", None)
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
            f"{path.name} is only a part of a file: {at - body_bytes:,} bytes are missing. "
            "Copy or download it again."
            if at > body_bytes
            else f"The header of {path.name} is damaged: download it again."
        )
    if not tensors:
        raise ModelError(f"{path.name} holds no weights.")
    return Header(tensors, _words(path, said, is_clean))


def _entry(path: Path, entry: Any) -> tuple[Entry, int, int]:
    """A tensor of a header, and where its bytes begin and end.

    Every number is looked at before it is counted with: the product of a long list of large ones
    takes time that grows with the square of its length.
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
        raise ModelError(f"{path.name} holds weights in a form that is not known ({dtype[:20]}).")
    if end - start != math.prod(shape) * ELEMENT_BYTES[dtype]:
        raise damaged
    return Entry(dtype, tuple(shape)), start, end


def body_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file without its header, as kohya's tools have it."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file. Raises FileNotFoundError, or ModelError if it is none."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if require_plain_file(path) > MAX_CONFIG_BYTES:
        raise ModelError(f"{path.name} in {path.parent} is far too long for what it should be.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} in {path.parent} is damaged.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} in {path.parent} is damaged.")
    return found


def component_header(folder: Path, stem: str) -> tuple[Header, str | None]:
    """The weights of one part of a diffusers folder, all shards together, and their variant.

    `stem` is what the part's weight file is called, such as "model". The variant is None or
    "fp16": in the hub's cache the second goes before, as `hub.download` asks for it, and other
    tools may put the first beside it at any time. Raises ModelError where weights are missing or
    lie outside of the folder.
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
    raise ModelError(f"The model is not whole: {folder.name}/{stem}{SUFFIX} is missing.")


def component_files(folder: Path, stem: str) -> list[Path]:
    """The weight files of which `component_header` tells. Raises ModelError likewise."""
    _, variant = component_header(folder, stem)
    name = f"{stem}.{variant}" if variant else stem
    whole = folder / f"{name}{SUFFIX}"
    if whole.exists():
        return [whole]
    ending = f".index.{variant}.json" if variant else ".index.json"
    places = read_json(folder / f"{stem}{SUFFIX}{ending}")["weight_map"]
    return [folder / place for place in sorted(set(places.values()))]


def _sharded(index: Path) -> Header:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index.name} in {index.parent} is damaged.")
    tensors: dict[str, Entry] = {}
    for name in sorted({str(place) for place in places.values()}):
        if Path(name).name != name or not name.endswith(SUFFIX):
            raise ModelError(
                f"{index.name} points to {name}, outside of its folder; the model is not opened."
            )
        tensors |= read_header(index.parent / name).tensors
    lost = sorted(set(places) - set(tensors))
    if lost:
        raise ModelError(f"The model is not whole: {lost[0]} is in none of its files.")
    return Header(tensors, {})
