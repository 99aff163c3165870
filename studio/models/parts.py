"""The parts of a model, and loading them from a diffusers folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2TokenizerFast,
    Qwen3Model,
)

from studio import weights
from studio.families import ChatEncoder
from studio.maths.schedules import PredictionType
from studio.models.inspecting import ModelInfo
from studio.models.levels import Scheduler
from studio.models.predictions import flow_shift


@dataclass(frozen=True)
class Parts:
    """Modules on the CPU. SDXL has two text encoders, each with its tokenizer."""

    network: UNet2DConditionModel | Flux2Transformer2DModel
    vae: AutoencoderKL | AutoencoderKLFlux2
    text_encoders: list[PreTrainedModel]
    tokenizers: list[PreTrainedTokenizerBase]
    scheduler: Scheduler
    zero_unconditional: bool = False  # an empty negative prompt is encoded as zeros


def sd_scheduler(
    prediction_type: PredictionType = "epsilon", zero_snr: bool = False
) -> DDIMScheduler:
    """The noise schedule of all Stable Diffusion models up to XL, except flows.

    zero_snr: rescaled so that the last timestep is pure noise (arXiv 2305.08891).
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
    )


def default_scheduler(info: ModelInfo) -> Scheduler:
    """The noise schedule of a model that does not come with its own."""
    if info.facts.flow_shift is not None:
        return FlowMatchEulerDiscreteScheduler(shift=info.facts.flow_shift)
    return sd_scheduler(info.prediction_type, info.zero_snr)


def folder_scheduler(info: ModelInfo, config: dict[str, Any]) -> Scheduler:
    """The noise schedule of a folder, whose own scheduler may draw in other ways."""
    if info.facts.shift:
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    if info.facts.flow_shift is not None:
        return FlowMatchEulerDiscreteScheduler.from_config(config, shift=flow_shift(config))
    return DDIMScheduler.from_config(config, clip_sample=False)


def load_folder(info: ModelInfo, dtype: torch.dtype) -> Parts:
    """The parts of a diffusers folder. Each is loaded as the class of its family, no matter what
    the folder names, so that no program in it is run. Raises ModelError for unusable weights."""
    root = info.path

    def part(name: str, kind: type, stem: str, **options: object) -> object:
        _, variant = weights.component_header(root / name, stem)
        return kind.from_pretrained(
            root / name, local_files_only=True, use_safetensors=True, variant=variant, **options
        )

    def tokenizer(kind: type, name: str) -> PreTrainedTokenizerBase:
        return kind.from_pretrained(root / name, local_files_only=True)

    is_unet = info.facts.transformer is None
    text_encoders, tokenizers = [], []
    for encoder in info.facts.text_encoders:
        if isinstance(encoder, ChatEncoder):
            # Layers behind the last of those that are read only take memory and time.
            most = {"num_hidden_layers": 1 + max(encoder.layers)}
            text_encoders.append(part(encoder.part, Qwen3Model, "model", dtype=dtype, **most))
            tokenizers.append(tokenizer(Qwen2TokenizerFast, encoder.tokenizer))
            continue
        kind = CLIPTextModelWithProjection if encoder.has_projection else CLIPTextModel
        text_encoders.append(part(encoder.part, kind, "model", dtype=dtype))
        tokenizers.append(tokenizer(CLIPTokenizer, encoder.tokenizer))
    index = weights.read_json(root / "model_index.json")
    stem = "diffusion_pytorch_model"
    network = UNet2DConditionModel if is_unet else Flux2Transformer2DModel
    vae = AutoencoderKL if is_unet else AutoencoderKLFlux2
    return Parts(
        network=part(info.facts.network, network, stem, torch_dtype=dtype),
        vae=part("vae", vae, stem, torch_dtype=dtype),
        text_encoders=text_encoders,
        tokenizers=tokenizers,
        scheduler=folder_scheduler(
            info, weights.read_json(root / "scheduler" / SCHEDULER_CONFIG_NAME)
        ),
        zero_unconditional=info.facts.zero_unconditional
        and bool(index.get("force_zeros_for_empty_prompt", True)),
    )


@contextmanager
def at_work(part: nn.Module, device: torch.device, is_offloaded: bool) -> Iterator[None]:
    """Inside, a part is on the device; an offloaded part returns to the CPU afterwards."""
    part.to(device)
    try:
        yield
    finally:
        if is_offloaded:
            part.to("cpu")
