"""The catalogues in `studio/locale`, one for a language, read when it is first used."""

from __future__ import annotations

import io
from functools import cache
from gettext import GNUTranslations, NullTranslations
from pathlib import Path

from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

SOURCE = "en"  # the language of the sources
LANGUAGES = {SOURCE: "English", "zh-CN": "简体中文", "ja": "日本語"}  # by themselves
FOLDER = Path(__file__).parent.parent / "locale"
DOMAIN = "studio"


def path_of(code: str) -> Path:
    """Where a language's catalogue lies; its folder is named as gettext names locales."""
    return FOLDER / code.replace("-", "_") / "LC_MESSAGES" / f"{DOMAIN}.po"


def read(code: str) -> Catalog:
    """A language's catalogue, with the places in the sources that its messages come from."""
    with path_of(code).open("rb") as file:
        return read_po(file, locale=code.replace("-", "_"), domain=DOMAIN)


@cache
def messages(code: str) -> Catalog:
    """`read`, once."""
    return read(code)


@cache
def catalogue(code: str) -> NullTranslations:
    """A language's catalogue as Python's gettext reads it; the source's holds nothing."""
    if code == SOURCE:
        return NullTranslations()
    compiled = io.BytesIO()
    write_mo(compiled, messages(code))
    compiled.seek(0)
    return GNUTranslations(compiled)


def script_messages(code: str) -> dict[str, list[str]]:
    """The messages of the page's scripts: each with its translation, by plural forms."""
    if code == SOURCE:
        return {}
    found: dict[str, list[str]] = {}
    for message in messages(code):
        if message.id and any(str(path).endswith(".js") for path, _ in message.locations):
            one = message.id if isinstance(message.id, str) else message.id[0]
            forms = message.string
            found[one] = [forms] if isinstance(forms, str) else list(forms)
    return found
