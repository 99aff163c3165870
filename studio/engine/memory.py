"""Presets that fit a round into the available memory, the largest first.

A round begins with the preset for the free memory, and steps down to the next smaller one whenever
the device runs out (`studio.engine.microbatches`). Presets change how a round is computed, never
its result: apart from rounding, every preset ends in the same adapter. A round that begins with a
small preset keeps 8-bit optimizer states, whose rounding is coarser.

Autograd keeps, for one latent of 512 px through the full-size UNet in half precision, 0.80 GB with
SD 1 and 2.03 GB with SDXL; with gradient checkpointing a fifth of it or less (counted by
`bench full-size`). The weights add 1.7 GB and 5.1 GB. A place of a latent of a transformer takes as
much as many of a UNet's: `Family.memory` (counted by `python -m studio.bench.flux2`).
"""

from __future__ import annotations

import ctypes
import logging
import sys
from dataclasses import dataclass

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size

log = logging.getLogger("studio.worker")

LATENT_512_PX = 64 * 64  # h x w of the latent of a picture of 512 px
HALF_BYTES = 2  # of a float16 or bfloat16


@dataclass(frozen=True)
class Preset:
    """For a device with `gb` free.

    latents: latents of 512 px per forward pass while training in half precision with gradient
        checkpointing, which computes everything twice and keeps little.
    latents_kept: the same without checkpointing. A round that needs no more trains without it.
    model_cpu_offload: text encoders and VAE are on the device only while they work.
    vae_tiling: large pictures are decoded in tiles, whose seams a close look can show.
    optimizer_8bit: optimizer states have 8 bits where bitsandbytes is installed.
    """

    gb: int
    latents: int
    latents_kept: int
    model_cpu_offload: bool = False
    vae_tiling: bool = False
    optimizer_8bit: bool = False


def cost(latents: int, positions: float, number_bytes: int) -> float:
    """The memory of latents of `positions` (h x w) each, in latents of 512 px in half precision."""
    return latents * positions * number_bytes / (LATENT_512_PX * HALF_BYTES)


PRESETS = (
    Preset(24, latents=32, latents_kept=8),
    Preset(16, latents=16, latents_kept=4),
    Preset(12, latents=8, latents_kept=2, model_cpu_offload=True),
    Preset(
        8, latents=4, latents_kept=1, model_cpu_offload=True, vae_tiling=True, optimizer_8bit=True
    ),
    Preset(
        6, latents=2, latents_kept=0, model_cpu_offload=True, vae_tiling=True, optimizer_8bit=True
    ),
)


def preset_for(gb: float | None) -> Preset:
    """The largest preset that fits; None stands for an unknown size."""
    if gb is None:
        return PRESETS[0]
    return next((preset for preset in PRESETS if preset.gb <= gb), PRESETS[-1])


def smaller(preset: Preset) -> Preset:
    """The next smaller preset; the smallest gives itself."""
    return PRESETS[min(PRESETS.index(preset) + 1, len(PRESETS) - 1)]


def uses_8bit_optimizer(preset: Preset, device: torch.device) -> bool:
    """Whether a round that begins with this preset has 8-bit optimizer states."""
    wanted = preset.optimizer_8bit and device.type == "cuda"
    return wanted and eight_bit_adamw() is not None


def eight_bit_adamw() -> type[torch.optim.Optimizer] | None:
    """AdamW8bit of bitsandbytes, which is no dependency of the studio; None if not importable."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except Exception as error:  # of any kind: it may have been built for another driver
        log.info("No 8-bit optimizer: %s", error)
        return None
    return AdamW8bit


def free_gb(device: torch.device) -> float | None:
    """Memory that this process can use on a device, including its own reserved memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device)) / 1e9
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / 1e9
    return psutil.virtual_memory().available / 1e9 if device.type == "cpu" else None


def has_run_out(error: Exception) -> bool:
    """Whether an error means that a device, of any kind, is out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(
        error
    )


def give_back(device: torch.device) -> None:
    """Free the caches of the allocators: the device's, and glibc's, which keeps most of the memory
    that a round used (`bench soak`)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
