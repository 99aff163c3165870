"""Sheets and animations of a session's story."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from studio.pictures import files as picture_files
from studio.pictures.files import animation, sheet

COLOURS = ((200, 30, 30), (30, 60, 200))


@pytest.fixture
def rows(tmp_path):
    """Two rounds of three prompts; of the second round one picture is not drawn yet."""
    rows = []
    for number, colour in enumerate(COLOURS):
        paths = []
        for place in range(3):
            path = tmp_path / f"{number}-{place}.png"
            Image.new("RGB", (64, 64), colour).save(path)
            paths.append(path)
        rows.append((f"Round {number}", paths))
    rows[1][1][2] = None
    return rows


def count(picture: Image.Image, colour: tuple[int, int, int], nearness: int = 12) -> int:
    """How many pixels have a colour, or nearly."""
    pixels = picture.convert("RGB").get_flattened_data()
    return sum(all(abs(a - b) <= nearness for a, b in zip(p, colour, strict=True)) for p in pixels)


def test_a_sheet_shows_every_picture_under_its_name(rows):
    names = ["a lion", "猫 " * 60, "a very long prompt that does not fit its column " * 3]
    with Image.open(io.BytesIO(sheet(rows, names))) as whole:
        assert whole.format == "PNG"
        assert count(whole, COLOURS[0], 0) == 3 * 128 * 128  # tiny ones are doubled
        assert count(whole, COLOURS[1], 0) == 2 * 128 * 128
        first = whole.crop((0, 0, whole.width, 30))
        assert count(first, (28, 29, 31), 40) > 20, "the names are written"


@pytest.mark.parametrize("form", ["WEBP", "GIF"])
def test_an_animation_shows_round_after_round_for_ever(rows, form):
    with Image.open(io.BytesIO(animation(rows, form))) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == (form, 2, 0)
        for number in range(2):
            film.seek(number)
            film.load()
            assert count(film, COLOURS[number]) > (2 * 128 * 128) * 0.9
            assert count(film, COLOURS[1 - number]) == 0


def test_large_and_wide_pictures_are_made_to_fit(tmp_path):
    Image.new("RGB", (1024, 512), COLOURS[0]).save(tmp_path / "wide.png")
    data = sheet([("Base", [tmp_path / "wide.png"])], ["a lion"])
    with Image.open(io.BytesIO(data)) as whole:
        assert count(whole, COLOURS[0], 0) == 256 * 128


def test_greys_of_16_bits_are_scaled_and_what_is_transparent_shows_white(tmp_path):
    greys = np.array([[0, 257, 25_700, 65_535]], np.uint16)
    Image.fromarray(greys).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as picture:
        assert picture.mode.startswith("I")
        assert [one[0] for one in pixels_of(picture)] == [0, 1, 100, 255]
        assert [one[0] for one in pixels_of(picture.convert("I"))] == [0, 1, 100, 255]
    light = Image.fromarray(np.array([[0.0, 0.2, 1.0, 7.0, np.nan]], np.float32))
    assert [one[0] for one in pixels_of(light)] == [0, 51, 255, 255, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "La", "RGBa"])
def test_hidden_colours_stay_hidden(mode, tmp_path):
    """A black point that cannot be seen, and one that can."""
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (204, 204, 204, 255))
    if mode in ("P", "RGB", "L"):
        picture = picture.convert("RGB").convert(mode)
        hidden = picture.getpixel((0, 0))
        picture.save(tmp_path / "x.png", transparency=hidden)
        picture = Image.open(tmp_path / "x.png")
    elif mode == "La":
        picture = picture.convert("LA").convert(mode)
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    assert pixels_of(picture) == [(255, 255, 255), (204, 204, 204)]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_every_other_mode_is_what_pillow_makes_of_it(mode):
    picture = Image.new("RGB", (2, 2), (200, 100, 50)).convert(mode)
    assert pixels_of(picture) == list(picture.convert("RGB").get_flattened_data())


def pixels_of(picture: Image.Image) -> list[tuple[int, int, int]]:
    made = picture_files.rgb(picture)
    assert made.mode == "RGB"
    return list(made.get_flattened_data())
