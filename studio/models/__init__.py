"""Base models: finding, inspecting and loading them; the engine's denoiser and its adapters (peft).

`inspect` recognises a file or folder, `load` makes a `Denoiser` of it; both raise ModelError with a
sentence for an unusable file. Only `hub.download` ever uses the internet.
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
    """The weight files of a model, sorted by name. From a folder of the hub's cache, to which other
    tools may add files at any time, only those that the studio reads."""
    if not path.is_dir():
        return [path]
    if path.parent.name != weights.SNAPSHOTS:
        return sorted(path.rglob("*.safetensors"))
    parts = [(path / part, stem) for part, stem in hub.PARTS.items() if (path / part).is_dir()]
    return sorted(file for folder, stem in parts for file in weights.component_files(folder, stem))


def stamp(path: Path) -> tuple[int, int]:
    """(bytes, nanoseconds): the total size of a model's weight files, and the newest modification
    time. While both are unchanged, so are the weights. Raises OSError."""
    stats = [file.stat() for file in _weight_files(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def weights_hash(path: Path) -> str:
    """SHA-256 over the weight files of a model, sorted by name."""
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
    """The type of the frozen base weights: 16 bits on CUDA, else 32."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def load(
    base_model: str,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    start: StartLora | None = None,
) -> Denoiser:
    """Load a base model for sampling and training. Raises ModelError with a sentence.

    dtype: of its weights; default: the best for the device. start: a LoRA that is fused into the
    weights and becomes part of the base model.
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
        fused = fuse.fuse(file, start.strength, parts.network, parts.text_encoders)
        base_hash = fuse.hash_with(info.weights_hash, file.sha256, start.strength)
        return Denoiser(parts, info, base_hash, device, fused)
    except ModelError as error:
        raise ModelError(f"{info.name} could not be loaded. {error}") from error
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{info.name} does not fit into the memory of this device.") from error
    except Exception as error:  # libraries raise many kinds of error for weights that do not fit
        log.warning("%s could not be loaded", info.path, exc_info=error)
        raise ModelError(
            f"{info.name} could not be loaded: its weights do not fit together like those of "
            f"{info.words}. The details are in the log."
        ) from error


def _require_numbers(info: ModelInfo, parts: Parts) -> None:
    for module in (parts.network, parts.vae, *parts.text_encoders):
        for name, weight in module.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                file = f" of {info.vae.name}" if module is parts.vae and info.vae else ""
                raise ModelError(
                    f"Its weights{file} are not all numbers, in {name}: download it again."
                )
