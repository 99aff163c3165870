"""How a round is fitted into the memory there is: presets, the largest first.

A round begins with the preset for the memory that is free, and goes on with the next smaller one
whenever the device runs out (`studio.engine.training`). What they change is how a round is
computed, never what it computes: apart from rounding, every preset ends in the same adapter.
With 8-bit moments, which only a round that begins with a small preset has, the rounding is coarser.

What autograd keeps for one latent of 512 px through the true UNet, in half precision: 0.80 GB with
SD 1 and 2.03 GB with SDXL; with gradient checkpointing a fifth of it or less (counted by
`bench full-size`). To these come the weights, 1.7 GB and 5.1 GB.
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

LATENT_512_PX = 64 * 64  # places in the latent of a picture of 512 px
HALF_BYTES = 2  # a number of the types that GPUs train in


@dataclass(frozen=True)
class Preset:
    """For a device with `gb` to spare.

    latents: as many of 512 px go through the network at once while it learns, in half precision
        and with gradient checkpointing, which computes everything twice and keeps little.
    latents_kept: as many without it. A round that wants no more than these learns without it.
    parts_away: text encoders and VAE are on the device only while they work.
    tiled_vae: large pictures are decoded piece by piece, which can be seen if one looks closely.
    small_moments: what the optimiser keeps of each weight has 8 bits, where that can be done.
    """

    gb: int
    latents: int
    latents_kept: int
    model_cpu_offload: bool = False
    vae_tiling: bool = False
    optimizer_8bit: bool = False


def cost(latents: int, places: int, number_bytes: int) -> float:
    """So many latents of so many places (h x w) in latents of 512 px in half precision."""
    return latents * places * number_bytes / (LATENT_512_PX * HALF_BYTES)


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
    """The largest preset that fits; None: it is not known how much there is."""
    if gb is None:
        return PRESETS[0]
    return next((preset for preset in PRESETS if preset.gb <= gb), PRESETS[-1])


def smaller(preset: Preset) -> Preset:
    """The next smaller preset; of the smallest, itself."""
    return PRESETS[min(PRESETS.index(preset) + 1, len(PRESETS) - 1)]


def uses_8bit_optimizer(preset: Preset, device: torch.device) -> bool:
    """Whether a round that begins with this preset keeps its moments in 8 bits."""
    wanted = preset.optimizer_8bit and device.type == "cuda"
    return wanted and eight_bit_adamw() is not None


def eight_bit_adamw() -> type[torch.optim.Optimizer] | None:
    """Of bitsandbytes, which is no part of the studio: None where it cannot be imported."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except Exception as error:  # of any kind: it may have been built for another driver
        log.info("No 8-bit optimiser: %s", error)
        return None
    return AdamW8bit


def free_gb(device: torch.device) -> float | None:
    """What this process could use of a device's memory, with what it has of it already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device)) / 1e9
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / 1e9
    return psutil.virtual_memory().available / 1e9 if device.type == "cpu" else None


def has_run_out(error: Exception) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(
        error
    )


def give_back(device: torch.device) -> None:
    """Let go of what allocators keep for later: the device's, and glibc's, which holds on to most
    of what a round used (`bench soak`)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others have not
        if trim is not None:
            trim(0)
