"""LoRA files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from studio import models


def write_lora(path: Path, model: Path, seed: int = 0) -> Path:
    """One that changes all attention, visibly."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in models.load(str(model), "cpu").adapters.layer_shapes.items():
        if len(shape) == 2 and "attn" in name:
            key = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, shape[1], generator=draw)
            tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], 2, generator=draw)
            tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return path
