"""Encoding of prompts by Qwen3, as FLUX.2 klein has it: a prompt is a message of a chat.

Signs of emphasis are plain words here, as in the programs that it came with.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from studio.families import ChatEncoder
from studio.models.parts import at_work
from studio.models.text import PromptEncoder, Text


class QwenEncoder(PromptEncoder):
    """A language model of which the states of several layers stand side by side."""

    def __init__(
        self, encoder: PreTrainedModel, tokenizer: Any, facts: ChatEncoder, device: torch.device
    ) -> None:
        super().__init__([encoder], device)
        self._tokenizer, self._facts = tokenizer, facts

    @torch.no_grad()
    def encode(self, prompt: str, clip_skip: int) -> Text:
        [encoder] = self.encoders
        tokens = self._tokens(prompt)
        with at_work(encoder, self.device, self.is_offloaded):
            states = encoder(
                input_ids=tokens.input_ids.to(self.device),
                attention_mask=tokens.attention_mask.to(self.device),
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        return Text(torch.cat([states[layer] for layer in self._facts.layers], dim=-1))

    def unread(self, prompt: str) -> str:
        message = self._message(prompt)
        [spans] = self._tokens(prompt, return_offsets_mapping=True).offset_mapping
        end = int(spans[:, 1].max()) - message.find(prompt)
        return prompt[max(0, end) :].strip()

    def _tokens(self, prompt: str, **more: bool) -> Any:
        return self._tokenizer(
            self._message(prompt),
            padding="max_length",
            truncation=True,
            max_length=self._facts.tokens,
            return_tensors="pt",
            **more,
        )

    def _message(self, prompt: str) -> str:
        """The prompt in the template of the chat, without a thought before the answer."""
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
