"""The parts of a model, however it was stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from studio.models import files
from studio.models.inspecting import ModelInfo


@dataclass(frozen=True)
class Parts:
    """Modules on the CPU. SDXL has two text encoders, each with its tokenizer."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[CLIPTextModel | CLIPTextModelWithProjection]
    tokenizers: list[CLIPTokenizer]
    scheduler: DDIMScheduler
    zero_unprompted: bool = True  # SDXL reads no negative prompt as zeros, not as an empty text


def load_folder(info: ModelInfo, dtype: torch.dtype) -> Parts:
    """The parts of a diffusers folder, each as the class that it must be, whatever the folder says:
    nothing in it is run. Raises ModelError for weights that cannot be opened."""
    root = info.path

    def part(name: str, kind: type, stem: str, **options: object) -> object:
        _, variant = files.component_header(root / name, stem)
        return kind.from_pretrained(
            root / name, local_files_only=True, use_safetensors=True, variant=variant, **options
        )

    is_xl = info.family == "sdxl"
    text_encoders = [part("text_encoder", CLIPTextModel, "model", dtype=dtype)]
    tokenizers = [CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)]
    if is_xl:
        second = part("text_encoder_2", CLIPTextModelWithProjection, "model", dtype=dtype)
        text_encoders.append(second)
        tokenizers.append(
            CLIPTokenizer.from_pretrained(root / "tokenizer_2", local_files_only=True)
        )
    index = files.read_json(root / "model_index.json")
    stem = "diffusion_pytorch_model"
    return Parts(
        unet=part("unet", UNet2DConditionModel, stem, torch_dtype=dtype),
        vae=part("vae", AutoencoderKL, stem, torch_dtype=dtype),
        text_encoders=text_encoders,
        tokenizers=tokenizers,
        scheduler=DDIMScheduler.from_config(
            files.read_json(root / "scheduler" / SCHEDULER_CONFIG_NAME), clip_sample=False
        ),
        zero_unprompted=bool(index.get("force_zeros_for_empty_prompt", True)),
    )
