"""Prompts that a picture does not fit."""

import pytest

from studio.prompting.mismatched import (
    GROUNDS,
    mismatched,
    other_colours,
    other_ground,
    other_prompt,
    other_style,
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("apple", "apple, red background"),
        ("apple, red background", "apple, green background"),
        ("an apple on a Night background, oil", "an apple on a red background, oil"),
        ("a cat in the background", "a cat in the background, red background"),
    ],
)
def test_another_ground(prompt: str, expected: str) -> None:
    assert other_ground(prompt, (), 0) == expected


def test_another_style() -> None:
    assert other_style("apple", (), 0) == "apple, flat style"
    assert other_style("apple, flat style", (), 0) == "apple, watercolour style"
    assert other_style("a pop-art style apple", (), 1) == "a watercolour style apple"


def test_other_colours_but_not_of_the_ground() -> None:
    words = "red apple with a green leaf, blue background"
    assert other_colours(words, (), 0) == "green apple with a red leaf, blue background"
    assert other_colours("apple, blue background", (), 0) is None
    assert other_colours("a scarred apple", (), 0) is None


def test_another_prompt_shares_no_word() -> None:
    others = ["a red apple", "the red fox", "an owl", "a Fox"]
    assert other_prompt("a fox", others, 0) == "a red apple"
    assert other_prompt("a fox", others, 1) == "an owl"
    assert other_prompt("red apple, fox, owl", others, 0) is None


def test_every_prompt_has_one_that_differs_and_all_grounds_take_their_turn() -> None:
    prompts = ["apple", "a fox", "owl, red background", "ink style"] * 10
    found = mismatched(prompts)
    assert len(found) == len(prompts)
    assert all(wrong != prompt for wrong, prompt in zip(found, prompts, strict=True))
    assert all(any(f"{ground} background" in wrong for wrong in found) for ground in GROUNDS)
    assert mismatched(prompts) == found
    assert mismatched(["apple"]) == ["apple, red background"]
