"""Prompts with alternatives."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.prompting import alternatives
from studio.prompting.alternatives import expand
from studio.settings import MAX_PROMPT_CHARACTERS, SettingsError
from tests.support.work import steps_of


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
        ("{|}", "become empty"),
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
    lists = tmp_path_factory.getbasetemp() / "no-lists"  # the folder above holds all tests' files
    lists.mkdir(exist_ok=True)
    try:
        drawn = expand(text, seed, lists)
    except SettingsError:
        return
    assert drawn == expand(text, seed, lists)
    assert drawn or not text.strip()


def repeated(depth: int) -> str:
    """A variable that says another twice, and so on: 2 ** depth words."""
    variables = "${v0={x y|y x}}" + "".join(
        f"${{v{n}={{${{v{n - 1}}} ${{v{n - 1}}}}}}}" for n in range(1, depth)
    )
    return f"{{z}}{variables} ${{v{depth - 1}}}"


@pytest.mark.parametrize("depth", [14, 20, 40])
def test_an_expansion_that_grows_exponentially_is_given_up_while_it_runs(depth, lists, monkeypatch):
    spent = []
    spend = alternatives.Budget.spend
    monkeypatch.setattr(alternatives.Budget, "spend", lambda *a: (spent.append(1), spend(*a))[1])
    with pytest.raises(SettingsError, match="far too long"):
        expand(repeated(depth), 1, lists)
    assert len(spent) <= alternatives.MOST_COMMANDS + 1


def test_lists_that_name_lists_are_bounded_alike(lists):
    for n in range(1, 40):
        (lists / f"l{n}.txt").write_text(f"__l{n - 1}__ __l{n - 1}__\n", encoding="utf-8")
    (lists / "l0.txt").write_text("word\n", encoding="utf-8")
    assert expand("__l3__", 1, lists) == " ".join(["word"] * 8)
    with pytest.raises(SettingsError, match="far too long"):
        expand("__l39__", 1, lists)


def test_long_words_are_counted_too(lists):
    (lists / "wide.txt").write_text("x" * 1500 + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="far too long"):
        expand("{" + "__wide__ " * 40 + "}", 1, lists)


def test_a_number_sign_is_a_letter_like_any_other(lists):
    (lists / "flat.txt").write_text("apt #7, attic\n", encoding="utf-8")
    prompt = "a {red} apple, apt #5, with a sofa, __flat__"
    assert expand(prompt, 1, lists) == "a red apple, apt #5, with a sofa, apt #7, attic"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a {red} coat for $5, 50% off", "a red coat for $5, 50% off"),
        ("a sign, {red} // https://example.org", "a sign, red // https://example.org"),
        ("a sign, {red} /* by hand */, old", "a sign, red /* by hand */, old"),
        ("{$5 #1|$5 #1}", "$5 #1"),
        ("{2$$ and $$#1|#1}", "#1 and #1"),
        ("a {red} __wild//cats__", "a red lynx"),
        ("a {red} __price__", "a red 5% of $7 // net"),
    ],
)
def test_what_nobody_means_as_syntax_is_drawn_as_it_stands(prompt, text, lists):
    (lists / "price.yaml").write_text("price:\n - 2::5% of $7 // net\n")
    assert expand(prompt, 1, lists) == text


def test_a_long_list_is_read_once_however_often_it_is_named(lists):
    (lists / "many.txt").write_text("".join(f"word{n}\n" for n in range(20_000)))
    once, often = (
        steps_of(lambda n=n: expand("__many__ " * n, 1, lists), 5_000_000) for n in (1, 20)
    )
    assert often < 3 * once


def test_of_a_list_only_the_lines_that_are_drawn_are_parsed(lists):
    for name, count in (("few", 200), ("lots", 4000)):
        (lists / f"{name}.txt").write_text("".join(f"a {{red|green}} {n}\n" for n in range(count)))
    few, lots = (
        steps_of(lambda name=name: expand(f"{{2$$ and $$__{name}__}}", 1, lists), 5_000_000)
        for name in ("few", "lots")
    )
    assert lots < 5 * few  # of twenty times the lines


def test_lines_that_are_drawn_together_differ_and_weights_count(lists):
    (lists / "weighed.yaml").write_text("odds:\n - 0::never\n - 99::often\n - 1::rare\n")
    drawn = Counter(expand("{1$$__odds__}", seed, lists) for seed in range(200))
    assert drawn["never"] == 0
    assert drawn["often"] > 180 > 20 > drawn["rare"]
    several = {expand("{2$$ and $$__animal__}", seed, lists) for seed in range(100)}
    animals = ("wolf", "fox", "snow hare")
    assert several == {f"{a} and {b}" for a in animals for b in animals if a != b}


def test_what_is_asked_for_in_turn_is_drawn_at_random(lists):
    assert {expand("{@a|b}", seed, lists) for seed in range(20)} == {"a", "b"}


def test_long_lines_are_counted_before_they_are_parsed(lists):
    (lists / "choice.txt").write_text("{" + "|".join(["a"] * 2500) + "}\n")
    assert expand("__choice__", 1, lists) == "a"
    with pytest.raises(SettingsError, match="far too long"):
        expand("__choice__ __choice__", 1, lists)


def test_a_file_of_lists_that_refers_to_itself_is_not_read(lists):
    bomb = "l0: &l0 {a: [x], b: [y]}\n" + "".join(
        f"l{n}: &l{n} {{a: *l{n - 1}, b: *l{n - 1}}}\n" for n in range(1, 30)
    )
    (lists / "bomb.yaml").write_text(bomb)
    (lists / "deep.json").write_text("[" * 100_000)

    def drawn() -> None:
        with pytest.raises(SettingsError, match=r"l3/a.*bomb\.yaml refers to parts of itself"):
            expand("a __l3/a__", 1, lists)
        assert expand("a __wild/cats__", 1, lists) == "a lynx"

    steps_of(drawn, 2_000_000)


def test_folders_that_link_to_each_other_are_looked_into_once(lists):
    (lists / "again").symlink_to(lists, target_is_directory=True)
    assert expand("a __wild/cats__", 1, lists) == "a lynx"


def test_a_list_that_names_a_missing_one_is_a_sentence(lists):
    (lists / "gap.txt").write_text("a __ghost__\n")
    with pytest.raises(SettingsError, match=r"ghost\.txt"):
        expand("__gap__", 1, lists)


@pytest.mark.parametrize("unit", ["{", "{a|", "${a:", "%{a$$", "__${a:", "{1$$", "__a-", "{@a|b}"])
@pytest.mark.parametrize("end", ["", "}", "__"])
def test_a_prompt_is_parsed_in_time_of_about_its_length(unit, end, lists):
    def read(count: int) -> None:
        with contextlib.suppress(SettingsError):
            expand("{z}" + unit * count + "a" + end * count, 1, lists)

    small, large = (steps_of(lambda n=n: read(n), 5_000_000) for n in (6, 24))
    assert large < 8 * small


@pytest.mark.parametrize(
    "prompt", ["{a} ${x}", "{a} __${x:{b|c}}__", "{a|b} ${unset} c", "{" * 200 + "a|b" + "}" * 200]
)
def test_whatever_cannot_be_read_is_a_sentence(prompt, lists):
    with pytest.raises(SettingsError):
        expand(prompt, 1, lists)
