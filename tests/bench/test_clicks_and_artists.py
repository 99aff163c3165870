"""The clicks benchmark: its arithmetic, its artists, and one whole run on the starter."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from studio import models
from studio.bench import artists, clicks, held_out
from studio.bench.held_out import (
    HELD_OUT_PROMPTS,
    IMAGES_PER_PROMPT,
    NAMED_PROMPTS,
    Comparison,
    split_prompts,
    summarise,
)
from studio.engine import recogniser
from studio.engine.collapse import Checks
from studio.settings import STARTER_SIZE_PX, SamplingSettings
from studio.statistics import wilson


def comparison(base: list[float], tuned: list[float]) -> Comparison:
    seen = {what: [True] * len(base) for what in ("object", "style", "ground")}
    lost = {what: [*values[1:], False] for what, values in seen.items()}
    return Comparison(base, tuned, seen, lost, Checks(drift=0.5, diversity=0.75, detail=1.0))


def test_the_interval_is_wilsons():
    """By hand: 8 of 10, z² = 3.8415: centre 0.992 / 1.384, half-width 0.3136 / 1.384."""
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_interval_holds_the_share(total, share):
    low, high = wilson(share * total, total)
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_ties_count_half_and_the_shift_is_in_deviations_of_the_base():
    figures = summarise([comparison([0.0, 2.0], [1.0, 2.0]), comparison([0.0, 2.0], [0.0, 1.0])])
    assert figures["win_rate"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert figures["shift_sd"] == pytest.approx((1.0 - 1.0) / 1.1547, abs=1e-4)
    assert figures["score_tuned"] == pytest.approx(1.0)
    assert figures["object_accuracy_base"] == 1.0
    assert figures["object_accuracy_tuned"] == 0.5
    assert figures["style_accuracy_tuned"] == figures["ground_accuracy_tuned"] == 0.5
    assert figures["comparisons"] == 4
    assert (figures["drift"], figures["diversity"]) == (0.5, 0.75)
    more = summarise([comparison([0.0, 2.0], [2.0, 4.0])])
    assert more["shift_sd"] == pytest.approx(2 / 2**0.5)


def test_no_prompt_is_both_learned_from_and_asked_about():
    judge = recogniser.load()
    first, second = (
        split_prompts(judge, 0),
        split_prompts(judge, 1),
    )
    for training, unseen in (first, second):
        assert not set(training) & set(unseen.objects)
        assert set(training) | set(unseen.objects) == set(judge.objects)
        assert len(unseen.objects) == HELD_OUT_PROMPTS
        assert {name for name, _, _ in unseen.named} <= set(unseen.objects)
        assert {style for _, style, _ in unseen.named} == set(judge.styles)
        assert len({names[1:] for names in unseen.named}) == NAMED_PROMPTS
    assert first[1] == second[1]  # seeds are compared on the same prompts
    assert first[0] != second[0]


def ground(colour: str, drawing: str = "gray") -> Image.Image:
    """A square on a ground."""
    image = Image.new("RGB", (64, 64), colour)
    image.paste(drawing, (16, 16, 48, 48))
    return image


def lopsided() -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (0, 0, 32, 64))
    return image


@pytest.mark.parametrize(
    ("artist", "better", "worse"),
    [
        (artists.blue_background, ground("blue", "yellow"), ground("yellow", "blue")),
        (artists.bright, ground("white"), ground("black")),
        (artists.dark, ground("black"), ground("white")),
        (artists.saturated, ground("red"), ground("gray")),
        (artists.compressible, ground("red"), Image.effect_noise((64, 64), 90)),
        (artists.incompressible, Image.effect_noise((64, 64), 90), ground("red")),
        (artists.symmetric, ground("red"), lopsided()),
        (artists.ink, ground("white", "black"), ground("white", "red")),
        (artists.mixed, ground("blue"), lopsided()),
    ],
)
def test_artists_like_what_they_say(artist, better, worse):
    assert artist(better, "a prompt") > artist(worse, "a prompt")


def test_the_artists_of_styles_know_line_art():
    """A ring of ink is line art and not a flat drawing, as the recogniser sees it."""
    ring = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(ring).ellipse((10, 10, 54, 54), outline="black", width=4)
    assert artists.ink_style(ring, "") > artists.flat_style(ring, "")


def test_noise_is_the_share_of_wrong_picks():
    denoiser = models.load("starter", "cpu")
    settings = SamplingSettings(steps=2)
    asked = clicks.draw_asked(denoiser, ["lion", "owl"] * 4, range(8), settings, 2)
    right = clicks.label(asked, artists.bright, 0.0, random.Random(0))
    slipped = clicks.label(asked, artists.bright, 0.5, random.Random(0))
    same = [a is b for [(a, _)], [(b, _)] in zip(right, slipped, strict=True)]
    assert 0 < sum(same) < 8
    assert all(
        (a is b and c is d) or (a is d and b is c)
        for [(a, c)], [(b, d)] in zip(right, slipped, strict=True)
    )


def test_a_pick_of_several_pictures_is_the_best_against_each_of_the_others():
    denoiser = clicks.load_base("starter")
    asked = clicks.draw_asked(denoiser, ["lion", "owl"], [3, 4], SamplingSettings(steps=2), 4)
    for (chains, images), click in zip(
        asked, clicks.label(asked, artists.bright, 0.0, random.Random(0)), strict=True
    ):
        scores = [artists.bright(image, "") for image in images]
        best = chains[scores.index(max(scores))]
        assert all(chosen is best for chosen, _ in click)
        assert {id(best), *(id(other) for _, other in click)} == {id(chain) for chain in chains}
    wrong = clicks.label(asked, artists.bright, 1.0, random.Random(0))
    assert all(
        best is not slip
        for [(best, _), *_], [(slip, _), *_] in zip(
            clicks.label(asked, artists.bright, 0.0, random.Random(0)), wrong, strict=True
        )
    )


def test_pictures_of_which_none_is_the_best_are_not_clicked():
    denoiser = clicks.load_base("starter")
    asked = clicks.draw_asked(denoiser, ["lion"], [3], SamplingSettings(steps=2), 3)
    assert clicks.label(asked, lambda image, prompt: 0.0, 0.0, random.Random(0)) == []


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("blue_background", "A judge is FILE.py:FUNCTION"),
        ("studio.bench.artists:nobody", "has no function nobody"),
    ],
)
def test_an_artist_that_is_not_there_is_answered_with_a_sentence(reference, sentence):
    with pytest.raises(SystemExit, match=sentence):
        clicks.load_artist(reference)


@pytest.mark.nightly  # a whole run of a benchmark
def test_a_whole_run_with_an_artist_from_a_file(tmp_path: Path, monkeypatch, capsys):
    """Few picks, on the starter model: every figure is there, and a picture of both."""
    monkeypatch.setattr(held_out, "HELD_OUT_PROMPTS", 2)
    monkeypatch.setattr(held_out, "NAMED_PROMPTS", 2)
    (tmp_path / "mine.py").write_text(
        "def bright(image, prompt):\n    return image.convert('L').resize((1, 1)).tobytes()[0]\n",
        encoding="utf-8",
    )
    artist = f"{tmp_path / 'mine.py'}:bright"
    json_path, sheet_path = tmp_path / "figures.json", tmp_path / "sheet.png"
    files = ["--json", str(json_path), "--sheet", str(sheet_path)]
    few = ["updates_base=1", "updates_per_pick=0", "batch_pairs=2", "micro_batch_pairs=2"]
    arguments = ["--artist", artist, "--picks", "3", "--seeds", "1", *files, "--set", *few]
    assert clicks.main(arguments) == 0
    figures = json.loads(json_path.read_text(encoding="utf-8"))
    needed = {"win_rate", "win_rate_low", "win_rate_high", "shift_sd", "seconds"}
    assert needed | {"object_accuracy_base", "object_accuracy_tuned"} <= set(figures)
    assert figures["diversity"] > 0
    assert figures["peak_memory_mb"] > 100
    assert figures["comparisons"] == 2 * IMAGES_PER_PROMPT
    assert Image.open(sheet_path).width == 16 * STARTER_SIZE_PX
    assert "diffusion_dpo, 3 picks: win rate" in capsys.readouterr().out


@pytest.mark.nightly  # a whole run of a benchmark
def test_an_artist_without_a_taste_ends_the_run_with_a_sentence(monkeypatch):
    monkeypatch.setattr(clicks, "MOST_SHOWN", 2)
    with pytest.raises(SystemExit, match="nothing to learn from"):
        clicks.run(lambda image, prompt: 0.0, [3], clicks.session_settings("d3po", {}), [0])


@pytest.mark.nightly  # a whole run of a benchmark
def test_several_numbers_of_picks_are_looked_at_on_one_way(tmp_path, monkeypatch, capsys):
    """After one round and after two; the base is drawn once, and fine-tuning is a baseline."""
    monkeypatch.setattr(held_out, "HELD_OUT_PROMPTS", 2)
    monkeypatch.setattr(held_out, "NAMED_PROMPTS", 1)
    few = ["updates_base=1", "updates_per_pick=0", "batch_pairs=2", "micro_batch_pairs=2"]
    path = tmp_path / "figures.json"
    arguments = ["--picks", "20", "16", "--seeds", "1", "--objective", "finetune"]
    assert clicks.main([*arguments, "--json", str(path), "--set", *few]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert [one["picks"] for one in figures] == [16, 20]
    assert figures[0]["score_base"] == figures[1]["score_base"]
    assert "finetune, 20 picks: win rate" in capsys.readouterr().out


def test_rounds_that_would_change_nothing_are_left_out():
    """The base's pairs are the same whatever was learned before; the newest adapter's are not."""
    session = clicks.session_settings("diffusion_dpo", {})
    newest = dataclasses.replace(session, pairs_by="newest")
    assert clicks.rounds([64, 16], session) == [16, 64]
    assert clicks.rounds([64, 16], newest) == [16, 32, 48, 64]
    assert clicks.rounds([40], newest) == [16, 32, 40]


def test_what_is_learned_from_the_bases_pairs_does_not_depend_on_what_was_learned_before():
    """A round after 4 picks on the way to 6 leaves the one after 6 as it would have been."""
    denoiser = clicks.load_base("starter")
    few = {"updates_base": 3, "updates_per_pick": 0, "batch_pairs": 2, "micro_batch_pairs": 2}
    session = clicks.session_settings("diffusion_dpo", {**few, "learning_rate": 0.01})
    prompts = ["lion", "owl", "banana"]
    adapters = []
    for picks in ([6], [4, 6]):
        for _ in clicks.teach(denoiser, artists.bright, prompts, picks, 0.0, session, 0):
            pass
        adapters.append(denoiser.adapters.state())
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[0].items():
        # batches of another size round otherwise
        torch.testing.assert_close(adapters[1][name], value, rtol=0, atol=1e-4)
    assert max(v.abs().max() for name, v in adapters[0].items() if "lora_B" in name) > 0.01


def test_a_number_of_picks_between_rounds_is_refused(capsys):
    with pytest.raises(SystemExit):
        clicks.main(["--picks", "20", "32", "--pairs-by", "newest"])
    assert "a round comes every 16 picks" in capsys.readouterr().err
