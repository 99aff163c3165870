"""What the artist reads, in their language: GNU gettext catalogues, and who is served in which.

`_` and `ngettext` mark a message and give it in the language of whoever is served just now. That is
English outside of a page: in the worker, in the log, on the command line. So what is kept is in
English, and `told` puts it into the page's language when it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from babel import UnknownLocaleError
from babel.core import parse_locale
from babel.dates import format_skeleton
from babel.numbers import format_decimal

from studio.messages.catalogues import LANGUAGES, SOURCE, catalogue
from studio.messages.sentences import joined, sentences_in

__all__ = [
    "LANGUAGES",
    "N_",
    "SOURCE",
    "_",
    "language",
    "ngettext",
    "number_words",
    "speaking",
    "together",
    "told",
    "wanted_language",
    "when",
]

_language: ContextVar[str] = ContextVar("language", default=SOURCE)


def language() -> str:
    """The language of whoever is served just now: one of `LANGUAGES`."""
    return _language.get()


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Within it, messages are in this language."""
    token = _language.set(code)
    try:
        yield
    finally:
        _language.reset(token)


def _(message: str, **values: object) -> str:
    """The message in the artist's language, with values for its named places: `{number}`."""
    text = catalogue(language()).gettext(message)
    return text.format(**values) if values else text


def ngettext(one: str, many: str, number: int, **values: object) -> str:
    """The same of a counted thing. `number` is a value too: `{number} picks`."""
    text = catalogue(language()).ngettext(one, many, number)
    return text.format(number=number, **values)


def N_(message: str) -> str:
    """Marks a message that is put into a language later, by `_`."""
    return message


def told(sentence: str) -> str:
    """What was written in English, in the artist's language; unknown words stay as they are."""
    if language() == SOURCE or not sentence:
        return sentence
    return sentences_in(language()).told(sentence)


def together(*sentences: str) -> str:
    """Sentences one after the other, with a space between where the language has one."""
    return joined(filter(None, sentences))


def number_words(number: float) -> str:
    """`10,000` as the artist's language writes it."""
    return format_decimal(number, locale=_locale())


def when(seconds: float, day: str = "MMMd") -> str:
    """A local time since the epoch: `30 Nov, 19:23`. `day`: a CLDR skeleton."""
    at = datetime.fromtimestamp(seconds)
    date = format_skeleton(day, at, locale=_locale())
    return f"{date}{', ' if language() == SOURCE else ' '}{at:%H:%M}"


def _locale() -> str:
    code = language()
    return "en_GB" if code == SOURCE else code.replace("-", "_")


def wanted_language(accepted: str) -> str:
    """The first language of an Accept-Language header that the studio speaks."""
    for code in _by_quality(accepted):
        try:
            wanted = parse_locale(code, sep="-")[0]
        except (ValueError, UnknownLocaleError):
            continue
        for spoken in LANGUAGES:
            if parse_locale(spoken, sep="-")[0] == wanted:
                return spoken
    return SOURCE


def _by_quality(accepted: str) -> list[str]:
    """`["zh-CN", "en"]` of `zh-CN,en;q=0.5`."""
    found: list[tuple[float, str]] = []
    for part in accepted.split(","):
        code, _separator, quality = part.strip().partition(";q=")
        try:
            found.append((float(quality or 1), code))
        except ValueError:
            continue
    return [code for quality, code in sorted(found, key=lambda one: -one[0]) if quality > 0]
