"""Emphasis in prompts: `(warm light)` adds weight, `[clouds]` reduces it, `(red:1.4)` sets it.

The syntax is A1111's, which most tools and shared prompts use. Brackets nest, and their weights
multiply. A bracket without a partner is an ordinary character, and so is `\\(`.
"""

from __future__ import annotations

import re
from itertools import groupby

MORE = 1.1  # the factor of a pair of round brackets; square brackets divide by it
MOST, LEAST = 4.0, 0.0  # weights beyond these have no sensible effect
_HUGE = 1e9  # the limit of products of factors, which avoids 0 times infinity

_TOKEN = re.compile(
    r"\\[()\[\]\\]|[()\[\]]|:\s*(\d+(?:\.\d+)?|\.\d+)\s*\)|[^\\()\[\]:]+|.", re.DOTALL
)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt as (text, weight) in order; neighbours of equal weight are joined.

    Never raises. Weights lie between 0 and 4, and texts are not empty.
    """
    tokens: list[
        tuple[str, float | None]
    ] = []  # a text, or the start (with factor) or end of a pair
    opened: list[tuple[str, int]] = []  # open brackets, and their indices in `tokens`
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
                opened.append((text, len(tokens)))  # an ordinary character until it is closed
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
        for weight, part in groupby(letters, key=lambda letter: round(letter[1], 6))
    ]


def for_comfyui(prompt: str) -> str:
    """The prompt in ComfyUI's syntax, which has no square brackets: `[clouds]` is
    `(clouds:0.9091)`."""
    return "".join(
        escaped if weight == 1 else f"({escaped}:{weight:.4g})"
        for text, weight in weighted(prompt)
        for escaped in [re.sub(r"([()])", r"\\\1", text)]
    )
