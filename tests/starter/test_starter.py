"""The starter's recipe: scenes and their words, drawings, and a whole run of every command."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio import models
from studio.engine import sampling
from studio.settings import SamplingSettings
from studio.starter import data, evaluate, scenes, train
from studio.starter.data import Drawings
from studio.starter.recipe import FULL, RECIPES, SMALL, Recipe
from studio.starter.scenes import Scene
from tests.support.packages import SHAPES, add_package

TINY = replace(
    FULL,
    name="tiny",
    size_px=64,
    drawing_px=48,
    scenes=0.5,
    unet_widths=(16, 32),
    text_width=32,
    text_layers=1,
    vocabulary=300,
    autoencoder_updates=3,
    recogniser_updates=3,
    diffusion_updates=3,
    batch=4,
)
COLOURS = ("maroon", "navy", "orange", "teal", "black")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with the drawings of packages that need not be downloaded."""
    folder = tmp_path_factory.mktemp("tiny")
    packages = folder / "packages"
    packages.mkdir()
    for package, colour in zip(data.STYLES.values(), COLOURS, strict=True):
        icons = {
            data.icon_name(name): {"body": f"<g fill='{colour}'>{shape}</g>"}
            for name, (_, _, shape) in SHAPES.items()
        }
        add_package(packages, package, "icons.json", {"icons": icons, "width": 32, "height": 32})
    emoji = {character: {"name": name, "group": "x"} for name, (character, _, _) in SHAPES.items()}
    emoji["🏁"] = {"name": "chequered flag", "group": "Flags"}
    add_package(packages, data.NAMES_PACKAGE, "data-by-emoji.json", emoji)
    words = {character: words for character, words, _ in SHAPES.values()}
    add_package(packages, data.KEYWORDS_PACKAGE, "dist/emoji-en-US.json", words)
    data.build(TINY, folder)
    return folder


@pytest.fixture(scope="module")
def drawings(built: Path) -> Drawings:
    return data.load(built)


# --- scenes --------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32).map(random.Random)
relations = st.sampled_from(sorted(scenes.CELLS))
recipes = st.sampled_from([TINY, FULL])


@given(st.sampled_from(["alone", *scenes.CELLS]), st.sampled_from([TINY, FULL, SMALL]), seeds)
def test_nothing_lies_outside_the_picture(relation: str, recipe: Recipe, draw: random.Random):
    for top, left, side in scenes.boxes(relation, recipe, draw):
        assert 0 < side <= recipe.drawing_px
        assert min(top, left) >= 0
        assert max(top, left) + side <= recipe.size_px


@given(relations, recipes, seeds)
def test_objects_do_not_overlap_and_stay_in_their_cells(relation, recipe, draw):
    taken = torch.zeros(recipe.size_px, recipe.size_px)
    placed = scenes.boxes(relation, recipe, draw)
    for (top, left, side), cell in zip(placed, scenes.cells(relation, recipe.size_px), strict=True):
        taken[top : top + side, left : left + side] += 1
        assert top >= cell[0]
        assert left >= cell[1]
        assert max(top - cell[0], left - cell[1]) + side <= cell[2]
    assert taken.max() == 1


# What a caption's words say of the boxes (top, left, side) of what it names first and second.
SAYS: dict[str, Callable[[list[tuple[int, int, int]]], bool]] = {
    "to the left of": lambda named: named[0][1] + named[0][2] <= named[1][1],
    "to the right of": lambda named: named[1][1] + named[1][2] <= named[0][1],
    "on the left and": lambda named: named[0][1] + named[0][2] <= named[1][1],
    "above": lambda named: named[0][0] + named[0][2] <= named[1][0],
    "over": lambda named: named[0][0] + named[0][2] <= named[1][0],
    "below": lambda named: named[1][0] + named[1][2] <= named[0][0],
    "smaller than": lambda named: named[0][2] < named[1][2],
    "^a small": lambda named: named[0][2] < named[1][2],
    "^a large": lambda named: named[1][2] < named[0][2],
}
COUNTS = {"two owls": 2, "three owls": 3}


@given(relations, recipes, seeds)
def test_the_caption_says_how_the_objects_stand(relation, recipe, draw):
    scene = Scene(relation, ("owl", "mouse")[: scenes.OBJECTS[relation]], "ink", "red")
    placed = scenes.boxes(relation, recipe, draw)
    for wording in range(len(scenes.SENTENCES[relation])):
        words = scenes.subject(scene, wording)
        if words in COUNTS:
            assert len(placed) == COUNTS[words]
            continue
        named = placed if words.index("owl") < words.index("mouse") else placed[::-1]
        # "a small owl and a large mouse" begins with what is said of the first
        said = next(said for phrase, said in SAYS.items() if re.search(phrase, words))
        assert said(named), words


def test_a_caption_has_what_is_named_and_no_more():
    scene = Scene("left", ("owl", "unicorn"), "ink", "red")
    says = {
        scenes.words_for(scene, FULL, {}, style, ground, random.Random(seed))
        for style, ground in ((True, True), (False, False))
        for seed in range(50)
    }
    assert "an owl to the left of a unicorn in ink style on a red background" in says
    assert "a unicorn to the right of an owl" in says
    assert all(("ink" in words) == ("red" in words) for words in says)


def test_keywords_are_only_said_where_the_recipe_has_them():
    owl = Scene("alone", ("owl",), "ink", "red")
    keywords = {"owl": ("bird", "hoot")}
    draw = random.Random(1)
    small = {scenes.words_for(owl, SMALL, keywords, True, True, draw) for _ in range(200)}
    assert small == {"owl, ink style, red background", "an owl in ink style on a red background"}
    full = {scenes.words_for(owl, FULL, keywords, False, True, draw) for _ in range(400)}
    assert {"owl on red", "owl, red background, bird", "bird hoot on red"} <= full


def test_words_that_have_no_plural_of_their_own_stay():
    many = [scenes.subject(Scene("two", (name,), "ink", "red")) for name in ("mouse", "jeans")]
    assert many == ["two mice", "two jeans"]


# --- drawings ------------------------------------------------------------------------------------


def reduced(values: np.ndarray, side: int) -> np.ndarray:
    """(d, d, channels) to (side, side, channels): every pixel so often that whole ones are left."""
    large = values.repeat(side, 0).repeat(side, 1)
    each = len(values)
    return large.reshape(side, each, side, each, -1).mean((1, 3))


def by_hand(
    rgba: torch.Tensor, boxes: list[tuple[int, int, int]], ground: torch.Tensor, size_px: int
) -> torch.Tensor:
    """(N, 4, d, d) as an image program does it: reduce, paste, one drawing after the other."""
    canvas = np.tile(ground.numpy().astype(float), (size_px, size_px, 1))
    for drawing, (top, left, side) in zip(rgba, boxes, strict=True):
        values = drawing.permute(1, 2, 0).numpy() / 255.0
        cover = reduced(values[..., 3:], side)
        colour = reduced(values[..., :3] * values[..., 3:], side) * 255
        place = canvas[top : top + side, left : left + side]
        place[:] = colour + place * (1 - cover)
    return torch.from_numpy(canvas).permute(2, 0, 1).float() / 127.5 - 1


def test_composing_a_batch_is_like_pasting_one_by_one(drawings: Drawings):
    draw = random.Random(3)
    shown = scenes.draw_scenes(TINY, drawings, frozenset(), 40, draw)
    assert len({scene.relation for scene in shown}) == 6
    placed = [scenes.boxes(scene.relation, TINY, draw) for scene in shown]
    ground = scenes.palette(shown)
    together = scenes.drawn(drawings, shown, placed, ground, TINY.size_px)
    for i, (scene, boxes) in enumerate(zip(shown, placed, strict=True)):
        names = (scene.objects * 3)[: len(boxes)]
        rows = [drawings.concepts.index(name) for name in names]
        rgba = drawings.rgba[rows, drawings.styles.index(scene.style)]
        alone = by_hand(rgba, boxes, ground[i], TINY.size_px)
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-5)


def test_a_drawing_in_its_own_size_is_kept_to_the_pixel():
    rgba = torch.randint(256, (1, 1, 4, 6, 6), dtype=torch.uint8)
    rgba[:, :, 3] = 255
    image = data.compose(rgba, torch.tensor([[[1, 2, 6]]]), torch.zeros(1, 3), 8)
    shown = ((image + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(shown[:, :, 1:7, 2:8], rgba[:, 0, :3])
    assert not shown[:, :, 0].any()


def test_drawings_are_read_as_they_were_rendered(built: Path, drawings: Drawings):
    assert drawings.concepts == tuple(SHAPES)
    assert drawings.rgba.shape == (4, 5, 4, 48, 48)
    icons = data.read_member(next((built / "packages").glob("*twemoji*")), "icons.json")
    rendered = data.render(data.icon_svg(icons, "owl"), 48)
    read = drawings.rgba[drawings.concepts.index("owl"), drawings.styles.index("sticker")]
    expected = torch.from_numpy(np.array(rendered)).permute(2, 0, 1)
    assert torch.equal(read[3], expected[3])
    visible = expected[3] > 0
    assert torch.equal(read[:3, visible], expected[:3, visible])
    assert data.load(built, ["owl"]).concepts == ("owl",)


def test_keywords_are_plain_words_and_not_the_name(drawings: Drawings):
    assert drawings.keywords["red apple"] == ("fruit", "mac")
    assert drawings.keywords["owl"] == ("bird", "hoot")


def test_drawings_that_are_not_there_are_asked_for(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"run python -m studio\.starter\.data first"):
        data.load(tmp_path)


# --- held out ------------------------------------------------------------------------------------


def test_each_object_is_seen_in_every_style_and_on_every_ground(drawings: Drawings):
    unseen = scenes.held_out(FULL, drawings)
    assert len(unseen) == 3 * len(drawings.concepts)
    for name in drawings.concepts:
        mine = {(style, ground) for concept, style, ground in unseen if concept == name}
        seen = {(s, g) for s in data.STYLES for g in data.GROUNDS} - mine
        assert {style for style, _ in seen} == set(data.STYLES)
        assert {ground for _, ground in seen} == set(data.GROUNDS)
    assert not scenes.held_out(SMALL, drawings)


def test_what_is_held_out_is_never_drawn(drawings: Drawings):
    unseen = scenes.held_out(replace(TINY, held_out=0.5), drawings)
    drawn = scenes.draw_scenes(TINY, drawings, unseen, 2000, random.Random(5))
    combinations = {(name, s.style, s.ground) for s in drawn for name in s.objects}
    assert not combinations & unseen
    assert len(combinations) == 4 * 15  # all the others are


def test_the_tokenizer_knows_every_word_of_the_captions(drawings: Drawings, tmp_path: Path):
    tokenizer = train.tokenizer_for(TINY, drawings, frozenset(), tmp_path / "tokenizer")
    words = tokenizer.tokenize("man’s shoe, red apple")
    assert words == [word + "</w>" for word in ("man", "âĢĻ", "s", "shoe", ",", "red", "apple")]
    assert tokenizer.unk_token not in tokenizer.tokenize("a word that is new")


# --- the model -----------------------------------------------------------------------------------


class Words(list):
    """As many as a tokenizer has at most: merges, the alphabet twice, beginning and end."""

    bos_token_id = eos_token_id = pad_token_id = 0


@pytest.mark.parametrize(("recipe", "most_mb"), [(SMALL, 28), (FULL, 40)])
def test_the_weights_stay_small(recipe: Recipe, most_mb: float):
    with torch.device("meta"):
        parts = [train.new_unet(recipe), train.new_autoencoder(recipe)]
        parts.append(train.new_text_encoder(recipe, Words(range(recipe.vocabulary + 514))))
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    assert 2 * parameters < most_mb * 1e6, parameters


@pytest.mark.nightly
def test_a_run_in_pieces_is_the_same_as_one_in_one_piece(built: Path, tmp_path: Path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    shutil.copytree(built, whole)
    for stage in train.TRAINED.values():
        assert stage(TINY, whole, 0, "cpu", math.inf)
    shutil.copytree(built, pieces)
    shutil.copytree(whole / "tokenizer", pieces / "tokenizer")
    for name, stage in train.TRAINED.items():
        calls = [stage(TINY, pieces, 0, "cpu", -math.inf) for _ in range(3)]
        assert calls == [False, False, True]  # an update a call
        one, other = (torch.load(f / f"{name}.pt", weights_only=True) for f in (whole, pieces))
        assert_equal(one, other, name)


def assert_equal(one: object, other: object, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("write", "diffusion.pt: the stage diffusion comes first"),
        ("diffusion", "autoencoder.pt: the stage autoencoder comes first"),
    ],
)
def test_a_stage_says_which_one_comes_before_it(built: Path, monkeypatch, stage: str, said: str):
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    with pytest.raises(SystemExit, match=said):
        train.main([stage, "--recipe", "tiny", "--folder", str(built), "--device", "cpu"])


@pytest.mark.nightly
def test_an_autoencoder_that_is_half_trained_is_not_built_upon(built: Path, tmp_path: Path):
    shutil.copytree(built, tmp_path / "build")
    assert not train.train_autoencoder(TINY, tmp_path / "build", 0, "cpu", -math.inf)
    with pytest.raises(SystemExit, match="not trained to its end yet"):
        train.train_diffusion(TINY, tmp_path / "build", 0, "cpu", math.inf)


def test_every_command_of_the_recipe(built: Path, tmp_path: Path, monkeypatch, capsys):
    """From drawings to a folder that the studio draws from, and its figures."""
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    folder = tmp_path / "build"
    shutil.copytree(built / "packages", folder / "packages")
    options = ["--recipe", "tiny", "--folder", str(folder)]
    data.main(options)
    train.main(["--minutes", "0", "--device", "cpu", *options])
    assert "the same command goes on with the autoencoder" in capsys.readouterr().out
    train.main(["--device", "cpu", *options])

    model = folder / "model"
    denoiser = models.load(str(model), "cpu")
    settings = SamplingSettings(steps=2, width_px=64, height_px=64)
    [picture] = sampling.images(denoiser, sampling.sample(denoiser, ["two owls"], [1], settings))
    assert picture.size == (64, 64)

    report = tmp_path / "figures.json"
    evaluate.main(
        [*options, "--model", str(model), "--steps", "2", "--subset", "2", "--json", str(report)]
    )
    figures = json.loads(report.read_text())
    for group in ("named", "named_held_out"):
        assert set(figures[group]) == {"style", "ground", "object_top1", "object_top5"}
        assert figures[group]["object_top5"] == 1  # of four
    assert set(figures["guidance"]) == {"2.0", "4.0", "6.0"}
    assert set(figures["steps"]) == {"20", "50"}
    assert set(figures["scenes"]) == set(scenes.CELLS)
    assert sum(figures["plain"]["style_shares"].values()) == pytest.approx(1)
    assert 0 <= figures["plain"]["ground_uneven"] < 1
    assert 0 < figures["autoencoder_psnr_db"] < 60
    assert figures["seconds_a_pair"] > 0
    assert 3 < figures["weights_mb"] < 10
    for name in ("named", "held_out", "plain", "scenes"):
        assert (folder / f"contact_{name}.png").exists()


def test_a_model_of_another_size_is_refused(built: Path):
    with pytest.raises(SystemExit, match="starter does not draw the 128 px of this recipe"):
        evaluate.main(["--recipe", "full", "--folder", str(built), "--device", "cpu"])
