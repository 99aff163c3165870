"""LoRA files."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file

from studio import models
from studio.models import Denoiser, ReadAdapter
from studio.models.adapters import ADAPTER_NAME
from studio.settings import TrainingSettings


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


def random_adapter(
    denoiser: Denoiser, settings: TrainingSettings, size: float = 0.3
) -> ReadAdapter:
    """An adapter for the model, as `Adapters.read` gives it, with random changes."""
    denoiser.adapters.new(settings)
    config = copy.deepcopy(denoiser.network.peft_config[ADAPTER_NAME])
    draw = torch.Generator().manual_seed(settings.seed)
    state = {
        name: size * torch.randn(value.shape, generator=draw)
        for name, value in denoiser.adapters.state().items()
    }
    denoiser.adapters.remove()
    return config, state
