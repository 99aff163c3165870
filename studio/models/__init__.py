"""Base models: find, inspect, load; the denoiser that the engine is handed; its adapters (peft).

`inspect` says what a file or folder is, `load` makes a `Denoiser` of it; both say in a sentence
what is wrong with a file that is not what it should be. Nothing is fetched from the internet but
what `hub.download` is asked for.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import torch

from studio import weights
from studio.lora import format as lora_format
from studio.lora import fuse
from studio.models import hub
from studio.models.adapters import ReadAdapter
from studio.models.checkpoint import load_checkpoint
from studio.models.denoiser import Denoiser, always
from studio.models.inspecting import VAE_ENDING, ModelInfo, base_path, inspect
from studio.models.parts import Parts, load_folder
from studio.models.text import INVERSIONS, PromptEncoder, Text
from studio.paths import expanded
from studio.settings import StartLora
from studio.weights import ModelError

__all__ = [
    "INVERSIONS",
    "VAE_ENDING",
    "Denoiser",
    "ModelError",
    "ModelInfo",
    "PromptEncoder",
    "ReadAdapter",
    "Text",
    "always",
    "base_path",
    "best_device",
    "frozen_dtype",
    "inspect",
    "load",
    "stamp",
    "weights_hash",
]

log = logging.getLogger("studio.models")


def _weight_files(path: Path) -> list[Path]:
    """In the order of their names. Other tools may put more into a folder of the hub's cache at any
    time: of one, those that are read."""
    if not path.is_dir():
        return [path]
    if path.parent.name != weights.SNAPSHOTS:
        return sorted(path.rglob("*.safetensors"))
    parts = [(path / part, stem) for part, stem in hub.PARTS.items() if (path / part).is_dir()]
    return sorted(file for folder, stem in parts for file in weights.component_files(folder, stem))


def stamp(path: Path) -> tuple[int, int]:
    """(bytes, nanoseconds) of a model's weight files: their size in all, and when the newest was
    changed. Where both are what they were, so are the weights. Raises OSError."""
    found = [file.stat() for file in _weight_files(path)]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def weights_hash(path: Path) -> str:
    """SHA-256 over the weight files of a model, in the order of their names."""
    digest = hashlib.sha256()
    for file in _weight_files(path):
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def frozen_dtype(device: str) -> torch.dtype:
    """The type of the frozen base weights: half the memory where the device is made for it."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def load(
    base_model: str,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    start: StartLora | None = None,
) -> Denoiser:
    """The base model, ready to sample and to be tuned. Raises ModelError with a sentence.

    dtype: of its weights; default: what is best for the device. start: a LoRA that is put into the
    weights, so that it is a part of the base model from now on.
    """
    info = inspect(base_model)
    file = lora_format.read(expanded(start.path)) if start else None
    device = device or best_device()
    read = load_folder if info.path.is_dir() else load_checkpoint
    try:
        parts = read(info, dtype or frozen_dtype(device))
        _require_numbers(info, parts)
        info = replace(info, weights_hash=weights_hash(info.path))
        if file is None or start is None:
            return Denoiser(parts, info, info.weights_hash, device)
        fused = fuse.fuse(file, start.strength, parts.unet, parts.text_encoders)
        base_hash = fuse.hash_with(info.weights_hash, file.sha256, start.strength)
        return Denoiser(parts, info, base_hash, device, fused)
    except ModelError as error:
        raise ModelError(f"{info.name} could not be loaded. {error}") from error
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{info.name} does not fit into the memory of this device.") from error
    except Exception as error:  # what libraries raise for weights that do not fit is of any kind
        log.warning("%s could not be loaded", info.path, exc_info=error)
        raise ModelError(
            f"{info.name} could not be loaded: its weights do not fit together as those of "
            f"{info.words} do. The details are in the log."
        ) from error


def _require_numbers(info: ModelInfo, parts: Parts) -> None:
    for module in (parts.unet, parts.vae, *parts.text_encoders):
        for name, weight in module.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                file = f" of {info.vae.name}" if module is parts.vae and info.vae else ""
                raise ModelError(
                    f"Its weights{file} are not all numbers, in {name}: download it again."
                )
