"""Prompts with alternatives."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.prompting.alternatives import expand
from studio.settings import MAX_PROMPT_CHARACTERS, SettingsError


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    (tmp_path / "animal.txt").write_text("wolf\nfox\nsnow hare\n", encoding="utf-8")
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild" / "cats.txt").write_text("lynx\n", encoding="utf-8")
    (tmp_path / "loop.txt").write_text("a __loop__\n", encoding="utf-8")
    (tmp_path / "long.txt").write_text("x" * (MAX_PROMPT_CHARACTERS + 1), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "prompt",
    ["a red apple", "50% off, $5", "((masterpiece)), [blurry], (sky:1.3)", "a|b", "émoji 🦊 __"],
)
def test_a_prompt_that_leaves_nothing_open_stays_as_it_is(prompt, lists):
    assert expand(prompt, 1, lists) == prompt


def test_every_alternative_comes_up_and_a_seed_always_says_the_same(lists):
    drawn = [expand("a {red|green|blue} (apple:1.2)", seed, lists) for seed in range(60)]
    assert set(Counter(drawn)) == {f"a {c} (apple:1.2)" for c in ("red", "green", "blue")}
    assert drawn == [expand("a {red|green|blue} (apple:1.2)", seed, lists) for seed in range(60)]


def test_lists_come_from_files_that_may_change(lists):
    drawn = {expand("a __animal__ and a __wild/cats__", seed, lists) for seed in range(60)}
    assert drawn == {f"a {one} and a lynx" for one in ("wolf", "fox", "snow hare")}
    (lists / "animal.txt").write_text("moth\n", encoding="utf-8")
    assert expand("a __animal__", 1, lists) == "a moth"


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a __ghost__", "ghost.txt"),
        ("a {cat|dog", "both braces"),
        ("{0::a|0::b}", "cannot be read"),
        ("{|}", "come out empty"),
        ("__loop__", "name each other"),
        ("a __long__", "longer than"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(prompt, sentence, lists):
    with pytest.raises(SettingsError, match=sentence):
        expand(prompt, 1, lists)


def test_a_list_is_never_looked_for_outside_its_folder(lists):
    (lists.parent / "secret.txt").write_text("secret\n", encoding="utf-8")
    for prompt in ("__../secret__", "{__../secret__|__../secret__}", "__/etc/hostname__"):
        with contextlib.suppress(SettingsError):
            assert "secret" not in expand(prompt, 1, lists).replace("../secret", "")


@given(st.text(alphabet="{}|_$:%#!=a1 .\\/-é🦊", max_size=40), st.integers(0, 2**31))
def test_any_text_becomes_a_prompt_or_a_sentence(tmp_path_factory, text, seed):
    lists = tmp_path_factory.getbasetemp()
    try:
        drawn = expand(text, seed, lists)
    except SettingsError:
        return
    assert drawn == expand(text, seed, lists)
    assert drawn or not text.strip()
