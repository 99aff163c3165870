"""Emphasis as artists write it: `(warm light)` a little more, `[clouds]` less, `(red:1.4)` so much.

The syntax of A1111, which most tools and shared prompts use; brackets nest, and their weights
multiply. What is no pair of brackets is a letter like any other, and so is `\\(`.
"""

from __future__ import annotations

import re
from itertools import groupby

MORE = 1.1  # what a pair of round brackets multiplies by; square ones divide
MOST, LEAST = 4.0, 0.0  # beyond these a text encoder makes nothing of it
_HUGE = 1e9  # no factor is larger while they are multiplied: 0 times infinity is no number

_TOKEN = re.compile(
    r"\\[()\[\]\\]|[()\[\]]|:\s*(\d+(?:\.\d+)?|\.\d+)\s*\)|[^\\()\[\]:]+|.", re.DOTALL
)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt as (text, weight) in order, neighbours of the same weight as one.

    Never raises; the weights lie between 0 and 4, and texts are not empty.
    """
    tokens: list[tuple[str, float | None]] = []  # a text; or a pair's start and end, and its factor
    opened: list[tuple[str, int]] = []  # brackets that are not closed yet, and where they stand
    for token in _TOKEN.finditer(prompt):
        text = token.group()
        closes = {")": "(", "]": "["}.get(text[-1]) if len(text) == 1 or token[1] else None
        if closes and opened and opened[-1][0] == closes:
            bracket, start = opened.pop()
            factor = float(token[1]) if token[1] else MORE if closes == "(" else 1 / MORE
            tokens[start] = (bracket, min(factor, _HUGE))
            tokens.append(("", None))
        elif text.startswith("\\") and len(text) == 2:
            tokens.append((text[1], None))
        else:
            if text in ("(", "["):
                opened.append((text, len(tokens)))  # a letter, until it is closed
            tokens.append((text, None))
    letters: list[tuple[str, float]] = []
    weights = [1.0]
    for text, factor in tokens:
        if factor is not None:
            weights.append(min(weights[-1] * factor, _HUGE))
        elif not text:
            weights.pop()
        else:
            letters.append((text, weights[-1]))
    return [
        ("".join(text for text, _ in part), min(max(weight, LEAST), MOST))
        for weight, part in groupby(letters, key=lambda one: round(one[1], 6))
    ]
