"""The settings of a picture: as text, in a PNG, and back."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from studio.pictures import infotext
from studio.pictures.files import parameters_of, png_with_text
from studio.pictures.infotext import Parameters, ParametersError, lora_name, read, write

# As A1111 1.10 wrote it, shortened: line breaks in both prompts, a value with commas and colons.
FROM_A1111 = (
    "masterpiece, (portrait:1.2) of a cat,\n"
    "sitting on a shelf <lora:add_detail:0.65> <lora:other:1>\n"
    "Negative prompt: blurry, bad hands,\n"
    "watermark: none\n"
    "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 1234567890, Size: 512x768, "
    "Model hash: 6ce0161689, Model: v1-5-pruned, VAE: vae-ft.pt, Denoising strength: 0.4, "
    "Clip skip: 2, "
    'Eta: 0.3, Lora hashes: "add_detail: 7c6bad76eb54, other: 0a1b", '
    'ControlNet 0: "Module: canny, Model: a, Weight: 1", Version: v1.10.1'
)


def test_what_a1111_wrote_is_read():
    found = read(FROM_A1111)
    assert found == Parameters(
        prompt="masterpiece, (portrait:1.2) of a cat,\nsitting on a shelf",
        negative_prompt="blurry, bad hands,\nwatermark: none",
        steps=28,
        sampler="DPM++ 2M Karras",
        guidance=6.5,
        seed=1234567890,
        width_px=512,
        height_px=768,
        eta=0.3,
        model="v1-5-pruned",
        model_hash="6ce0161689",
        loras=(("add_detail", 0.65), ("other", 1.0)),
        clip_skip=2,
        more={
            "VAE": "vae-ft.pt",
            "Denoising strength": "0.4",
            "Lora hashes": "add_detail: 7c6bad76eb54, other: 0a1b",
            "ControlNet 0": "Module: canny, Model: a, Weight: 1",
            "Version": "v1.10.1",
        },
    )


@pytest.mark.parametrize(
    ("tag", "lora"),
    [
        ("<lora:ink>", ("ink", 1.0)),
        ("<lora:ink:0.5:0.7>", ("ink", 0.5)),
        ("<lora:ink:-1:lbw=OUTD>", ("ink", -1.0)),
        ("<lyco:ink:.5.>", ("ink", 1.0)),
        ("<hypernet:ink:2>", ("ink", 2.0)),
    ],
)
def test_every_tag_of_a_lora_is_read(tag, lora):
    found = read(f"a cat {tag}\nSteps: 3, Seed: 4, Size: 64x64")
    assert (found.prompt, found.loras) == ("a cat", (lora,))


def test_a_prompt_alone_is_read_when_it_says_that_it_is_one():
    assert read("a cat\nNegative prompt: dogs").negative_prompt == "dogs"


@pytest.mark.parametrize("text", ["", "  \n ", "holiday, 2019", "Steps: 3, Seed: 4", "{}"])
def test_other_text_is_not_taken_for_settings(text):
    with pytest.raises(ParametersError, match="does not say how"):
        read(text)


def test_text_beyond_measure_is_refused():
    with pytest.raises(ParametersError, match="far too long"):
        read("a" * 100_001)


def test_what_the_studio_writes():
    made = Parameters("a lion", "blurry", 20, "DDIM", 3.0, 7, 64, 64, 1.0, "starter", "ab12")
    assert write(made) == (
        "a lion\nNegative prompt: blurry\nSteps: 20, Sampler: DDIM, CFG scale: 3, Seed: 7, "
        "Size: 64x64, Model hash: ab12, Model: starter, Eta DDIM: 1"
    )
    assert write(replace(made, sampler="Euler a")).endswith("Eta: 1")
    assert read(write(made).replace("Eta DDIM", "Eta")).eta == 1.0  # as it was written before
    assert "Clip skip" not in write(replace(made, clip_skip=1))
    assert write(replace(made, clip_skip=2)).endswith("Eta DDIM: 1, Clip skip: 2")


# Lines of prompts: anything printable that is not this format's own marks.
LINES = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=40).map(
    lambda text: text.replace("<lora:", "").replace("Negative prompt:", "").strip()
)
PROMPTS = st.lists(LINES, max_size=3).map(lambda lines: "\n".join(lines).strip())
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
WORDS = VALUES.map(str.strip).filter(bool)
MADE = st.builds(
    Parameters,
    prompt=PROMPTS,
    negative_prompt=PROMPTS,
    steps=st.integers(1, 150),
    sampler=st.just("DDIM"),
    guidance=st.integers(10, 300).map(lambda n: n / 10),
    seed=st.integers(0, 2**63 - 1),
    width_px=st.integers(64, 2048),
    height_px=st.integers(64, 2048),
    eta=st.floats(0, 1).map(lambda x: round(x, 3)),
    model=WORDS,
    model_hash=st.text("0123456789abcdef", min_size=1, max_size=64),
    clip_skip=st.none() | st.integers(2, 12),
    more=st.dictionaries(st.sampled_from(["Version", "D3PO Studio", "Lora hashes"]), WORDS),
)


LORAS = st.lists(
    st.tuples(WORDS.map(lora_name), st.integers(-40, 40).map(lambda n: n / 20)), max_size=3
)


@given(MADE, LORAS.map(tuple))
def test_what_is_written_is_read_back(made, loras):
    made = replace(made, loras=loras)
    assert read(write(made)) == made


@given(st.text(max_size=300))
def test_no_text_does_harm(text):
    with contextlib.suppress(ParametersError):
        write(read(text))


@given(st.text(st.sampled_from('ab,:"\\<>\n x1'), max_size=80))
def test_no_text_of_its_own_marks_does_harm(text):
    try:
        found = read(f"a cat\nSteps: 1, Seed: 2, Size: 8x8, Sampler: {text}")
    except ParametersError:
        return
    assert isinstance(found.sampler, str)


# --- in a file -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    "text", ["a cat\nSteps: 1, Seed: 2, CFG scale: 0", "naïve café", "猫 ☕ 🐈"]
)
def test_a_picture_carries_its_text_and_keeps_its_pixels(path, text):
    data = png_with_text(path, text)
    if text.startswith("a cat"):
        assert parameters_of(data) == read(text)
    with Image.open(io.BytesIO(data)) as after, Image.open(path) as before:
        assert after.tobytes() == before.tobytes()
        assert after.text["parameters"] == text


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (60_000, 60_000)])
def test_a_bomb_is_refused_before_it_is_unpacked(width, height):
    said = chunk(b"tEXt", b"parameters\x00" + FROM_A1111.encode())
    with pytest.raises(ParametersError, match="too large to be opened safely"):
        parameters_of(png(width, height, said, chunk(b"IDAT", zlib.compress(b""))))


def test_a_bomb_of_text_is_refused():
    packed = zlib.compress(b"a" * 50_000_000)
    data = png(8, 8, chunk(b"zTXt", b"parameters\x00\x00" + packed), chunk(b"IDAT", b""))
    with pytest.raises(ParametersError):
        parameters_of(data)


def test_a_picture_without_settings_and_what_is_no_picture_are_sentences(path):
    with pytest.raises(ParametersError, match="does not say how"):
        parameters_of(path.read_bytes())
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    for data in (b"", b"hello", gif.getvalue(), path.read_bytes()[:20]):
        with pytest.raises(ParametersError, match="not a PNG, JPEG, WebP or AVIF"):
            parameters_of(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data):
    with pytest.raises(ParametersError):
        parameters_of(b"\x89PNG\r\n\x1a\n" + data)


@pytest.mark.parametrize(
    "text",
    [
        "a" * infotext.MOST_CHARACTERS,
        "a " * (infotext.MOST_CHARACTERS // 2 - 1) + "a",
        "x" + " " * (infotext.MOST_CHARACTERS - 2) + "x",
        "ab: " * (infotext.MOST_CHARACTERS // 4),
        'ab:"\\' * (infotext.MOST_CHARACTERS // 5),
        "<lora:" * (infotext.MOST_CHARACTERS // 6),
        "\n" * 50_000 + "x",
    ],
    ids=["word", "words", "blanks", "names", "quotes", "tags", "lines"],
)
def test_the_longest_text_is_read_in_time_of_its_length(text):
    # With time of its square, one of these takes minutes.
    with contextlib.suppress(ParametersError):
        infotext.read(text)


def test_halves_of_letters_do_no_harm():
    found = infotext.read('a \ud800 cat\nSteps: 20, Sampler: DDIM, Note: "\\ud83d", Seed: 7')
    assert found.prompt == "a ? cat"
    assert found.more["Note"] == "?"
