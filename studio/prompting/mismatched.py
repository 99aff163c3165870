"""Prompts that a picture does not fit: its own with one feature exchanged, or another's.

A model that is taught to prefer a picture's own prompt to such a one (TDPO, arXiv 2509.25771) goes
on reading the words, however strong the taste is that it learns beside them. The paper has a
language model write them; here they come from the session's prompts and from words that exclude
each other: a ground has one colour, a picture one style.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

# Words that every text encoder in use knows, in an order of most different neighbours.
GROUNDS = ("red", "green", "white", "purple", "yellow", "blue", "black", "orange", "pink", "grey")
STYLES = ("flat", "watercolour", "pixel", "ink", "3d", "pencil")
_COLOUR = re.compile(rf"\b({'|'.join(GROUNDS)})\b", re.IGNORECASE)
_GROUND = re.compile(r"\b(?!(?:the|a|an)\b)([\w-]+) background\b", re.IGNORECASE)
_STYLE = re.compile(r"\b([\w-]+) style\b", re.IGNORECASE)
_WORD = re.compile(r"\w{3,}")


def mismatched(prompts: Sequence[str]) -> list[str]:
    """For each of a session's prompts one that a picture of it does not fit.

    The kinds take turns: another ground, another of the prompts, another style, other colours where
    the words name some. The same prompts always get the same ones.
    """
    found: list[str] = []
    uses: Counter[Kind] = Counter()
    for number, prompt in enumerate(prompts):
        for place in range(len(KINDS)):
            kind = KINDS[(number + place) % len(KINDS)]
            wrong = kind(prompt, prompts, uses[kind])
            if wrong is not None:
                uses[kind] += 1
                found.append(wrong)
                break
    return found


def other_ground(prompt: str, others: Sequence[str], number: int) -> str:
    """`apple, red background`: another ground than it names, or one where it names none."""
    return _exchanged(prompt, _GROUND, GROUNDS, number) or (
        f"{prompt}, {_another(GROUNDS, '', number)} background"
    )


def other_style(prompt: str, others: Sequence[str], number: int) -> str:
    """`apple, ink style`: another style than it names, or one where it names none."""
    return _exchanged(prompt, _STYLE, STYLES, number) or (
        f"{prompt}, {_another(STYLES, '', number)} style"
    )


def other_prompt(prompt: str, others: Sequence[str], number: int) -> str | None:
    """Another prompt of the session that has no word of three letters in common with it."""
    words = _words(prompt)
    strange = [other for other in dict.fromkeys(others) if not words & _words(other)]
    return strange[number % len(strange)] if strange else None


def other_colours(prompt: str, others: Sequence[str], number: int) -> str | None:
    """`green apple` for `red apple`: all colours that it names, but a ground's, exchanged."""
    grounds = {match.start(1) for match in _GROUND.finditer(prompt)}

    def exchanged(match: re.Match[str]) -> str:
        return match[0] if match.start() in grounds else _another(GROUNDS, match[0], number)

    changed = _COLOUR.sub(exchanged, prompt)
    return changed if changed != prompt else None


Kind = Callable[[str, Sequence[str], int], str | None]
KINDS: tuple[Kind, ...] = (other_ground, other_prompt, other_style, other_colours)


def _exchanged(prompt: str, naming: re.Pattern[str], words: Sequence[str], number: int) -> str:
    """Another of the words in the place of the one that the prompt names; "" if it names none."""
    named = naming.search(prompt)
    if named is None:
        return ""
    return prompt[: named.start(1)] + _another(words, named[1], number) + prompt[named.end(1) :]


def _another(words: Sequence[str], named: str, number: int) -> str:
    """One of the words that is not the one named; they take turns by number."""
    left = [word for word in words if word != named.lower()]
    return left[number % len(left)]


def _words(prompt: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(prompt)}
