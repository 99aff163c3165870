"""Emphasis as artists write it: `(warm light)` a little more, `[clouds]` less, `(red:1.4)` so much.

The syntax of A1111, which most tools and shared prompts use; brackets nest, and their weights
multiply. What is no pair of brackets is a letter like any other, and so is `\\(`.
"""

from __future__ import annotations

import re
from itertools import groupby

MORE = 1.1  # what a pair of round brackets multiplies by; square ones divide
MOST, LEAST = 4.0, 0.0  # beyond these a text encoder makes nothing of it

_TOKEN = re.compile(
    r"\\[()\[\]\\]|[()\[\]]|:\s*(\d+(?:\.\d+)?|\.\d+)\s*\)|[^\\()\[\]:]+|.", re.DOTALL
)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt as (text, weight) in order, neighbours of the same weight as one.

    Never raises; the weights lie between 0 and 4, and texts are not empty.
    """
    letters: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []  # brackets that are not closed yet, and where they stand
    for token in _TOKEN.finditer(prompt):
        text = token.group()
        closes = {")": "(", "]": "["}.get(text[-1]) if len(text) == 1 or token[1] else None
        if text in ("(", "["):
            opened.append((text, len(letters)))
            letters.append((text, 1.0))  # a letter, until it is closed
        elif closes and opened and opened[-1][0] == closes:
            _, start = opened.pop()
            factor = float(token[1]) if token[1] else MORE if closes == "(" else 1 / MORE
            letters[start:] = [(inner, weight * factor) for inner, weight in letters[start + 1 :]]
        elif text.startswith("\\") and len(text) == 2:
            letters.append((text[1], 1.0))
        else:
            letters.append((text, 1.0))
    parts = [
        ("".join(text for text, _ in part), min(max(weight, LEAST), MOST))
        for weight, part in groupby(letters, key=lambda one: round(one[1], 6))
    ]
    return [(text, weight) for text, weight in parts if text]
