"""Sentences that were written in English, by another process or another day, put into a language.

A message with places for values, `Drawing pair {number} of {total}`, fits every sentence that was
made of it; the values are read from the sentence and set into the translation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from string import Formatter

from studio.messages.catalogues import catalogue, messages

# Between sentences that were joined: `Done. It was left out.`
JOINTS = re.compile(r"(?<=[.!?:]) ")
PLACE = re.compile(r"\{[a-z_0-9]+(?::[^{}]*)?\}")
CHOICE = re.compile(
    r"(?<!\{)\{[^{}:]*[^{}:a-z_0-9][^{}:]*\}"
)  # `{cat|dog}`, an example of a prompt
WORD = re.compile(r"[^\W\d_]{2}")
CLOSED = "。！？：、，"  # no space follows these
MOST_CHARACTERS = 4000  # longer texts are no sentences of the studio


@dataclass(frozen=True)
class Pattern:
    """A message with places, as what fits it. plural: both forms of a counted one."""

    fits: re.Pattern[str]
    message: str | tuple[str, str]
    quoted: frozenset[str]  # places in quotation marks: somebody's own words
    weight: int  # letters that must be there


class Sentences:
    """The messages of one language, to find by their English."""

    def __init__(self, code: str) -> None:
        self._gettext = catalogue(code)
        self._known: set[str] = set()
        patterns: list[Pattern] = []
        for message in messages(code):
            forms = (message.id,) if isinstance(message.id, str) else message.id
            for form in filter(None, forms):
                self._known.add(form)
                if pattern := _pattern(form, message.id):
                    patterns.append(pattern)
        self._patterns = sorted(patterns, key=lambda one: -one.weight)
        self.told = lru_cache(maxsize=4096)(self._told)

    def _told(self, text: str) -> str:
        if len(text) > MOST_CHARACTERS:
            return text
        if (whole := self._one(text)) is not None:
            return whole
        parts = JOINTS.split(text)
        said: list[str] = []
        at = 0
        while at < len(parts):
            for end in range(len(parts), at, -1):
                one = self._one(" ".join(parts[at:end]))
                if one is not None:
                    break
            else:
                one, end = parts[at], at + 1
            said.append(one)
            at = end
        return joined(said)

    def _one(self, text: str) -> str | None:
        """A text that is a single message; None if it is not."""
        if text in self._known:
            return self._gettext.gettext(text)
        # A sentence may stand without its stop, or a phrase with one.
        if text.endswith(".") and text[:-1] in self._known:
            return self._gettext.gettext(text[:-1]) + "。"
        if f"{text}." in self._known:
            return self._gettext.gettext(f"{text}.").rstrip("。")
        for pattern in self._patterns:
            if found := pattern.fits.fullmatch(text):
                return self._filled(pattern, found.groupdict())
        return None

    def _filled(self, pattern: Pattern, found: dict[str, str]) -> str:
        values = {
            name: value if name in pattern.quoted else self.told(value)
            for name, value in found.items()
        }
        if isinstance(pattern.message, str):
            translation = self._gettext.gettext(pattern.message)
        else:
            number = re.sub(r"\D", "", found.get("number", "1"))
            translation = self._gettext.ngettext(*pattern.message, int(number or 1))
        return "".join(
            text + (values[name] if name else "")
            for text, name, _format, _conversion in Formatter().parse(translation)
        )


@cache
def sentences_in(code: str) -> Sentences:
    """Those of a language, read once."""
    return Sentences(code)


def _pattern(form: str, message: str | tuple[str, str]) -> Pattern | None:
    """What fits a form of a message; None if too few words are fixed in it."""
    expression, literal, seen = "", "", set[str]()
    quoted = set[str]()
    if not PLACE.search(form) or CHOICE.search(form):
        return None
    for text, name, _format, _conversion in Formatter().parse(form):
        expression += re.escape(text)
        literal += text
        if name:
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
            seen.add(name)
            if text.endswith("“"):
                quoted.add(name)
    if not WORD.search(literal):
        return None
    weight = len(re.sub(r"[\W\d_]", "", literal))
    return Pattern(re.compile(expression, re.DOTALL), message, frozenset(quoted), weight)


def joined(said: Iterable[str]) -> str:
    """Sentences one after the other; full-width signs bring their own space."""
    text = ""
    for one in said:
        text += one if not text or text[-1] in CLOSED else f" {one}"
    return text
