"""The messages in markup: every text that stands between tags, and in attributes that are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from studio.messages import told

ATTRIBUTES = ("aria-label", "title", "placeholder", "alt", "data-says")
READ = re.compile(rf"""(\s(?:{"|".join(ATTRIBUTES)})=)(["'])(.*?)\2""", re.DOTALL)
# A text with what stands within its line: `Press <kbd>Space</kbd> to flip.`
WITHIN = r"</?(?:b|kbd|code|em)>"
PARTS = re.compile(rf"((?:[^<]|{WITHIN})+)|(<[^>]*>)", re.DOTALL)
KEY = re.compile(r"<kbd>[^<]*</kbd>|[^<]*</(?:b|kbd|code|em)>")  # that begins a text
LETTERS = re.compile(r"[^\W\d_]{2}")
UNREAD = re.compile(rf"{WITHIN}|\$\{{[^}}]*\}}|\{{\{{.*?\}}\}}", re.DOTALL)


def told_markup(markup: str) -> str:
    """Markup in English, with its messages in the artist's language."""
    return _changed(markup, told)


def messages_in(markup: str) -> Iterator[str]:
    """Every message of markup."""
    found: list[str] = []

    def note(message: str) -> str:
        found.append(message)
        return message

    _changed(markup, note)
    yield from found


def _changed(markup: str, change: Callable[[str], str]) -> str:
    def text(part: str) -> str:
        key = KEY.match(part.lstrip())
        if key and not KEY.search(part.lstrip()[key.end() :]):  # `<kbd>Z</kbd> Undo`
            start = len(part) - len(part.lstrip()) + key.end()
            return part[:start] + text(part[start:])
        words = " ".join(part.split())
        if not LETTERS.search(UNREAD.sub("", words)):
            return part
        before = part[: len(part) - len(part.lstrip())]
        after = part[len(part.rstrip()) :]
        return before + change(words) + after

    def tag(part: str) -> str:
        return READ.sub(attribute, part)

    def attribute(found: re.Match[str]) -> str:
        name, quote, value = found.groups()
        words = " ".join(value.split())
        read = change(words) if LETTERS.search(UNREAD.sub("", words)) else value
        return f"{name}{quote}{read}{quote}"

    return PARTS.sub(lambda found: text(found[1]) if found[1] else tag(found[2]), markup)
