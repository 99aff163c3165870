"""Signs of other programs in prompts are named, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.prompting.foreign import SIGNS, remarks


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat <lora:ink:0.8>", "“<lora:ink:0.8>” loads no LoRA here"),
        ("<LORA:ink>", "“<LORA:ink>” loads no LoRA"),
        ("<lyco:a b:1:0.5>", "“<lyco:a b:1:0.5>” loads no LoRA"),
        ("<hypernet:x:1>", "loads no LoRA"),
        (f"<lora:{'x' * 100}:1>", f"“<lora:{'x' * 53}…” loads"),
        ("a cat BREAK a dog", "“BREAK” divides no prompt"),
        ("a cat, BREAK, a dog", "“BREAK” divides no prompt"),
        ("a cat AND a dog", "“AND” joins no two prompts"),
        ("a [cat:dog:0.5]", "“[cat:dog:0.5]” changes no words between two steps"),
        ("a [cat:dog: 10 ]", "“[cat:dog: 10 ]” changes"),
        ("a [cat:0.5]", "“[cat:0.5]” changes"),
        ("a [cat::0.5]", "“[cat::0.5]” changes"),
        ("a [cat|dog]", "“[cat|dog]” does not alternate between steps"),
        ("a [cat|dog|(big:1.2) cow]", "does not alternate"),
    ],
)
def test_a_sign_of_another_program_is_named(prompt: str, said: str) -> None:
    [sentence] = remarks([prompt])
    assert said in sentence


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat and a dog",
        "SALT AND PEPPER",
        "AND",
        "breakfast, BREAKING news",
        "(a cat:1.4) [clouds] ((light))",
        "a {cat|dog} and __animal__",
        "a [cat] at 10:30",
        "a <3 heart>",
        "[a: b]",
    ],
)
def test_other_prompts_are_left_alone(prompt: str) -> None:
    assert remarks([prompt]) == []


def test_each_kind_is_said_once() -> None:
    prompts = ["a <lora:x:1>", "b <lora:y:1> BREAK", "c BREAK AND d"]
    assert [sentence.split("”")[0] for sentence in remarks(prompts)] == [
        "“<lora:x:1>",
        "“BREAK",
        "“AND",
    ]


@given(st.lists(st.text(st.sampled_from("[]|:<>lora:ANDBREAK 0.5{}\n")), max_size=4))
def test_no_prompt_does_harm(prompts: list[str]) -> None:
    assert len(remarks(prompts)) <= len(SIGNS)


@pytest.mark.parametrize(
    "sign", ["<lora:", "[", "[a:", "[|", "[a|", "[::", " AND", "BREA", "[a: 1"]
)
def test_the_longest_prompts_are_read_in_time_of_their_length(sign: str) -> None:
    # With time of its square, one of these takes minutes.
    remarks([sign * (200_000 // len(sign))])
