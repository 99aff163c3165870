"""Encoded prompts, and the interface of every text encoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

INVERSIONS = "TI hashes"  # A1111's key for textual inversions in the infotext of its pictures


@dataclass(frozen=True)
class Text:
    """Encoded prompts.

    states: (B, tokens, width); those of two text encoders are concatenated.
    pooled: (B, width) of the whole prompt, for SDXL; else None.
    """

    states: Tensor
    pooled: Tensor | None = None

    @classmethod
    def cat(cls, texts: list[Text]) -> Text:
        """Several texts of one model as one batch."""
        pooled = [text.pooled for text in texts]
        return cls(
            torch.cat([text.states for text in texts]),
            None if pooled[0] is None else torch.cat(pooled),
        )


class PromptEncoder(ABC):
    """The text encoders of a model: prompts in, `Text` out; each prompt is encoded once.

    zero_unconditional: an empty negative prompt is encoded as zeros. encoders: the modules, which
    must be on `device` already.
    """

    def __init__(
        self, encoders: Sequence[nn.Module], device: torch.device, zero_unconditional: bool = False
    ) -> None:
        self.device = device
        self.zero_unconditional = zero_unconditional
        self.encoders = list(encoders)
        self.is_offloaded = False
        self._embeddings: dict[tuple[str, int], Text] = {}  # by marked prompt and clip skip

    @property
    def lora_encoders(self) -> list[nn.Module]:
        """Those that LoRAs change."""
        return []

    def embed(self, prompts: list[str], clip_skip: int = 1) -> Text:
        """The encoded prompts, one row each; each is encoded once and cached.

        clip_skip: the layer of CLIP, counted from the last, which is 1; also for the negative
        prompt, as in A1111 (diffusers' own pipelines do not skip there). Raises ModelError if the
        encoder has fewer layers, or if the file of a named textual inversion cannot be used.
        """
        clip_skip = self.clip_skip(clip_skip)
        marked = self.marked(prompts)
        for text in dict.fromkeys(marked):
            if (text, clip_skip) not in self._embeddings:
                self._embeddings[text, clip_skip] = self.encode(text, clip_skip)
        return Text.cat([self._embeddings[text, clip_skip] for text in marked])

    def embed_negative(self, prompt: str, count: int, clip_skip: int = 1) -> Text:
        """The negative prompt, `count` times, for the unconditional half of guidance."""
        if prompt or not self.zero_unconditional:
            return self.embed([prompt] * count, clip_skip)
        text = self.embed([""] * count, clip_skip)
        return Text(torch.zeros_like(text.states), torch.zeros_like(text.pooled))

    @abstractmethod
    def encode(self, prompt: str, clip_skip: int) -> Text:
        """One marked prompt; the encoders may be anywhere."""

    @abstractmethod
    def unread(self, prompt: str) -> str:
        """The end of a prompt that is too long for the text encoders; "" if it fits."""

    def clip_skip(self, wanted: int) -> int:
        """The clip skip that counts here: 1 where there is none."""
        return 1

    def marked(self, prompts: list[str]) -> list[str]:
        """The prompts as the encoders read them."""
        return prompts

    def inversions(self, prompts: list[str]) -> dict[str, str]:
        """The textual inversions in the prompts with their hashes, in A1111's format."""
        return {}

    def offload(self, on: bool) -> None:
        """Keep the encoders on the CPU except while they work."""
        self.is_offloaded = on
        for encoder in self.encoders:
            encoder.to("cpu" if on else self.device)

    @contextmanager
    def without_cache(self) -> Iterator[None]:
        """Inside, no cached encoding is used, because the encoders' weights are changed."""
        cached, self._embeddings = self._embeddings, {}
        try:
            yield
        finally:
            self._embeddings = cached
