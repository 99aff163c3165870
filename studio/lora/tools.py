"""What can be done with finished LoRA files: blend them, change their rank, merge one into a model,
change what one says of itself.

Files in the kohya form and in that of diffusers are read, by whomever they were made, as long as
they are plain LoRAs. What is written is in the form that was read, with one rank and one alpha in
all layers, which every tool reads alike; and it is read back and compared before it has its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from studio.lora import export
from studio.lora.export import Format, Module
from studio.models import ModelError, files, loras
from studio.pictures import files as picture_files

UNET = "model.diffusion_model."  # before the names of its weights in the original layout
UNET_STEM = "diffusion_pytorch_model"
MOST_RANK = 1024


class LoraError(Exception):
    """What cannot be done with a LoRA; the message is a sentence."""


@dataclass(frozen=True)
class Lora:
    """A LoRA file: its layers by their names in it, and what it says of itself."""

    form: Format
    modules: Mapping[str, Module]
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(module.down.shape[0] for module in self.modules.values())


def read(path: Path) -> Lora:
    """What `loras.read` finds in a file, to be written anew. Raises ModelError for what is no LoRA
    that can be used here, LoraError for what holds more than can be written anew."""
    file = loras.read(path)
    if file.strays:
        raise LoraError(
            f"{path.name} is not a plain LoRA: it holds {len(file.strays)} parts that would be "
            f"lost, such as {file.strays[0]}."
        )
    found = {name: loras.diffusers_name(name) for name in file.parts}
    form: Format = "kohya" if None in found.values() else "diffusers"
    modules = {
        (found[name] if form == "diffusers" else name) or name: Module(
            part.down.float(), part.up.float(), part.scale * part.down.shape[0]
        )
        for name, part in file.parts.items()
    }
    return Lora(form, modules, file.metadata)


# --- blend and resize ----------------------------------------------------------------------------


def blend(loras: Sequence[Lora], strengths: Sequence[float]) -> Lora:
    """One that changes a model as all of them together, each at its strength; exact.

    Its rank is the sum of theirs. It says of itself what the first of them does.
    """
    first = loras[0]
    if any(lora.form != first.form for lora in loras):
        raise LoraError("Blend files of one form: both for diffusers, or both for other tools.")
    _require_one_base(loras)
    rank = sum(lora.rank for lora in loras)
    parts: dict[str, list[Module]] = {}
    for lora, strength in zip(loras, strengths, strict=True):
        for name, module in lora.modules.items():
            scale = strength * module.alpha / module.down.shape[0]
            parts.setdefault(name, []).append(Module(module.down, module.up * scale, math.nan))
    modules = {}
    for name, found in sorted(parts.items()):
        if len({(one.down.shape[1:], one.up.shape[:1]) for one in found}) != 1:
            raise LoraError(f"The LoRAs were made for different models: {name} does not fit.")
        together = Module(
            torch.cat([one.down for one in found]),
            torch.cat([one.up for one in found], 1),
            float(rank),
        )
        modules[name] = _padded(together, rank)
    return Lora(first.form, modules, first.metadata)


def _require_one_base(loras: Sequence[Lora]) -> None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        said = {lora.metadata[key] for lora in loras if lora.metadata.get(key)}
        if len(said) > 1:
            raise LoraError(
                f"The LoRAs were made for different kinds of model: {', '.join(sorted(said))}."
            )


def resize(lora: Lora, rank: int) -> tuple[Lora, float]:
    """The nearest LoRA of this rank, and how much of the change it keeps in the layer that loses
    most (0 to 1, of the norm)."""
    if not 1 <= rank <= MOST_RANK:
        raise LoraError(f"A rank lies between 1 and {MOST_RANK}.")
    modules, kept = {}, 1.0
    for name, module in lora.modules.items():
        modules[name], share = _resized(module, rank)
        kept = min(kept, share)
    return Lora(lora.form, modules, lora.metadata), kept


def _resized(module: Module, rank: int) -> tuple[Module, float]:
    """By the singular values of up @ down, which those of two small triangles are, too."""
    scale = module.alpha / module.down.shape[0]
    up_basis, up_rest = torch.linalg.qr(module.up.flatten(1).double())
    down_basis, down_rest = torch.linalg.qr(module.down.flatten(1).double().T)
    left, values, right = torch.linalg.svd(scale * (up_rest @ down_rest.T))
    count = min(rank, len(values))
    root = values[:count].sqrt()
    up = (up_basis @ left[:, :count] * root).float()
    down = (root[:, None] * right[:count] @ down_basis.T).float()
    whole = float(values.norm())
    share = float(values[:count].norm()) / whole if whole else 1.0
    made = Module(
        down.reshape(count, *module.down.shape[1:]),
        up.reshape(up.shape[0], count, *module.up.shape[2:]),
        float(rank),
    )
    return _padded(made, rank), share


def _padded(module: Module, rank: int) -> Module:
    """With as many zeros as make it of this rank: all layers of a file have the same."""
    missing = rank - module.down.shape[0]
    down = torch.cat([module.down, module.down.new_zeros(missing, *module.down.shape[1:])])
    up_zeros = module.up.new_zeros(module.up.shape[0], missing, *module.up.shape[2:])
    return Module(down, torch.cat([module.up, up_zeros], 1), module.alpha)


def write(path: Path, lora: Lora, dtype: torch.dtype = torch.float32) -> None:
    """A new file, read back and compared before it has its name.

    What the LoRA says of itself stays, but for its name, rank, alpha and hashes.
    """
    _require_new(path)
    rank = lora.rank
    down, up = ("lora_down", "lora_up") if lora.form == "kohya" else ("lora_A", "lora_B")
    tensors: dict[str, Tensor] = {}
    for name, module in lora.modules.items():
        tensors[f"{name}.{down}.weight"] = module.down.to(dtype).contiguous()
        tensors[f"{name}.{up}.weight"] = module.up.to(dtype).contiguous()
        if lora.form == "kohya":
            tensors[f"{name}.alpha"] = torch.tensor(module.alpha)
    body = hashlib.sha256(_body(safetensors.torch.save(tensors))).hexdigest()
    metadata = dict(lora.metadata)
    if "modelspec.title" in metadata:
        metadata |= {"modelspec.title": path.stem, "modelspec.hash_sha256": f"0x{body}"}
    if lora.form == "kohya":
        training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
        training |= {
            "ss_output_name": path.stem,
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(float(rank)),
        }
        window = safetensors.torch.save(tensors, training)[0x100000:0x110000]
        metadata |= training
        metadata |= {
            "sshs_model_hash": body,
            "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
        }
    else:
        targets: dict[str, list[str]] = {}  # by parts of the model
        for name in sorted(lora.modules):
            part, _, layer = name.partition(".")
            targets.setdefault(part, []).append(layer)
        said: dict[str, Any] = {}
        for part, layers in targets.items():
            said |= {f"{part}.r": rank, f"{part}.lora_alpha": float(rank)}
            said[f"{part}.target_modules"] = layers
        metadata[export.DIFFUSERS_HEADER] = json.dumps(said)
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]

    def look(draft: Path) -> None:
        found = read(draft)
        same = found.modules.keys() == lora.modules.keys() and all(
            (found.modules[name].change() - module.change()).norm()
            <= rounding * module.change().norm()
            for name, module in lora.modules.items()
        )
        if not same:
            raise LoraError(f"{path.name} was not written: read back, it was not the same.")

    _publish(path, lambda draft: safetensors.torch.save_file(tensors, draft, metadata), look)


def _body(data: bytes) -> bytes:
    return data[8 + int.from_bytes(data[:8], "little") :]


# --- what a file says of itself ------------------------------------------------------------------

# Without these a tool would load the file in another way, or not at all. What it was taught on top
# of is no private matter either: it does little without that.
NEEDED_TO_LOAD = (
    "format",
    export.DIFFUSERS_HEADER,
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
# What can be said anew, by the names of the modelspec.
WORDS = ("title", "description", "author", "trigger_phrase", "license", "thumbnail")
CHUNK_BYTES = 1 << 20
PICTURE_KINDS = ("PNG", "JPEG", "WEBP")
_LAYER = re.compile(r"lora|hada_|lokr_|oft_|dora_")


def restate(
    path: Path, out: Path, words: Mapping[str, str], *, strip: bool = False
) -> dict[str, str]:
    """A copy of a LoRA file, of whatever kind, that says other things of itself; gives those.

    words: of `WORDS`; an empty one takes away what was said. strip: all that is not needed to load
    the file is left out first; it takes any safetensors file. What the format does not allow a file
    to say, and what no program reads for that, is put right. The tensors are the same, to the byte,
    and the hashes those of the new file. What it says is read back before it has its name. Raises
    ModelError for what is no safetensors file, LoraError for what is no LoRA.
    """
    _require_new(out)
    header = files.read_header(path, is_clean=False)
    if not strip and not any(map(_LAYER.search, header.tensors)):
        raise LoraError(f"{path.name} is not a LoRA.")
    said = dict(header.metadata)
    if strip:
        said = {key: value for key, value in said.items() if key in NEEDED_TO_LOAD}
    for key, value in words.items():
        said.pop(f"modelspec.{key}", None)
        if value:
            said[f"modelspec.{key}"] = value
    said = {_storable(key): _storable(value) for key, value in said.items()}
    body_hash, stem = _body_hash(path), _storable(out.stem)
    if any(key.startswith("modelspec.") for key in said):
        version = said.get("ss_base_model_version")
        for family in export.FAMILIES.values():
            if family.base_version == version:
                said.setdefault("modelspec.architecture", family.architecture)
        said.setdefault("modelspec.sai_model_spec", "1.0.1")
        said.setdefault("modelspec.title", stem)
        said["modelspec.hash_sha256"] = f"0x{body_hash}"
    if any(key.startswith("ss_") for key in said):
        said["ss_output_name"] = stem  # A1111's alias: must be the file's name
        said["sshs_model_hash"] = body_hash
        said["sshs_legacy_hash"] = _legacy_hash(path, said)

    def look(draft: Path) -> None:
        if _body_hash(draft) != body_hash or files.read_header(draft).metadata != said:
            raise LoraError(f"{out.name} was not written: read back, it was not the same.")

    def write_draft(draft: Path) -> None:
        with draft.open("wb") as target:
            _write_restated(path, target, said)

    _publish(out, write_draft, look)
    return said


def _storable(text: str) -> str:
    """Without the lone surrogates that no file can hold."""
    return text.encode(errors="replace").decode()


def _write_restated(source: Path, copy: BinaryIO, said: Mapping[str, str]) -> None:
    """The source's own bytes, behind a header with other words about them."""
    with source.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        text = json.dumps({"__metadata__": said, **header}, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # so that the numbers lie where a processor likes them
        copy.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(file, copy, CHUNK_BYTES)


def _body_hash(path: Path) -> str:
    """SHA-256 of a safetensors file after its header."""
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _legacy_hash(path: Path, said: Mapping[str, str]) -> str:
    """A1111's old hash: over a window of the file as sd-scripts would have saved it."""
    training = {key: value for key, value in said.items() if key.startswith("ss_")}
    clean = io.BytesIO()
    _write_restated(path, clean, {})
    tensors = safetensors.torch.load(clean.getvalue())
    window = safetensors.torch.save(tensors, training)[0x100000:0x110000]
    return hashlib.sha256(window).hexdigest()[:8]


def thumbnail(path: Path) -> str:
    """A picture as the modelspec keeps it. Raises LoraError for what is none."""
    try:
        with PIL.Image.open(path, formats=PICTURE_KINDS) as picture:
            return export.thumbnail_url(picture_files.rgb(picture))
    except (
        OSError,
        ValueError,
        SyntaxError,
        PIL.Image.DecompressionBombError,
        PIL.Image.DecompressionBombWarning,
    ) as error:
        raise LoraError(f"{path} is no picture that can be read (PNG, JPEG or WebP).") from error


# --- merge ---------------------------------------------------------------------------------------


def merge(
    lora: Lora,
    strength: float,
    model: Path,
    family: str,
    layers: Mapping[str, tuple[int, ...]],
    out: Path,
) -> int:
    """A copy of a base model with the LoRA in its weights; gives how many layers were changed.

    model: a file in the original layout or a diffusers folder, and `out` is the same. family: a key
    of `export.FAMILIES`. layers: of the UNet, by name (`Denoiser.layer_shapes`). The weights keep
    their type. Raises LoraError when a layer of the LoRA is neither an attention layer
    nor a shortcut of this model.
    """
    _require_new(out)
    changes = {
        name: strength * module.change() for name, module in _by_layer(lora, family, layers).items()
    }
    if model.is_dir():
        _, variant = files.component_header(model / "unet", UNET_STEM)
        weights = f"{UNET_STEM}.{variant}.safetensors" if variant else f"{UNET_STEM}.safetensors"
        if not (model / "unet" / weights).is_file():
            raise LoraError("The UNet of this folder lies in several files: merge into one file.")
        keys = {f"{name}.weight": change for name, change in changes.items()}

        def copy(draft: Path) -> None:
            shutil.copytree(model, draft)
            (draft / "unet" / weights).unlink()
            _write_merged(model / "unet" / weights, draft / "unet" / weights, keys)

        _publish(out, copy, lambda draft: None)
    else:
        keys = {
            f"{UNET}{export.original_name(name)}.weight": change for name, change in changes.items()
        }
        _publish(out, lambda draft: _write_merged(model, draft, keys), lambda draft: None)
    return len(changes)


def _by_layer(lora: Lora, family: str, layers: Mapping[str, tuple[int, ...]]) -> dict[str, Module]:
    """The LoRA's modules by the names of the model's layers."""
    names: dict[str, str] = {}
    for layer in layers:
        if ".attentions." in layer or layer.endswith(".conv_shortcut"):
            names[f"unet.{layer}"] = layer
            names[export.kohya_name(layer, family)] = layer
            names[export.kohya_name(layer, "sd1")] = layer  # of SDXL, which some trainers use
    found = {}
    for name, module in lora.modules.items():
        layer = names.get(name)
        if layer is None:
            raise LoraError(
                "Only what changes the attention and the shortcuts of the UNet can be merged, and "
                f"{name} is not that in this model."
            )
        if layers[layer] != (module.up.shape[0], *module.down.shape[1:]):
            raise LoraError(f"The LoRA was made for another kind of model: {layer} does not fit.")
        found[layer] = module
    return found


def _write_merged(source: Path, target: Path, changes: Mapping[str, Tensor]) -> None:
    """All tensors of a file, with the changes added to those that they name; looked at after."""
    with safe_open(source, "pt") as file:
        missing = sorted(changes.keys() - set(file.keys()))
        if missing:
            raise LoraError(f"{source.name} has no {missing[0]}: it is named in another way.")
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, change in changes.items():
        before = tensors[key]
        tensors[key] = (before.float() + change.reshape(before.shape)).to(before.dtype)
        if not bool(tensors[key].isfinite().all()):
            raise LoraError(f"At this strength {key} is too large for the model's numbers.")
    safetensors.torch.save_file(tensors, target, metadata)
    with safe_open(target, "pt") as written:
        if not all(torch.equal(written.get_tensor(key), value) for key, value in tensors.items()):
            raise LoraError(f"{target.name} was not written: read back, it was not the same.")


# --- the disk ------------------------------------------------------------------------------------


def _require_new(path: Path) -> None:
    if path.exists():
        raise LoraError(f"There is something at {path} already: choose another name.")


def _publish(path: Path, write_draft: Callable[[Path], None], look: Callable[[Path], None]) -> None:
    """Nothing has the name before it is whole."""
    draft = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_draft(draft)
        look(draft)
        draft.rename(path)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path} could not be written: {error}.") from error
    except ModelError as error:
        raise LoraError(str(error)) from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
