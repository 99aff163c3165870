"""An adapter becomes LoRA files that other tools load.

Two forms of one adapter. *kohya* is the one that AUTOMATIC1111, Forge, ComfyUI, InvokeAI,
sd-scripts, stable-diffusion.cpp and diffusers all read: a down, an up and an alpha a module,
applied as `alpha / rank × up @ down × strength`. *diffusers* is for diffusers alone; nothing is
renamed there.

Key counts prove little: a wrong alpha, or up and down exchanged, loads without a word in most
readers. So each file is read back from the disk, and what it *does* to every module is compared
with the adapter in memory, before it is given its final name.

Nothing of ours is imported here: plain dictionaries in, files out.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from studio import __version__

Format = Literal["kohya", "diffusers"]
FORMATS: tuple[Format, ...] = ("kohya", "diffusers")

Precision = Literal["float32", "float16", "bfloat16"]
# How far rounding may move what a module does, relative to it.
ROUNDING: dict[Precision, float] = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}

DIFFUSERS_HEADER = (
    "lora_adapter_metadata"  # the header key in which diffusers looks for r and alpha
)
MAX_FILE_NAME_BYTES = 255
THUMBNAIL_PX = 256


class ExportError(Exception):
    """An export that was not made; the message is a sentence for the artist."""


@dataclass(frozen=True)
class Family:
    """How the tools name the models that a LoRA fits."""

    base_version: str  # ss_base_model_version: without it A1111 takes everything for SD 1
    v2: bool
    architecture: str  # modelspec.architecture
    sd_version: str  # "sd version" in the .json beside the file
    original_names: bool = False  # UNet blocks by their names in the original checkpoint


FAMILIES = {
    "sd1": Family("sd_v1", False, "stable-diffusion-v1/lora", "SD1"),
    "sd2": Family("sd_v2", True, "stable-diffusion-v2-512/lora", "SD2"),
    "sd2_v": Family("sd_v2_v", True, "stable-diffusion-v2-768-v/lora", "SD2"),
    "sdxl": Family("sdxl_base_v1-0", False, "stable-diffusion-xl-v1-base/lora", "SDXL", True),
}


@dataclass(frozen=True)
class StartedFrom:
    """Another LoRA, which was in the base model when this one was taught."""

    name: str
    sha256: str
    strength: float

    def __str__(self) -> str:
        return f"{self.name} at strength {self.strength:g}"


@dataclass(frozen=True)
class ExportInfo:
    """What a LoRA file says about itself.

    family: a key of `FAMILIES`; the starter model has the names of "sd1".
    base_model: the name of the model it was made for, as an artist would say it.
    trigger: words that belong in the prompt, if any. strength: what the artist recommends.
    exam: what blind exams found, in a sentence. exams: the same in numbers, one a strength.
    start: another LoRA that it must be used together with.
    """

    family: str
    base_model: str
    picks: int
    trained_at_s: float
    base_hash: str = ""
    prediction_type: str = "epsilon"
    width_px: int = 512
    height_px: int = 512
    clip_skip: int = 1
    trigger: str = ""
    strength: float = 1.0
    licence: str = ""
    author: str = ""
    notes: str = ""
    exam: str = ""
    exams: tuple[dict[str, float], ...] = ()
    start: StartedFrom | None = None


@dataclass(frozen=True)
class ExportReport:
    """The files that were written, and in plain words what was checked and what was found."""

    name: str  # the file name the artist's name became, without an ending
    files: tuple[Path, ...]
    checks: dict[str, str]


@dataclass(frozen=True)
class Module:
    """One low-rank change: `alpha / rank × up @ down`."""

    down: Tensor  # (rank, in) or (rank, in, kh, kw)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    alpha: float

    def change(self) -> Tensor:
        return self.alpha / self.down.shape[0] * (self.up.flatten(1) @ self.down.flatten(1))


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
    look: Callable[[Path, Format], dict[str, str]] | None = None,
) -> ExportReport:
    """Write an adapter as LoRA files into `folder`, and check them by reading them back.

    `lora_state` is what peft gives for the UNet: `<module>.lora_A.weight` and `.lora_B.weight`,
    with or without the prefix `base_model.model.` (so the content of `adapter_model.safetensors`
    will do); `rank` and `alpha` are the adapter's. `name` may be anything an artist types.
    `layers` are the shapes of the base model's layers by name: each of the adapter's must be among
    them. `look` is shown each written file before it gets its name, and gives what it found, or
    raises ExportError.

    Written are, for the file name that `name` becomes: `name.safetensors` (kohya),
    `name-diffusers.safetensors`, `name.json` (the trigger and the strength, which no tool reads
    from the LoRA itself) and `name.png` (the thumbnail). They appear under these names only after
    every check has passed; files of these names already in `folder` are replaced.

    Raises ExportError with a sentence, and then leaves nothing behind.
    """
    if not formats or set(formats) - set(FORMATS):
        raise ExportError(f"A LoRA can be exported as {' or '.join(FORMATS)}.")
    if info.family not in FAMILIES:
        raise ExportError(f"LoRA files cannot be written for this kind of model ({info.family}).")
    info = _storable(info)
    if precision not in ROUNDING:
        raise ExportError(f"A LoRA can be written in {', '.join(ROUNDING)}.")
    adapter = read_peft(lora_state, rank, alpha)
    if layers is not None:
        _require_layers(adapter, layers)
    stem = file_name(name)
    title = _printable(name) or stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drafts = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        try:
            checks: dict[str, str] = {}
            for form in formats:
                draft = drafts / f"{stem}{ENDINGS[form]}"
                content = _lora_file(form, adapter, stem, title, info, thumbnail, precision)
                _write(draft, content)
                findings = check(draft, form, adapter, info.family, precision)
                if layers is not None:
                    findings["base model"] = f"has all {len(adapter)} layers, of these dimensions"
                if look is not None:
                    findings |= look(draft, form)
                checks |= {f"{draft.name}: {what}": found for what, found in findings.items()}
            _write(drafts / f"{stem}.json", _sidecar(title, info))
            if thumbnail is not None:
                _write(drafts / f"{stem}.png", _encoded(thumbnail, "PNG"))
            files = tuple(_publish(draft, folder) for draft in sorted(drafts.iterdir()))
            _sync_folder(folder)
        finally:
            shutil.rmtree(drafts, ignore_errors=True)
    except OSError as error:
        raise ExportError(_disk_sentence(error, folder)) from error
    return ExportReport(stem, files, checks)


ENDINGS: dict[Format, str] = {"kohya": ".safetensors", "diffusers": "-diffusers.safetensors"}


# --- the adapter -------------------------------------------------------------------------------


def read_peft(lora_state: Mapping[str, Tensor], rank: int, alpha: float) -> dict[str, Module]:
    """peft's tensors as modules by name, in float32; refuses what a LoRA file cannot say."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in lora_state.items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight", key)
        if match is None:
            raise ExportError(f"The adapter holds something that is not a plain LoRA: {key}.")
        halves.setdefault(match[1], {})[match[2]] = tensor.detach().to("cpu", torch.float32)
    if not halves:
        raise ExportError("The adapter is empty: train a round first.")
    for module, half in halves.items():
        if set(half) != {"A", "B"}:
            raise ExportError(f"The adapter is incomplete: {module} has only one half.")
        if half["A"].shape[0] != rank or half["B"].shape[1] != rank:
            raise ExportError(f"The adapter does not have rank {rank} everywhere: see {module}.")
        if not all(tensor.isfinite().all() for tensor in half.values()):
            raise ExportError(f"The adapter holds numbers that are not finite, in {module}.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ExportError("The adapter's alpha must be a number greater than 0.")
    return {module: Module(half["A"], half["B"], alpha) for module, half in sorted(halves.items())}


def _require_layers(adapter: Mapping[str, Module], layers: Mapping[str, tuple[int, ...]]) -> None:
    """Every module of the adapter must change a layer that the base model has."""
    for name, module in adapter.items():
        if name not in layers:
            raise ExportError(f"The adapter changes {name}, which the base model does not have.")
        if layers[name] != (module.up.shape[0], *module.down.shape[1:]):
            raise ExportError(f"The adapter does not fit {name} of the base model.")


# --- names -------------------------------------------------------------------------------------


def kohya_name(module: str, family: str) -> str:
    """`lora_unet_` and the module's name; for SDXL its name in the original checkpoint."""
    if FAMILIES[family].original_names:
        module = original_name(module)
    return "lora_unet_" + module.replace(".", "_")


def original_name(module: str) -> str:
    """diffusers' name of an attention layer or a shortcut as the original checkpoint has it."""
    match = re.fullmatch(
        r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(attentions|resnets)\.(\d+)\.(.+)", module
    )
    is_shortcut = match is not None and match[3] == "resnets"
    if match is None or (is_shortcut and match[5] != "conv_shortcut"):
        raise ExportError(f"Only attention layers and shortcuts can be exported, not {module}.")
    part, block, index = match[1], int(match[2] or 0), int(match[4])
    # Three modules a block: two layers and a downsampler going down, three layers going up; going
    # down, conv_in comes first. A layer is a residual block, and an attention after it.
    place, rest = (0, "skip_connection") if is_shortcut else (1, match[5])
    where = {
        "down": f"input_blocks.{3 * block + index + 1}.{place}",
        "mid": f"middle_block.{2 * index if is_shortcut else 1}",
        "up": f"output_blocks.{3 * block + index}.{place}",
    }
    return f"{where[part]}.{rest}"


def _printable(text: str) -> str:
    """One line of what can be seen and stored: no control characters, no lone surrogates."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


_FORBIDDEN = set('/\\:*?"<>|')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)


def file_name(name: str) -> str:
    """What an artist typed, as a file name (without an ending) that every file system takes."""
    name = "".join(" " if c in _FORBIDDEN else c for c in unicodedata.normalize("NFC", name))
    name = _printable(name).strip(". ")
    if _RESERVED.match(name):
        name = f"_{name}"
    longest_ending = max(len(ending) for ending in ENDINGS.values())
    name = name.encode()[: MAX_FILE_NAME_BYTES - longest_ending].decode(errors="ignore")
    return name.strip(". ") or "lora"


# --- the files ---------------------------------------------------------------------------------


def _lora_file(
    form: Format,
    adapter: dict[str, Module],
    stem: str,
    title: str,
    info: ExportInfo,
    thumbnail: Image.Image | None,
    precision: Precision,
) -> bytes:
    tensors = kohya_tensors(adapter, info.family) if form == "kohya" else diffusers_tensors(adapter)
    dtype = getattr(torch, precision)
    # An alpha is a number by itself, and stays exact.
    tensors = {key: value.to(dtype) if value.ndim else value for key, value in tensors.items()}
    body_hash = hashlib.sha256(_body(safetensors.torch.save(tensors))).hexdigest()
    metadata = _modelspec(title, body_hash, info, thumbnail)
    if form == "kohya":
        training = _training_metadata(adapter, stem, info)
        # The old hash of A1111: over a window of the file as sd-scripts would have saved it.
        window = safetensors.torch.save(tensors, training)[0x100000:0x110000]
        metadata |= training
        metadata |= {
            "sshs_model_hash": body_hash,
            "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
        }
    else:
        metadata |= {"format": "pt", DIFFUSERS_HEADER: _peft_configuration(adapter)}
    return safetensors.torch.save(tensors, metadata)


def kohya_tensors(adapter: Mapping[str, Module], family: str) -> dict[str, Tensor]:
    tensors = {}
    for name, module in adapter.items():
        key = kohya_name(name, family)
        tensors[f"{key}.lora_down.weight"] = module.down.contiguous()
        tensors[f"{key}.lora_up.weight"] = module.up.contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(module.alpha)
    return tensors


def diffusers_tensors(adapter: Mapping[str, Module]) -> dict[str, Tensor]:
    tensors = {}
    for name, module in adapter.items():
        tensors[f"unet.{name}.lora_A.weight"] = module.down.contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = module.up.contiguous()
    return tensors


def _peft_configuration(adapter: Mapping[str, Module]) -> str:
    """Only what differs from peft's defaults: a key that another peft does not know is refused."""
    module = next(iter(adapter.values()))
    configuration = {
        "r": module.down.shape[0],
        "lora_alpha": module.alpha,
        "target_modules": sorted(adapter),
    }
    return json.dumps({f"unet.{key}": value for key, value in configuration.items()})


def _training_metadata(
    adapter: Mapping[str, Module], stem: str, info: ExportInfo
) -> dict[str, str]:
    """The `ss_` fields, by which A1111, Forge and others sort and show a LoRA."""
    family = FAMILIES[info.family]
    module = next(iter(adapter.values()))
    return {
        "ss_base_model_version": family.base_version,
        "ss_v2": str(family.v2),
        "ss_output_name": stem,  # A1111's alias: must be the file's name
        "ss_sd_model_name": info.base_model,
        "ss_clip_skip": str(info.clip_skip) if info.clip_skip > 1 else "None",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(module.down.shape[0]),
        "ss_network_alpha": str(module.alpha),
        "ss_network_args": "{}",
        "ss_training_started_at": str(info.trained_at_s),
        "ss_training_comment": _description(info),
    }


def _storable(info: ExportInfo) -> ExportInfo:
    """Without the lone surrogates that a command line can hand over and no file can hold."""
    texts = {k: v for k, v in dataclasses.asdict(info).items() if isinstance(v, str)}
    texts = {key: text.encode(errors="replace").decode() for key, text in texts.items()}
    start = info.start
    if start is not None:
        name = start.name.encode(errors="replace").decode()
        start = dataclasses.replace(start, name=name)
    return dataclasses.replace(info, start=start, **texts)


def _modelspec(
    title: str, body_hash: str, info: ExportInfo, thumbnail: Image.Image | None
) -> dict[str, str]:
    made_at = datetime.fromtimestamp(info.trained_at_s, UTC)
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": FAMILIES[info.family].architecture,
        "implementation": "diffusers",
        "title": title,
        "description": _description(info),
        "author": info.author,
        "date": made_at.isoformat(timespec="seconds"),
        "hash_sha256": f"0x{body_hash}",
        "trigger_phrase": info.trigger,
        "usage_hint": " ".join([f"Recommended strength: {info.strength:g}.", *_together(info)]),
        "license": info.licence,
        "prediction_type": "v" if info.prediction_type.startswith("v") else info.prediction_type,
        "resolution": f"{info.width_px}x{info.height_px}",
        "thumbnail": thumbnail_url(thumbnail) if thumbnail is not None else "",
    }
    own = {
        "d3po_studio.picks": str(info.picks),
        "d3po_studio.strength": f"{info.strength:g}",
        "d3po_studio.base_model": info.base_model,
        "d3po_studio.base_hash": info.base_hash,
    }
    if info.start:
        own |= {
            "d3po_studio.start_lora": info.start.name,
            "d3po_studio.start_lora_sha256": info.start.sha256,
            "d3po_studio.start_lora_strength": f"{info.start.strength:g}",
        }
    if info.exams:
        own |= {"d3po_studio.exam": info.exam, "d3po_studio.exams": json.dumps(info.exams)}
    return {f"modelspec.{key}": value for key, value in fields.items() if value} | own


def _description(info: ExportInfo) -> str:
    picks = "1 pick" if info.picks == 1 else f"{info.picks} picks"
    sentences = [f"Tuned with D3PO Studio {__version__} from {picks} by its maker."]
    if info.base_model:
        sentences.append(f"Made for {info.base_model}.")
    sentences += _together(info)
    if info.exam:
        sentences.append(info.exam)
    if info.notes:
        sentences.append(info.notes)
    return " ".join(sentences)


def _together(info: ExportInfo) -> list[str]:
    """What was taught is only the difference that came after the other LoRA."""
    if info.start is None:
        return []
    return [f"It was taught on top of the LoRA {info.start}: use both together."]


def _sidecar(title: str, info: ExportInfo) -> bytes:
    """A1111 reads the trigger and the strength from here, and nowhere else."""
    fields: dict[str, object] = {
        "description": f"{title}. {_description(info)}",
        "sd version": FAMILIES[info.family].sd_version,
        "activation text": info.trigger,
        "preferred weight": info.strength,
        "notes": f"Licence: {info.licence}." if info.licence else "",
    }
    if info.exams:
        fields["d3po_studio"] = {"exam": info.exam, "exams": info.exams}
    return json.dumps(fields, indent=2, ensure_ascii=False).encode()


def _encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


def thumbnail_url(picture: Image.Image) -> str:
    """A picture as `modelspec.thumbnail` holds it, small."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return (
        f"data:image/jpeg;base64,{base64.b64encode(_encoded(small, 'JPEG', quality=85)).decode()}"
    )


def _body(data: bytes) -> bytes:
    """A safetensors file after its header, which is 8 bytes of length and so many of JSON."""
    return data[8 + int.from_bytes(data[:8], "little") :]


# --- reading back ------------------------------------------------------------------------------


def check(
    path: Path,
    form: Format,
    adapter: Mapping[str, Module],
    family: str,
    precision: Precision = "float32",
) -> dict[str, str]:
    """Read a LoRA file from the disk and compare all it does with the adapter in memory.

    Gives what was checked and what was found, in plain words. Raises ExportError at the first
    thing that is wrong.
    """
    found, metadata, body_hash = read_lora(path, form)
    expected = {
        kohya_name(name, family) if form == "kohya" else f"unet.{name}": module
        for name, module in adapter.items()
    }
    odd = sorted(set(found) ^ set(expected))
    if odd:
        raise _failed(path, f"its layers are not the adapter's: {len(odd)} differ, as {odd[0]}")
    for name, module in expected.items():
        _check_module(path, name, found[name], module, ROUNDING[precision])
    if metadata.get("modelspec.hash_sha256") != f"0x{body_hash}":
        raise _failed(path, "its content does not have the hash written in it")
    module = next(iter(adapter.values()))
    return {
        "layers": f"{len(found)}, all under the names that are expected",
        "numbers": "all finite",
        "strength": f"rank {module.down.shape[0]} and alpha {module.alpha:g} in every layer",
        "effect": "in every layer the same as the adapter's in memory"
        + ("" if precision == "float32" else f", to within what {precision} can hold"),
        "hash": body_hash,
    }


def _check_module(path: Path, name: str, found: Module, expected: Module, rounding: float) -> None:
    if (found.down.shape, found.up.shape) != (expected.down.shape, expected.up.shape):
        raise _failed(path, f"{name} has other dimensions than in the adapter")
    if not (found.down.isfinite().all() and found.up.isfinite().all()):
        raise _failed(path, f"{name} holds numbers that are not finite")
    if not math.isclose(found.alpha, expected.alpha, rel_tol=1e-6):
        raise _failed(path, f"{name} has alpha {found.alpha:g} instead of {expected.alpha:g}")
    wanted = expected.change()
    if (found.change() - wanted).norm() > rounding * wanted.norm():
        raise _failed(path, f"{name} changes the model in another way than the adapter does")


def read_lora(path: Path, form: Format) -> tuple[dict[str, Module], dict[str, str], str]:
    """A LoRA file as its readers see it: modules by their names in it, metadata, content's hash."""
    data = path.read_bytes()  # not mapped: Windows could not give a mapped file its final name
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise _failed(path, "it cannot be read back") from error
    metadata = json.loads(data[8 : len(data) - len(_body(data))]).get("__metadata__", {})
    down, up = {
        "kohya": ("lora_down.weight", "lora_up.weight"),
        "diffusers": ("lora_A.weight", "lora_B.weight"),
    }[form]
    modules = {}
    for key in [key for key in tensors if key.endswith(down)]:
        name = key.removesuffix(f".{down}")
        if f"{name}.{up}" not in tensors:
            raise _failed(path, f"{name} has no upper half")
        half_down, half_up = tensors.pop(key), tensors.pop(f"{name}.{up}")
        rank = half_down.shape[0]  # which is what every reader takes a missing alpha for
        if form == "kohya":
            alpha = tensors.pop(f"{name}.alpha", torch.tensor(rank)).item()
        else:
            alpha = json.loads(metadata.get(DIFFUSERS_HEADER, "{}")).get("unet.lora_alpha", rank)
        modules[name] = Module(half_down.float(), half_up.float(), float(alpha))
    if tensors:
        raise _failed(path, f"it holds something unexpected: {min(tensors)}")
    return modules, metadata, hashlib.sha256(_body(data)).hexdigest()


def _failed(path: Path, what: str) -> ExportError:
    return ExportError(f"The export was not finished: {path.name} was checked, and {what}.")


# --- the disk ----------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _publish(draft: Path, folder: Path) -> Path:
    """Give a checked file its final name; a file of that name is replaced in one step."""
    return draft.replace(folder / draft.name)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows neither needs this nor can it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _disk_sentence(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: the LoRA was not exported. Free some space and try again."
    return f"The LoRA could not be written to {folder}: {error.strerror or error}."
