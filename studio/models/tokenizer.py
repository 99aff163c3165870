"""CLIP's tokenizer, built from the vocabulary in assets/clip.

The order of the vocabulary is OpenAI's: 256 bytes, 256 bytes at the end of a word, 48,894 merges
and two special tokens: 49,408 in all.
"""

from __future__ import annotations

import functools
import gzip

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from studio.settings import STARTER_PATH

VOCABULARY_PATH = STARTER_PATH.parent / "clip" / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49_152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77


@functools.cache
def _merges() -> tuple[tuple[str, str], ...]:
    with gzip.open(VOCABULARY_PATH, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]  # the first line is its version
    return tuple(tuple(line.split()) for line in lines)


def build(pad: str) -> CLIPTokenizer:
    """`pad` fills short prompts: the token of the encoder's training."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["".join(pair) for pair in _merges()]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate([*words, START, END])},
        merges=list(_merges()),
        pad_token=pad,
        model_max_length=TOKENS,
    )
