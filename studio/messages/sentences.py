"""Sentences that were written in English, by another process or another day, put into a language.

A message with places for values, `Drawing pair {number} of {total}`, fits every sentence that was
made of it; the values are read from the sentence and set into the translation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
JOINED = re.compile(r"[,.;:] (?!\d)| and ")
CLOSED = "。！？：、，"  # no space follows these
FEWEST_LETTERS = 4  # of a message with places, to tell it from any other text
MOST_CHARACTERS = 4000  # longer texts are no sentences of the studio


@dataclass(frozen=True)
class Pattern:
    """A message with places, as what fits it: with short values first, and with long ones."""

    fits: tuple[re.Pattern[str], re.Pattern[str]]
    message: str | tuple[str, str]  # both forms of a counted one
    quoted: frozenset[str]  # places in quotation marks: somebody's own words
    literal: tuple[str, ...]  # what must stand in the text, in this order
    is_vague: (
        bool  # with few words of its own, `{number} of {total}`: its values must be told whole
    )

    def readings(self, text: str) -> Iterator[dict[str, str]]:
        """The values of a text that it fits."""
        if not all(part in text for part in self.literal):  # quickly: most do not fit
            return
        for fits in self.fits:
            found = fits.fullmatch(text)
            if found:
                yield found.groupdict()


@dataclass(frozen=True, order=True)
class Told:
    """A text in the language. `left`: letters that stay as they are; the fewer, the better."""

    left: int
    text: str


class Sentences:
    """The messages of one language, to find by their English."""

    def __init__(self, code: str) -> None:
        self._gettext = catalogue(code)
        self._known: set[str] = set()
        self._patterns: list[Pattern] = []
        for message in messages(code):
            forms = (message.id,) if isinstance(message.id, str) else message.id
            for form in filter(None, forms):
                self._known.add(form)
                if pattern := _pattern(form, message.id):
                    self._patterns.append(pattern)
        self._read = lru_cache(maxsize=8192)(self._readings)

    def told(self, text: str) -> str:
        """The text, with all that are messages in the language."""
        return text if len(text) > MOST_CHARACTERS else self._read(text).text

    def _readings(self, text: str) -> Told:
        """The best reading: of the whole text, or of its sentences one after the other."""
        whole = self._one(text)
        if whole is not None and whole.left == 0:
            return whole
        parts = JOINTS.split(text)
        read = self._in_sentences(parts) if len(parts) > 1 else Told(_letters(text), text)
        return read if whole is None or read.left < whole.left else whole

    def _in_sentences(self, parts: list[str]) -> Told:
        said: list[Told] = []
        at = 0
        while at < len(parts):
            for end in range(len(parts), at, -1):
                text = " ".join(parts[at:end])
                one = None if (at, end) == (0, len(parts)) else self._one(text)
                if one is not None:
                    break
            else:
                one, end = Told(_letters(parts[at]), parts[at]), at + 1
            said.append(one)
            at = end
        return Told(sum(one.left for one in said), joined(one.text for one in said))

    def _one(self, text: str) -> Told | None:
        """The best reading of a text as a single message; None if it is none."""
        if text in self._known:
            return Told(0, self._gettext.gettext(text))
        # A phrase may stand with a stop, and a sentence without its own.
        if text.endswith(".") and text[:-1] in self._known:
            return Told(0, self._gettext.gettext(text[:-1]) + "。")
        if f"{text}." in self._known:
            return Told(0, self._gettext.gettext(f"{text}.").rstrip("。"))
        readings = (
            (reading.left, _joints(values), -len("".join(pattern.literal)), reading)
            for pattern in self._patterns
            for values in pattern.readings(text)
            if (reading := self._filled(pattern, values)).left == 0 or not pattern.is_vague
        )
        *_worth, best = min(readings, default=(0, 0, 0, None))
        if best is None and text.endswith(".") and (bare := self._one(text[:-1])):
            return Told(bare.left, f"{bare.text}。")
        return best

    def _filled(self, pattern: Pattern, found: dict[str, str]) -> Told:
        read = {
            name: Told(0, value) if name in pattern.quoted else self._read(value)
            for name, value in found.items()
        }
        if isinstance(pattern.message, str):
            translation = self._gettext.gettext(pattern.message)
        else:
            number = re.sub(r"\D", "", found.get("number", "1"))
            translation = self._gettext.ngettext(*pattern.message, int(number or 1))
        text = "".join(
            text + (read[name].text if name else "")
            for text, name, _format, _conversion in Formatter().parse(translation)
        )
        return Told(sum(one.left for one in read.values()), text)


@cache
def sentences_in(code: str) -> Sentences:
    """Those of a language, read once."""
    return Sentences(code)


def _pattern(form: str, message: str | tuple[str, str]) -> Pattern | None:
    """What fits a form of a message; None if it has no places, or too few words are fixed in it."""
    expression, literal, seen = "", list[str](), set[str]()
    quoted = set[str]()
    if not PLACE.search(form) or CHOICE.search(form):
        return None
    for text, name, _format, _conversion in Formatter().parse(form):
        expression += re.escape(text)
        literal.append(text)
        if name:
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
            seen.add(name)
            if text.endswith("“"):
                quoted.add(name)
    both = (expression, expression.replace(".+?)", ".+)"))
    fits = tuple(re.compile(one, re.DOTALL) for one in both)
    is_vague = _letters("".join(literal)) < FEWEST_LETTERS
    return Pattern((fits[0], fits[1]), message, frozenset(quoted), tuple(literal), is_vague)


def _joints(values: dict[str, str]) -> int:
    """How often a value looks like more than one."""
    return sum(len(JOINED.findall(value)) for value in values.values())


def _letters(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)


def joined(said: Iterable[str]) -> str:
    """Sentences one after the other; full-width signs bring their own space."""
    text = ""
    for one in said:
        text += one if not text or text[-1] in CLOSED else f" {one}"
    return text
