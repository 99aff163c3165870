"""Which files of a folder are read, and which of its pictures look nearly the same."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from studio.pictures.alike import MOST_DIFFERENT, difference_hash, sets_of
from studio.pictures.folders import picture_paths


def test_pictures_are_found_and_what_is_hidden_or_a_link_is_left_alone(tmp_path: Path) -> None:
    folder, outside = tmp_path / "mine", tmp_path / "outside"
    for place in (folder / "deep", folder / ".secret", outside):
        place.mkdir(parents=True)
    for name in ("b.PNG", "a.jpeg", "deep/c.avif", "notes.txt", ".hidden.png", ".secret/d.png"):
        (folder / name).touch()
    (outside / "e.png").touch()
    (folder / "link.png").symlink_to(outside / "e.png")
    (folder / "linked").symlink_to(outside)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")  # would never end
    found = [path.relative_to(folder).as_posix() for path in picture_paths(folder)]
    assert found == ["a.jpeg", "b.PNG", "deep/c.avif"]
    assert len(list(picture_paths(tmp_path / "mine/linked"))) == 1  # the artist named it


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.png").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file.png"):
        with pytest.raises(OSError, match=path.name):
            list(picture_paths(path))


# --- near-duplicates -----------------------------------------------------------------------------


def drawing(seed: int, size_px: int = 128) -> Image.Image:
    dice = random.Random(seed)
    picture = Image.new("RGB", (256, 256), tuple(dice.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = dice.randrange(200), dice.randrange(200)
        box = (x, y, x + dice.randrange(30, 120), y + dice.randrange(30, 120))
        pen.ellipse(box, fill=tuple(dice.randrange(256) for _ in range(3)))
    return picture.resize((size_px, size_px), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
def test_another_size_and_format_look_the_same(form: str) -> None:
    for seed in range(20):
        buffer = io.BytesIO()
        drawing(seed, 192).save(buffer, form, quality=80)
        again = difference_hash(Image.open(buffer))
        assert (difference_hash(drawing(seed)) ^ again).bit_count() <= MOST_DIFFERENT


def test_other_pictures_look_different() -> None:
    hashes = [difference_hash(drawing(seed)) for seed in range(60)]
    assert sets_of(hashes) == list(range(60))


def test_sets_by_hand() -> None:
    assert sets_of([]) == []
    assert sets_of([0b0, 0b111, 0b1111, 0b0, 1 << 63]) == [0, 0, 2, 0, 0]


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 31), max_size=30))
def test_sets_are_those_that_a_plain_search_finds(hashes: list[int]) -> None:
    firsts: list[int] = []
    for place, found in enumerate(sets_of(hashes)):
        near = [
            first
            for first in firsts
            if (hashes[first] ^ hashes[place]).bit_count() <= MOST_DIFFERENT
        ]
        assert found == min(near, default=place)
        if not near:
            firsts.append(place)
