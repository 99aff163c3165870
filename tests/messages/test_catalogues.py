"""The catalogues hold all that the sources say, whole and in step."""

from __future__ import annotations

import re
from string import Formatter

import pytest
from babel.messages import Catalog, Message

from studio.messages import LANGUAGES, SOURCE
from studio.messages.catalogues import read
from studio.messages.extraction import extracted
from studio.messages.sentences import CHOICE

TRANSLATIONS = [code for code in LANGUAGES if code != SOURCE]
TAGS = re.compile(r"<[^>]*>")


@pytest.fixture(scope="module")
def sources() -> Catalog:
    return extracted()


@pytest.fixture(scope="module", params=TRANSLATIONS)
def catalogue(request: pytest.FixtureRequest) -> Catalog:
    return read(request.param)


def forms(message: Message) -> list[str]:
    return [message.string] if isinstance(message.string, str) else list(message.string)


def ids(message: Message) -> list[str]:
    return [message.id] if isinstance(message.id, str) else list(message.id)


def places(text: str) -> set[str]:
    """The places for values, with their formats; an example such as {cat|dog} is none."""
    if CHOICE.search(text):
        return set(re.findall(r"\{[^{}]*\}", text))
    return {f"{name}:{form}" for _, name, form, _ in Formatter().parse(text) if name is not None}


def told(catalogue: Catalog) -> list[Message]:
    return [message for message in catalogue if message.id]


def test_every_message_of_the_sources_is_there_and_no_other(sources, catalogue):
    wanted = {message.id for message in sources if message.id}
    there = {message.id for message in told(catalogue)}
    how = "run python -m studio.messages.extraction, and translate what it added"
    assert there == wanted, f"{sorted(map(str, there ^ wanted))}: {how}"
    assert not catalogue.obsolete


def test_every_message_is_translated(catalogue):
    assert [one.id for one in told(catalogue) if one.fuzzy or not all(forms(one))] == []


def test_every_message_has_the_plural_forms_of_its_language(catalogue):
    for message in told(catalogue):
        wanted = 1 if isinstance(message.id, str) else catalogue.num_plurals
        assert len(forms(message)) == wanted, message.id


def test_the_places_for_values_are_those_of_the_source(catalogue):
    for message in told(catalogue):
        every = set().union(*map(places, ids(message)))
        for text in forms(message):
            assert places(text) == every, message.id


def test_the_markup_is_that_of_the_source(catalogue):
    for message in told(catalogue):
        for text in forms(message):
            assert sorted(TAGS.findall(text)) == sorted(TAGS.findall(ids(message)[0])), message.id


def test_a_message_begins_and_ends_as_its_source(catalogue):
    """Sentences are set together: a space at an end would be lost or doubled."""
    for message in told(catalogue):
        for text in forms(message):
            source = ids(message)[0]
            assert (text == text.strip()) == (source == source.strip()), message.id
