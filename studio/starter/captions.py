"""The words of the starter's pictures, and the tokenizer that is learned from them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from studio.starter.pictures import GROUNDS, Pictures
from studio.starter.pipeline import train_tokenizer
from studio.starter.styles import STYLES

EMPTY_CAPTION_SHARE = 0.05
# All is named in most captions: where one picture alone fits the words, most is learned from it.
ALL_NAMED_SHARE = 0.6
NAMED_STYLE_SHARE = 0.5  # of the others
NAMED_GROUND_SHARE = 0.5
TOKENS = 24
VOCABULARY = 1400
TOKENIZER_CAPTIONS = 8000


def words(concept: str, style: str | None, ground: str | None, form: int) -> str:
    """A prompt for one picture: "octopus, ink style, blue background"; two forms."""
    if form == 0:
        parts = [concept, style and f"{style} style", ground and f"{ground} background"]
        return ", ".join(part for part in parts if part)
    article = "an" if (style or concept)[0] in "aeiou" else "a"
    text = f"{article} {style} {concept}" if style else f"{article} {concept}"
    return f"{text} on a {ground} background" if ground else text


def draw_caption(pictures: Pictures, number: int, draw: random.Random) -> str:
    """Words for a picture in training: not all of it is named, and sometimes nothing."""
    if draw.random() < EMPTY_CAPTION_SHARE:
        return ""
    concept, style, ground, _ = (int(part) for part in pictures.parts(np.array(number)))
    all_named = draw.random() < ALL_NAMED_SHARE
    return words(
        pictures.concepts[concept],
        STYLES[style] if all_named or draw.random() < NAMED_STYLE_SHARE else None,
        GROUNDS[ground] if all_named or draw.random() < NAMED_GROUND_SHARE else None,
        draw.randrange(2),
    )


def tokenizer_for(pictures: Pictures, folder: Path) -> CLIPTokenizer:
    if (folder / "tokenizer").exists():
        return CLIPTokenizer.from_pretrained(folder / "tokenizer")
    draw = random.Random("tokenizer")
    captions = [
        draw_caption(pictures, draw.randrange(pictures.count), draw)
        for _ in range(TOKENIZER_CAPTIONS)
    ]
    return train_tokenizer(captions, folder / "tokenizer", VOCABULARY, TOKENS)
