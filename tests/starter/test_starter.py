"""The starter's recipe: its pictures, and a whole run of every stage."""

from __future__ import annotations

import functools
import io
import json
import math
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from studio import models
from studio.engine import recogniser, sampling
from studio.settings import STARTER_PATH, SamplingSettings
from studio.starter import (
    captions,
    codes,
    evaluate,
    networks,
    packages,
    perceptual,
    pictures,
    samples,
    sources,
    start,
    styles,
    train,
    trained,
)
from studio.starter.loop import Run, learning_rate
from studio.starter.pictures import GROUNDS, PLACEMENTS, SIZE_PX, Pictures
from tests.support.packages import SHAPES, add_package

NAMES = ("red apple", "owl")  # a latent of each of 264 pictures
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
STAGES = {
    "diffusion": train.train_diffusion,
    "teacher": functools.partial(train.train_recogniser, name=perceptual.TEACHER),
    "decoder": train.train_decoder,
    "autoencoder": train.train_autoencoder,
    "encoder": train.train_encoder,
    "recogniser": train.train_recogniser,
}


@pytest.fixture(scope="module", autouse=True)
def few_are_fitted_to() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(codes, "FITTED_TO", 60)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with the drawings of packages that need not be downloaded."""
    folder = tmp_path_factory.mktemp("starter")
    cache = folder / "packages"
    cache.mkdir()
    for (package, version, _), colour in zip(
        sources.ICON_SETS.values(), ("maroon", "navy", "teal", "black"), strict=True
    ):
        icons = {
            packages.icon_name(name): {"body": f"<g fill='{colour}'>{shape}</g>"}
            for name, (_, _, shape) in SHAPES.items()
        }
        content = {"icons": icons, "width": 32, "height": 32}
        add_package(cache, (package, version), "icons.json", content)
    emoji = {character: {"name": name, "group": "x"} for name, (character, _, _) in SHAPES.items()}
    add_package(cache, sources.NAMES_PACKAGE, "data-by-emoji.json", emoji)
    name, version = sources.RENDERS_PACKAGE
    tarball = cache / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for number, (character, _, _) in enumerate(SHAPES.values()):
            stream = io.BytesIO()
            Image.new("RGBA", (256, 256), (60 * number, 90, 30, 255)).save(stream, "WEBP")
            entry = tarfile.TarInfo(f"package/assets/{ord(character):04x}.webp")
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))
    pictures.build(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def loaded(built: Path) -> Pictures:
    return pictures.load(built)


def test_every_picture_has_its_number(loaded: Pictures):
    assert loaded.count == len(NAMES) * len(styles.STYLES) * len(GROUNDS) * len(PLACEMENTS)
    number = np.array([loaded.count - 1])
    last = [int(part[0]) for part in loaded.parts(number)]
    assert last == [len(NAMES) - 1, len(styles.STYLES) - 1, len(GROUNDS) - 1, len(PLACEMENTS) - 1]
    assert sum(placement.share for placement in PLACEMENTS) == pytest.approx(1)


def test_a_drawing_stands_where_its_placement_says(loaded: Pictures):
    """On white ground, in ink: outside the drawing's square all is ground, inside it is not."""
    by_parts = np.arange(loaded.count).reshape(loaded.sizes)
    apple, ink, white = NAMES.index("red apple"), styles.STYLES.index("ink"), 0
    images = loaded.drawn(by_parts[apple, ink, white])
    assert images.shape == (len(PLACEMENTS), 3, SIZE_PX, SIZE_PX)
    for image, place in zip(images, PLACEMENTS, strict=True):
        dark = (image < 0).all(0)
        rows, columns = (dark.any(axis).nonzero().flatten() for axis in (1, 0))
        assert place.top_px <= rows.min() <= rows.max() < place.top_px + place.side_px
        assert place.left_px <= columns.min() <= columns.max() < place.left_px + place.side_px
        assert dark.sum() > 0.4 * place.side_px**2  # a disc of 14 of 16 covers 0.6


def test_a_mirrored_drawing_is_the_mirror_image(loaded: Pictures):
    by_parts = np.arange(loaded.count).reshape(loaded.sizes)
    places = [PLACEMENTS[0].mirrored, PLACEMENTS[1].mirrored]
    assert places == [False, True]
    plain, mirrored = loaded.drawn(by_parts[NAMES.index("owl"), 0, 0, :2])
    torch.testing.assert_close(plain.flip(2), mirrored)


def test_captions_name_what_they_are_given():
    assert captions.words("owl", "ink", "blue", 0) == "owl, ink style, blue background"
    assert captions.words("owl", "ink", "blue", 1) == "an ink owl on a blue background"
    assert [captions.words("owl", None, None, form) for form in (0, 1)] == ["owl", "an owl"]


def test_codes_are_principal_components(loaded: Pictures, built: Path):
    """The basis is orthonormal, and pictures come back nearly as they were."""
    fitted, latents = codes.stored_latents(loaded, built)
    basis = fitted["basis"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(codes.CHANNELS), atol=1e-3, rtol=0)
    assert latents.shape == (loaded.count, codes.CHANNELS, codes.PLACES, codes.PLACES)
    images = loaded.drawn(np.arange(8))
    again = codes.linear_decode(fitted, codes.encode(fitted, images))
    assert 10 * math.log10(4 / (again - images).square().mean()) > 20


def test_the_distance_of_two_clouds():
    """Of Gaussians along the axes: squares of the differences of means and of spreads."""
    cube = torch.tensor([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    first, second = cube, cube * torch.tensor([3.0, 1.0]) + torch.tensor([0.0, 2.0])
    unit = 4 / 3  # the variance of -1, -1, 1, 1
    assert evaluate.frechet(first, second) == pytest.approx(4 + unit * (3 - 1) ** 2, rel=1e-5)
    assert evaluate.frechet(first, first) == pytest.approx(0, abs=1e-5)


def test_edges_are_differences_of_neighbours():
    halves = Image.new("RGB", (SIZE_PX, SIZE_PX), "black")
    halves.paste("white", (SIZE_PX // 2, 0, SIZE_PX, SIZE_PX))
    assert evaluate.mean_gradient([halves]) == pytest.approx(1 / (SIZE_PX - 1) / 2, rel=1e-5)


def test_blind_pairs_say_which_side_is_ours():
    ours = [Image.new("RGB", (2, 2), "red")] * 30
    theirs = [Image.new("RGB", (2, 2), "blue")] * 30
    shown, sides = evaluate.blind_pairs(ours, theirs, random.Random(1))
    assert 5 < sides.count("left") < 25
    for place, side in enumerate(sides):
        assert shown[2 * place + (side == "right")] is ours[0]


def test_every_style_meets_every_ground(loaded: Pictures):
    asked = evaluate.all_named(loaded)
    assert len(asked) == len(NAMES) * len(styles.STYLES)
    eleven = Pictures(np.zeros((11, 6, 4, 1, 1)), loaded.grounds, ("x",) * 11)
    assert len({parts[1:] for parts in evaluate.all_named(eleven)}) == 6 * 11


def test_a_smaller_decoder_is_taken_over_but_for_the_last_levels():
    small, whole = networks.new_autoencoder(64).decoder, networks.new_autoencoder().decoder
    train.take_over(whole, small.state_dict())
    learned = small.state_dict()
    same = {
        name
        for name, values in whole.state_dict().items()
        if name in learned and torch.equal(values, learned[name])
    }
    last = "up_blocks.3.resnets.1.conv2.weight"
    assert {"conv_in.weight", "mid_block.resnets.0.conv1.weight", last} <= same
    assert "conv_out.weight" not in same
    latents = torch.zeros(1, codes.CHANNELS, codes.PLACES, codes.PLACES)
    assert (small(latents).shape[-1], whole(latents).shape[-1]) == (64, SIZE_PX)


def test_pictures_are_compared_by_the_direction_of_features():
    """At right angles each place is off by 1² + 1², at 45 degrees by (1 - ½√2)² + ½, times layers;
    and a place's brightness alone is nothing."""
    layers = nn.Sequential(nn.Identity(), nn.Identity())
    red, green, mixed = (
        torch.tensor(colour)[None, :, None, None].expand(1, 3, 64, 64)
        for colour in ([1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0])
    )
    compared = [perceptual.feature_error(layers, red, other) for other in (green, mixed, 0.5 * red)]
    diagonal = (1 - math.sqrt(0.5)) ** 2 + 0.5
    assert [float(error) for error in compared] == pytest.approx([4, 2 * diagonal, 0], abs=1e-4)
    nothing = torch.zeros(1, 3, 64, 64, requires_grad=True)
    perceptual.feature_error(layers, nothing, red).backward()
    assert nothing.grad.isfinite().all()


def test_the_judge_is_not_the_teacher(loaded: Pictures, built: Path, tmp_path: Path):
    """From the same build folder with the shipped judge unpacked, the teacher begins anew."""
    folder = tmp_path / "build"
    shutil.copytree(built, folder)
    judge = recogniser.Network(len(NAMES), len(styles.STYLES), len(GROUNDS))
    torch.save({"network": judge.state_dict()}, folder / start.START)
    for name in (perceptual.TEACHER, "recogniser"):
        run = Run(folder, 1, peak=0.0)
        assert train.train_recogniser(loaded, run, batch=2, name=name)
    made = {name: recogniser.load(folder / name).network.head for name in ("teacher", "recogniser")}
    assert torch.equal(made["recogniser"].weight, judge.head.weight.half().float())
    assert (made["teacher"].weight - judge.head.weight).abs().max() > 0.01
    assert perceptual.teacher_of(tmp_path, "cpu") is None


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(update, 4000, 1.0) for update in (0, 199, 2900, 3500, 3999)]
    assert rates == pytest.approx([1 / 200, 1, 1, 0.5, 0.01])


def test_the_weights_stay_small():
    class Words(list):
        """As many as a tokenizer has at most: merges, the alphabet twice, beginning and end."""

        bos_token_id = eos_token_id = pad_token_id = 0

    with torch.device("meta"):
        parts = [networks.new_unet(), networks.new_autoencoder()]
        parts.append(networks.new_text_encoder(Words(range(captions.VOCABULARY + 514))))
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) < 40e6


def test_every_stage_and_the_model_that_comes_of_them(
    loaded: Pictures, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "build"
    shutil.copytree(built, folder)
    for name, stage in STAGES.items():
        assert not stage(loaded, Run(folder, 2, deadline_s=-math.inf), batch=2)  # an update a call
        if name == "diffusion":
            samples.sample_latents(loaded, Run(folder, 0), count=2)
        assert stage(loaded, Run(folder, 2), batch=2)
    found = np.load(folder / "samples.npz")
    assert found["latents"].shape == (2, codes.CHANNELS, codes.PLACES, codes.PLACES)

    model = trained.write(loaded, folder)
    settings = SamplingSettings(steps=2, width_px=SIZE_PX, height_px=SIZE_PX)
    denoiser = models.load(str(model), "cpu")
    [picture] = sampling.images(denoiser, sampling.sample(denoiser, ["an owl"], [1], settings))
    assert picture.size == (SIZE_PX, SIZE_PX)
    judged = ["--model", str(model), "--judge", str(folder / "recogniser")]
    shown = ["--folder", str(folder), "--steps", "2", "--every", "2", "--beside", str(STARTER_PATH)]
    evaluate.main([*judged, *shown])
    printed = capsys.readouterr().out
    figures = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert figures["drawings"]["edges"] == 1
    assert figures["drawings"]["frechet"] == pytest.approx(0, abs=1e-4)
    assert figures[str(model)]["frechet"] > 0.01
    assert figures[str(STARTER_PATH)]["seconds_a_pair"] > 0
    assert Image.open(folder / "named.png").size == (6 * 128, 128)
    assert len(json.loads((folder / "pairs.json").read_text())) == 1

    again = tmp_path / "again"
    start.unpack(again, model, folder / "recogniser")
    shutil.copy(folder / "drawings.npz", again)
    as_shipped = load_file(trained.write(loaded, again) / WEIGHTS)
    for key, values in load_file(model / WEIGHTS).items():  # no stage has gone on with it yet
        assert torch.equal(values, as_shipped[key]), key
    samples.sample_latents(loaded, Run(again, 0), count=2)
    before, after = (captions.tokenizer_for(loaded, place) for place in (folder, again))
    assert before("an ink owl").input_ids == after("an ink owl").input_ids
    assert np.array_equal(*(codes.stored_latents(loaded, place)[1] for place in (folder, again)))
    assert train.train_diffusion(loaded, Run(again, 1), batch=2)
    assert train.train_autoencoder(loaded, Run(again, 1), batch=2)
    gone_on = load_file(trained.write(loaded, again) / WEIGHTS)
    encoder = {key for key in gone_on if key.startswith("encoder.")}
    same = {key for key, values in as_shipped.items() if torch.equal(values, gone_on[key])}
    assert encoder <= same < set(gone_on)

    judge = recogniser.load(folder / "recogniser")
    assert (judge.objects, judge.styles, judge.grounds) == (NAMES, styles.STYLES, GROUNDS)


def test_the_shipped_codes_are_those_that_the_shipped_encoder_computes():
    """All that `unpack` needs is there, and nothing else would decode to the same pictures."""
    denoiser = models.load(str(STARTER_PATH), "cpu")
    chains = sampling.sample(denoiser, ["an owl", "a red apple"], [1, 2], SamplingSettings())
    drawn = [np.asarray(image, np.float32) for image in sampling.images(denoiser, chains)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        found = denoiser.vae.encode(pixels).latent_dist.mode()
    expected = codes.encode(load_file(STARTER_PATH / codes.CODES), pixels)
    assert (found - expected).square().mean() < 0.25 * expected.square().mean()


def test_a_run_in_pieces_is_the_same_as_one_in_one_piece(
    loaded: Pictures, built: Path, tmp_path: Path
):
    states = []
    for name, calls in (("whole", [math.inf]), ("pieces", [-math.inf, math.inf])):
        shutil.copytree(built, tmp_path / name)
        captions.tokenizer_for(loaded, tmp_path / name)
        if states:
            shutil.copytree(
                tmp_path / "whole" / "tokenizer", tmp_path / name / "tokenizer", dirs_exist_ok=True
            )
        for deadline_s in calls:
            train.train_diffusion(loaded, Run(tmp_path / name, 2, deadline_s), batch=2)
        states.append(torch.load(tmp_path / name / "diffusion.pt", weights_only=True))
    for name, value in states[0]["unet"].items():
        assert torch.equal(value, states[1]["unet"][name]), name


def test_the_pictures_that_a_prompt_describes(loaded: Pictures):
    asked = samples.prompts_and_answers(loaded, 4, random.Random(1))
    for number, (prompt, answers) in enumerate(asked):
        parts = [set(part.tolist()) for part in loaded.parts(answers)]
        [concept] = parts[0]
        assert NAMES[concept] in prompt
        named = number % 2 == 1
        assert (len(parts[1]), len(parts[2])) == (
            (1, 1) if named else (len(styles.STYLES), len(GROUNDS))
        )


@pytest.mark.parametrize(
    ("stage", "said"),
    [("write", "autoencoder.pt: the stage autoencoder comes first"), ("samples", "diffusion")],
)
def test_a_stage_says_which_one_comes_before_it(built: Path, stage: str, said: str):
    with pytest.raises(SystemExit, match=said):
        train.main([stage, "--folder", str(built)])


def test_drawings_that_are_not_there_are_asked_for(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"run python -m studio\.starter\.pictures first"):
        train.main(["diffusion", "--folder", str(tmp_path)])
