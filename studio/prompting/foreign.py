"""Signs of other programs in prompts, which are plain words here: a sentence for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_CHARACTERS = 60  # of an example

# (pattern, sentence about its first match). Every pattern takes time in the length of the prompt.
SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"<(?:lora|lyco|hypernet):[^<>\n]{1,300}>", re.IGNORECASE),
        "“{}” loads no LoRA here, its letters are drawn as words: take it out, and choose the file "
        "under Start from a LoRA.",
    ),
    (
        re.compile(r"\bBREAK\b"),
        "“{}” divides no prompt here, it is drawn as a word: take it out.",
    ),
    (
        re.compile(r"(?<=\s)AND(?=\s)"),
        "“{}” joins no two prompts here, it is drawn as a word: write a comma, or two prompts.",
    ),
    (
        re.compile(r"\[[^\[\]|:\n]{0,300}:(?:[^\[\]|:\n]{0,300}:)?\s*\d+(?:\.\d+)?\s*\]"),
        "“{}” changes no words between two steps here, all of it is drawn: leave one of them.",
    ),
    (
        re.compile(r"\[[^\[\]|\n]{0,300}(?:\|[^\[\]|\n]{0,300}){1,20}\]"),
        "“{}” does not alternate between steps here, all of it is drawn: {{cat|dog}} draws one of "
        "them for a picture.",
    ),
)


def remarks(prompts: Iterable[str]) -> list[str]:
    """A sentence for each kind of sign that is in one of the prompts."""
    prompts = list(prompts)
    found = []
    for mark, sentence in SIGNS:
        for prompt in prompts:
            if (match := mark.search(prompt)) and not _is_loud(prompt, match[0]):
                found.append(sentence.format(_short(match[0])))
                break
    return found


def _is_loud(prompt: str, sign: str) -> bool:
    """In a prompt of capitals alone, AND is a word like any other."""
    return sign.isalpha() and not any(letter.islower() for letter in prompt)


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
