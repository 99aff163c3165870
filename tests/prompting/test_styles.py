"""Styles: read as A1111 writes them, written so that it reads them, and put around prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.prompting.styles import Style, parse, styled, written
from studio.settings import SessionSettings, SettingsError
from studio.ui.tabs.prompt.styles import with_style

# As A1111 writes it: a mark at the start, a group's name, quoted words, a column nobody filled in.
OTHERS = (
    "\ufeffname,prompt,negative_prompt\n"
    "---- mine ----,,\n"
    'Poster,"{prompt}, flat style, ""bold""","photo, blurry"\n'
    "Blue,on a blue background,\n"
    "Clean,,noise\n"
    "Old,an old one\n"
)

lines = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"]), max_size=40)


def test_those_of_others_are_read():
    assert parse(OTHERS) == {
        "Poster": Style("Poster", '{prompt}, flat style, "bold"', "photo, blurry"),
        "Blue": Style("Blue", "on a blue background"),
        "Clean": Style("Clean", "", "noise"),
        "Old": Style("Old", "an old one"),
    }
    assert parse("") == {}


@given(st.dictionaries(lines.filter(bool), st.tuples(lines.filter(bool), lines), max_size=5))
def test_what_is_written_is_read_again(found):
    styles = {name: Style(name, *words) for name, words in found.items()}
    assert parse(written(styles.values())) == styles


@pytest.mark.parametrize("text", ["a,b\n1,2\n", 'name,prompt\nx,"never closed\n'])
def test_another_file_is_a_sentence(text):
    with pytest.raises(SettingsError, match=r"styles\.csv cannot be read"):
        parse(text)


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("a cat", "flat style", "a cat, flat style"),
        ("a cat", "", "a cat"),
        ("a cat", "poster of {prompt}, flat", "poster of a cat, flat"),
        ("a {red|blue} cat", "{prompt} asleep", "a {red|blue} cat asleep"),
    ],
)
def test_words_come_after_the_prompt_or_around_it_and_only_once(prompt, words, expected):
    assert styled(prompt, words) == expected
    assert styled(expected, words) == expected


def test_a_style_is_put_into_every_prompt_and_the_negative_one():
    before = SessionSettings(prompts=("a cat", "a dog", "a cat, flat"))
    style = Style("Flat", "flat", "photo")
    after = with_style(before, style)
    assert after.prompts == ("a cat, flat", "a dog, flat")
    assert after.sampling.negative_prompt == "photo"
    assert with_style(after, style) == after
    with pytest.raises(SettingsError, match="write one first"):
        with_style(SessionSettings(), style)
