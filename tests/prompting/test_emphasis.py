"""Emphasis in prompts, and what the text encoders make of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio import models
from studio.prompting.emphasis import for_comfyui, weighted
from tests.support.work import steps_of


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("a (red) apple", [("a ", 1.0), ("red", 1.1), (" apple", 1.0)]),
        ("a [red] apple", [("a ", 1.0), ("red", 0.909091), (" apple", 1.0)]),
        ("(red:1.4) apple", [("red", 1.4), (" apple", 1.0)]),
        ("((red) apple:1.5)", [("red", 1.65), (" apple", 1.5)]),
        ("(((red)))", [("red", 1.331)]),
        (r"a \(red\) apple", [("a (red) apple", 1.0)]),
        ("ratio 3:2, (a: b)", [("ratio 3:2, ", 1.0), ("a: b", 1.1)]),
        ("a (red apple", [("a (red apple", 1.0)]),
        ("a red) apple]", [("a red) apple]", 1.0)]),
        ("(a [b) c]", [("(a ", 1.0), ("b) c", 0.909091)]),
        ("(red:9)", [("red", 4.0)]),
        ("(red:.5)", [("red", 0.5)]),
        (f"((red:0):{'9' * 400})", [("red", 0.0)]),
        (f"(red:{'9' * 400})", [("red", 4.0)]),
        ("()", []),
        ("", []),
    ],
)
def test_brackets_are_read_as_a1111_reads_them(prompt, parts):
    found = weighted(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@given(st.text(alphabet="ab ()[]:1.9\\é🦊\n", max_size=60))
def test_any_text_is_read(prompt):
    parts = weighted(prompt)
    assert all(text and 0 <= weight <= 4 for text, weight in parts)
    assert len("".join(text for text, _ in parts)) <= len(prompt)


@pytest.mark.parametrize("unit", ["(a", "[(", "(", ":", "(a:2"])
def test_brackets_within_brackets_take_time_of_their_length(unit):
    close = {"(a": ")", "[(": ")]", "(a:2": ")"}.get(unit, "")
    small, large = (steps_of(lambda n=n: weighted(unit * n + close * n)) for n in (100, 400))
    assert large < 5 * small


@given(st.text(alphabet="ab ,.é🦊", max_size=60))
def test_a_text_without_brackets_is_itself(prompt):
    assert "".join(text for text, _ in weighted(prompt)) == prompt
    assert all(weight == 1 for _, weight in weighted(prompt))


def test_more_of_a_word_moves_the_text_further_the_same_way():
    denoiser = models.load("starter", "cpu")
    plain, more, most, less = (
        denoiser.text.embed([prompt]).states.flatten()
        for prompt in ("red apple", "(red:1.3) apple", "(red:1.8) apple", "(red:0.5) apple")
    )
    assert torch.equal(plain, denoiser.text.embed([r"red apple"]).states.flatten())
    along = torch.cosine_similarity(more - plain, most - plain, dim=0)
    against = torch.cosine_similarity(less - plain, most - plain, dim=0)
    assert along > 0.9
    assert against < 0
    assert (most - plain).norm() > (more - plain).norm() > 0


def test_what_weighs_more_is_read_from_the_layer_that_clip_skip_says():
    denoiser = models.load("starter", "cpu")
    plain, more = (denoiser.text.embed([p], 2).states for p in ("red apple", "(red:1.4) apple"))
    last = denoiser.text.embed(["(red:1.4) apple"]).states
    # the tokens around the weighted one are those of the plain prompt, read from the same layer
    torch.testing.assert_close(more[:, 2:], plain[:, 2:])
    assert not torch.allclose(more, last, atol=1e-2)


def test_more_layers_cannot_be_left_out_than_there_are():
    denoiser = models.load("starter", "cpu")
    with pytest.raises(models.ModelError, match="has 2 layers"):
        denoiser.text.embed(["red apple"], 3)


def test_comfyui_has_no_square_brackets():
    found = for_comfyui(r"a [cloud], (warm:1.3) ((sky)) \(old\) (")
    assert found == r"a (cloud:0.9091), (warm:1.3) (sky:1.21) \(old\) \("
    assert weighted(for_comfyui("a ([cloud]) b")) == [("a cloud b", 1.0)]
