"""Encoding of prompts by CLIP, as Stable Diffusion 1, 2 and XL have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from studio.models.inversions import Inversions
from studio.models.parts import Parts, at_work
from studio.models.text import INVERSIONS, PromptEncoder, Text
from studio.prompting.emphasis import weighted
from studio.weights import ModelError

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class _Output:
    """last_hidden_state: (B, tokens, width) of the chosen layer; pooled: for SDXL."""

    last_hidden_state: Tensor
    pooled: Tensor | None


class _Reader:
    """A text encoder that gives the states of the layer that the network was trained on.

    It has the interface of the encoder itself, which compel needs.
    """

    def __init__(self, encoder: TextEncoder, reads_clip_skip: bool, clip_skip: int) -> None:
        layers = encoder.config.num_hidden_layers
        if clip_skip > layers:
            raise ModelError(
                f"The text encoder of this model has {layers} layers: clip skip can be at most "
                f"{layers}."
            )
        self._encoder, self._clip_skip = encoder, clip_skip
        self._reads_clip_skip = reads_clip_skip
        self.dtype = encoder.dtype

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: object) -> _Output:
        output = self._encoder(ids, mask, output_hidden_states=True)
        if not self._reads_clip_skip:  # SDXL: the states before the last layer, without the norm
            return _Output(output.hidden_states[-2], output[0])
        if self._clip_skip == 1:
            return _Output(output.last_hidden_state, None)
        states = output.hidden_states[-self._clip_skip]
        return _Output(self._encoder.final_layer_norm(states), None)


class ClipEncoder(PromptEncoder):
    """One or two CLIP encoders, with textual inversions and weighted words.

    SDXL always uses the layer before the last, as in its training and in A1111.
    """

    def __init__(
        self, parts: Parts, inversions: Inversions, device: torch.device, reads_clip_skip: bool
    ) -> None:
        super().__init__(parts.text_encoders, device, parts.zero_unconditional)
        self._tokenizers = parts.tokenizers
        self._inversions = inversions
        self._reads_clip_skip = reads_clip_skip

    @property
    def lora_encoders(self) -> list[nn.Module]:
        return self.encoders

    def clip_skip(self, wanted: int) -> int:
        return wanted if self._reads_clip_skip else 1

    def marked(self, prompts: list[str]) -> list[str]:
        return [text for text, _ in self._inversions.mark(prompts)]

    def unread(self, prompt: str) -> str:
        [(marked, _)] = self._inversions.mark([prompt])
        prompt = "".join(text for text, _ in weighted(marked))
        ends = []
        for tokenizer in self._tokenizers:
            spans = tokenizer(prompt, truncation=True, return_offsets_mapping=True).offset_mapping
            ends.append(max(end for _, end in spans))
        return self._inversions.unmark(prompt[min(ends) :]).strip()

    def inversions(self, prompts: list[str]) -> dict[str, str]:
        used = {inversion for _, own in self._inversions.mark(prompts) for inversion in own}
        named = ", ".join(sorted(f"{each.name}: {each.short_hash}" for each in used))
        return {INVERSIONS: named} if named else {}

    @torch.no_grad()
    def encode(self, prompt: str, clip_skip: int) -> Text:
        parts = weighted(prompt)
        plain = "".join(text for text, _ in parts)
        states, pooled = [], None
        for tokenizer, encoder in zip(self._tokenizers, self.encoders, strict=True):
            reader = _Reader(encoder, self._reads_clip_skip, clip_skip)
            ids = tokenizer(
                plain, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids.to(self.device)
            with at_work(encoder, self.device, self.is_offloaded):
                output = reader(ids)
                if any(weight != 1 for _, weight in parts):
                    states.append(self._weighted_states(tokenizer, reader, parts))
                else:
                    states.append(output.last_hidden_state)
            pooled = output.pooled  # of the second encoder, which comes last
        return Text(torch.cat(states, dim=-1), pooled)

    def _weighted_states(
        self, tokenizer: Any, reader: _Reader, parts: list[tuple[str, float]]
    ) -> Tensor:
        """(1, tokens, width), blended by the compel library: a heavier part moves away from the
        empty prompt's states, a lighter part towards the states without it."""
        # a late import: it loads half of diffusers, which most sessions never need
        from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

        provider = EmbeddingsProvider(
            tokenizer,
            reader,
            dtype_for_device_getter=lambda _: reader.dtype,
            returned_embeddings_type=ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
        )
        texts, weights = ([part[index] for part in parts] for index in range(2))
        return provider.get_embeddings_for_weighted_prompt_fragments(
            [texts], [weights], device=str(self.device)
        )
