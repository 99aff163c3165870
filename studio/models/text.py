"""Encoding of prompts by a model's text encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from studio.models.inversions import Inversions
from studio.models.parts import Parts, at_work
from studio.prompting.emphasis import weighted
from studio.weights import ModelError

INVERSIONS = "TI hashes"  # A1111's key for textual inversions in the infotext of its pictures

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection


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


class PromptEncoder:
    """The text encoders of a model, with its textual inversions."""

    def __init__(
        self, parts: Parts, inversions: Inversions, device: torch.device, reads_clip_skip: bool
    ) -> None:
        """The encoders of `parts` must be on `device` already."""
        self.device = device
        self._encoders, self._tokenizers = parts.text_encoders, parts.tokenizers
        self._inversions = inversions
        self.zero_unconditional = parts.zero_unconditional
        self._reads_clip_skip = reads_clip_skip
        self._embeddings: dict[tuple[str, int], Text] = {}  # by marked prompt and clip skip
        self._is_offloaded = False

    def embed(self, prompts: list[str], clip_skip: int = 1) -> Text:
        """The encoded prompts, one row each; each is encoded once and cached.

        clip_skip: the layer of the text encoder, counted from the last, which is 1; also for the
        negative prompt, as in A1111 (diffusers' own pipelines do not skip there). SDXL always uses
        the layer before the last, as in its training and in A1111. Raises ModelError if the encoder
        has fewer layers, or if the file of a named textual inversion cannot be used.
        """
        clip_skip = clip_skip if self._reads_clip_skip else 1
        marked = [text for text, _ in self._inversions.mark(prompts)]
        for text in dict.fromkeys(marked):
            if (text, clip_skip) not in self._embeddings:
                self._embeddings[text, clip_skip] = self._encode(text, clip_skip)
        return Text.cat([self._embeddings[text, clip_skip] for text in marked])

    def embed_negative(self, prompt: str, count: int, clip_skip: int = 1) -> Text:
        """The negative prompt, `count` times, for the unconditional half of guidance."""
        if prompt or not self.zero_unconditional:
            return self.embed([prompt] * count, clip_skip)
        text = self.embed([""] * count, clip_skip)
        return Text(torch.zeros_like(text.states), torch.zeros_like(text.pooled))

    def unread(self, prompt: str) -> str:
        """The end of a prompt that is too long for the text encoders; "" if it fits."""
        [(marked, _)] = self._inversions.mark([prompt])
        prompt = "".join(text for text, _ in weighted(marked))
        ends = []
        for tokenizer in self._tokenizers:
            spans = tokenizer(prompt, truncation=True, return_offsets_mapping=True).offset_mapping
            ends.append(max(end for _, end in spans))
        return self._inversions.unmark(prompt[min(ends) :]).strip()

    def inversions(self, prompts: list[str]) -> dict[str, str]:
        """The textual inversions in the prompts with their hashes, in A1111's format."""
        used = {inversion for _, own in self._inversions.mark(prompts) for inversion in own}
        named = ", ".join(sorted(f"{each.name}: {each.short_hash}" for each in used))
        return {INVERSIONS: named} if named else {}

    def offload(self, on: bool) -> None:
        """Keep the encoders on the CPU except while they work."""
        self._is_offloaded = on
        for encoder in self._encoders:
            encoder.to("cpu" if on else self.device)

    @contextmanager
    def without_cache(self) -> Iterator[None]:
        """Inside, no cached encoding is used, because the encoders' weights are changed."""
        cached, self._embeddings = self._embeddings, {}
        try:
            yield
        finally:
            self._embeddings = cached

    @torch.no_grad()
    def _encode(self, prompt: str, clip_skip: int) -> Text:
        parts = weighted(prompt)
        plain = "".join(text for text, _ in parts)
        states, pooled = [], None
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            reader = _Reader(encoder, self._reads_clip_skip, clip_skip)
            ids = tokenizer(
                plain, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids.to(self.device)
            with at_work(encoder, self.device, self._is_offloaded):
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
