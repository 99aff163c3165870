"""Export of an adapter as LoRA files for other tools.

Counting keys proves little: most readers silently load a wrong alpha, or up and down swapped. So
each file is read back from the disk, and its effect on every layer is compared with the adapter in
memory, before it gets its final name.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from studio import weights
from studio.families import FAMILIES
from studio.files import is_full, publish
from studio.lora import flux2
from studio.lora import format as lora_format
from studio.lora.format import (
    DIFFUSERS_HEADER,
    FORMATS,
    ROUNDING,
    Format,
    LoraError,
    LowRank,
    Precision,
    from_peft,
    is_same,
    peft_header,
)
from studio.lora.metadata import (
    ExportInfo,
    Serialised,
    encoded,
    modelspec,
    sidecar,
    storable_info,
    training_fields,
)
from studio.lora.names import TEXT, kohya_name
from studio.weights import ModelError

ENDINGS: dict[Format, str] = {
    "kohya": ".safetensors",
    "original": ".safetensors",
    "diffusers": "-diffusers.safetensors",
}
MAX_FILE_NAME_BYTES = 255


@dataclass(frozen=True)
class ExportReport:
    """The written files, and the finding of each check in plain words."""

    name: str  # the file name made from the artist's name, without an ending
    files: tuple[Path, ...]
    checks: dict[str, str]


def export_lora(
    folder: Path,
    name: str,
    lora_state: Mapping[str, Tensor],
    rank: int,
    alpha: float,
    info: ExportInfo,
    formats: tuple[Format, ...] = FORMATS,
    thumbnail: Image.Image | None = None,
    *,
    precision: Precision = "float32",
    layers: Mapping[str, tuple[int, ...]] | None = None,
    verify: Callable[[Path, Format], dict[str, str]] | None = None,
) -> ExportReport:
    """Write an adapter as LoRA files into `folder`: see `export_parts`.

    `lora_state` holds peft's tensors for the UNet (see `from_peft`), as a saved adapter has them;
    `rank` and `alpha` are the adapter's.
    """
    parts = from_peft(lora_state, rank, alpha)
    return export_parts(
        *(folder, name, parts, info, formats, thumbnail),
        precision=precision,
        layers=layers,
        verify=verify,
    )


def export_parts(
    folder: Path,
    name: str,
    adapter: Mapping[str, LowRank],
    info: ExportInfo,
    formats: tuple[Format, ...] = FORMATS,
    thumbnail: Image.Image | None = None,
    *,
    precision: Precision = "float32",
    layers: Mapping[str, tuple[int, ...]] | None = None,
    verify: Callable[[Path, Format], dict[str, str]] | None = None,
) -> ExportReport:
    """Write changes of layers as LoRA files into `folder`, and check them by reading them back.

    `adapter` holds them by diffusers' names, as `fuse.by_layer` does, all of one rank and alpha.
    `name` may be any text. `layers` has the shapes of the
    base model's layers by name, and must contain all layers of the adapter. `verify` is called with
    each file before it gets its name; it gives findings, or raises LoraError.

    The files are `name.safetensors` (see `written_as`), `name-diffusers.safetensors`, `name.json`
    (the trigger and the strength, which no tool reads from the LoRA itself) and `name.png` (the
    thumbnail), with `name` made a valid file name. They get these names only after all checks have
    passed, and replace existing files in `folder`.

    Raises LoraError with a sentence; then it leaves nothing behind.
    """
    if not formats or set(formats) - set(FORMATS):
        raise LoraError(f"A LoRA can be exported as {' or '.join(FORMATS)}.")
    if info.family not in FAMILIES:
        raise LoraError(f"LoRA files cannot be written for this kind of model ({info.family}).")
    info = storable_info(info)
    if precision not in ROUNDING:
        raise LoraError(f"A LoRA can be written in {', '.join(ROUNDING)}.")
    if layers is not None:
        _require_layers(adapter, layers)
    stem = file_name(name)
    title = _printable(name) or stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drafts = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        try:
            checks: dict[str, str] = {}
            for form in (written_as(wanted, info.family) for wanted in formats):
                draft = drafts / f"{stem}{ENDINGS[form]}"
                content = _lora_file(form, adapter, stem, title, info, thumbnail, precision)
                draft.write_bytes(content)
                findings = check(draft, form, adapter, info.family, precision)
                if layers is not None:
                    findings["base model"] = f"has all {len(adapter)} layers, of these dimensions"
                if verify is not None:
                    findings |= verify(draft, form)
                checks |= {f"{draft.name}: {what}": words for what, words in findings.items()}
            (drafts / f"{stem}.json").write_bytes(sidecar(title, info))
            if thumbnail is not None:
                (drafts / f"{stem}.png").write_bytes(encoded(thumbnail, "PNG"))
            moves = [(draft, folder / draft.name) for draft in sorted(drafts.iterdir())]
            publish(*moves)
        finally:
            shutil.rmtree(drafts, ignore_errors=True)
    except OSError as error:
        raise LoraError(_disk_sentence(error, folder)) from error
    return ExportReport(stem, tuple(path for _, path in moves), checks)


def _require_layers(adapter: Mapping[str, LowRank], layers: Mapping[str, tuple[int, ...]]) -> None:
    """Raise LoraError unless the base model has every layer of the adapter."""
    for name, part in adapter.items():
        if name not in layers:
            raise LoraError(f"The adapter changes {name}, which the base model does not have.")
        if not part.fits(layers[name]):
            raise LoraError(f"The adapter does not fit {name} of the base model.")


# --- names -------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """The text on one line, without control characters and lone surrogates."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


_FORBIDDEN = set('/\\:*?"<>|')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)


def file_name(name: str) -> str:
    """Any text as a file name, without an ending, that is valid on every file system."""
    name = "".join(" " if c in _FORBIDDEN else c for c in unicodedata.normalize("NFC", name))
    name = _printable(name).strip(". ")
    if _RESERVED.match(name):
        name = f"_{name}"
    longest_ending = max(len(ending) for ending in ENDINGS.values())
    name = name.encode()[: MAX_FILE_NAME_BYTES - longest_ending].decode(errors="ignore")
    return name.strip(". ") or "lora"


# --- the files ---------------------------------------------------------------------------------


def written_as(form: Format, family: str) -> Format:
    """The format of a file: for the tools that read kohya's for Stable Diffusion, newer families
    have their original names."""
    return "original" if form == "kohya" and not FAMILIES[family].lora.is_kohya else form


def _names_in_file(form: Format, adapter: Mapping[str, LowRank], family: str) -> dict[str, LowRank]:
    """The adapter by the names of its layers in a file."""
    if form == "original":
        try:
            return flux2.in_original_names(adapter)
        except KeyError as error:
            raise LoraError(f"{error.args[0]} has no name in other tools.") from error
    return {_name_in_file(form, name, family): part for name, part in adapter.items()}


def _name_in_file(form: Format, layer: str, family: str) -> str:
    if form == "kohya":
        return kohya_name(layer, family)
    return layer if layer.startswith(TEXT) else f"{FAMILIES[family].network}.{layer}"


def _lora_file(
    form: Format,
    adapter: dict[str, LowRank],
    stem: str,
    title: str,
    info: ExportInfo,
    thumbnail: Image.Image | None,
    precision: Precision,
) -> bytes:
    named = _names_in_file(form, adapter, info.family)
    tensors = Serialised(lora_format.tensors(form, named, precision))
    fields = modelspec(title, tensors.sha256, info, thumbnail)
    if form != "diffusers":
        fields |= training_fields(named, stem, info)
        fields |= tensors.sd_scripts_hashes(fields)
    else:
        fields |= {"format": "pt", DIFFUSERS_HEADER: peft_header(named)}
    return tensors.content(fields)


# --- reading back ------------------------------------------------------------------------------


def check(
    path: Path,
    form: Format,
    adapter: Mapping[str, LowRank],
    family: str,
    precision: Precision = "float32",
) -> dict[str, str]:
    """Read a LoRA file from the disk and compare its effect with that of the adapter in memory.

    Gives the finding of each check in plain words. Raises LoraError at the first fault.
    """
    try:
        file = lora_format.read(path)
    except ModelError as error:
        raise _failed(path, f"it cannot be read back. {error}") from error
    if file.strays:
        raise _failed(path, f"it holds something unexpected: {file.strays[0]}.")
    expected = _names_in_file(form, adapter, family)
    odd = sorted(set(file.parts) ^ set(expected))
    if odd:
        raise _failed(
            path, f"its layers are not the adapter's: {len(odd)} differ, such as {odd[0]}."
        )
    for name, part in expected.items():
        _check_part(path, name, file.parts[name], part, precision)
    body = weights.body_sha256(path)
    if file.metadata.get("modelspec.hash_sha256") != f"0x{body}":
        raise _failed(path, "its content does not match the hash in its metadata.")
    return {
        "layers": f"{len(file.parts)}, all under the expected names",
        "numbers": "all finite",
        "strength": _strength(form, adapter),
        "effect": "in every layer the same as the adapter's in memory"
        + ("" if precision == "float32" else f", within the rounding of {precision}"),
        "hash": body,
    }


def _strength(form: Format, adapter: Mapping[str, LowRank]) -> str:
    part = next(iter(adapter.values()))
    if form == "original":
        return f"that of rank {part.rank} and alpha {part.alpha:g}, in the numbers themselves"
    return f"rank {part.rank} and alpha {part.alpha:g} in every layer"


def _check_part(
    path: Path, name: str, actual: LowRank, expected: LowRank, precision: Precision
) -> None:
    if (actual.down.shape, actual.up.shape) != (expected.down.shape, expected.up.shape):
        raise _failed(path, f"{name} has other dimensions than in the adapter.")
    if not math.isclose(actual.alpha, expected.alpha, rel_tol=1e-6):
        raise _failed(path, f"{name} has alpha {actual.alpha:g} instead of {expected.alpha:g}.")
    if not is_same(actual, expected, precision):
        raise _failed(path, f"{name} has another effect than in the adapter.")


def _failed(path: Path, what: str) -> LoraError:
    return LoraError(f"The export was stopped: {path.name} was checked, and {what}")


def _disk_sentence(error: OSError, folder: Path) -> str:
    if is_full(error):
        return "The disk is full: the LoRA was not exported. Free some space and try again."
    return f"The LoRA could not be written to {folder}: {error.strerror or error}."
