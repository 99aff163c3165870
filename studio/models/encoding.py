"""The text encoding of a model, by its family."""

from __future__ import annotations

import torch

from studio.families import ChatEncoder
from studio.models.clip import ClipEncoder
from studio.models.inspecting import ModelInfo
from studio.models.inversions import Inversions
from studio.models.parts import Parts
from studio.models.qwen import QwenEncoder
from studio.models.text import PromptEncoder


def encoder_of(info: ModelInfo, parts: Parts, device: torch.device) -> PromptEncoder:
    """parts: its encoders must be on `device` already."""
    first = info.facts.text_encoders[0]
    if isinstance(first, ChatEncoder):
        return QwenEncoder(parts.text_encoders[0], parts.tokenizers[0], first, device)
    inversions = Inversions(info.path, parts.tokenizers, parts.text_encoders)
    return ClipEncoder(parts, inversions, device, info.facts.reads_clip_skip)
