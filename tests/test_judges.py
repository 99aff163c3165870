"""Judges: loaded from a file, a module or by name, and their scores; errors are sentences."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from studio import judges

GREY = Image.new("RGB", (32, 32), "#808080")
NOISE = Image.effect_noise((32, 32), 80).convert("RGB")


def written(folder: Path, text: str) -> str:
    """A file of an artist's; its path."""
    path = folder / "mine.py"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_judge_comes_from_a_file_a_module_or_by_its_name(tmp_path):
    source = written(
        tmp_path,
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Taste:\n    share: float\n"  # looks its own module up by name
        "def width(image, prompt):\n    return image.width + len(prompt)\n",
    )
    assert judges.score(judges.load(f"{source}:width"), GREY, "a cat") == 32 + 5
    assert judges.load("math:hypot")(3, 4) == 5
    assert judges.load("compressible") is judges.compressible


def test_the_judges_of_d3po_count_the_bytes_of_a_jpeg():
    file = io.BytesIO()
    GREY.save(file, "JPEG", quality=95)
    assert judges.incompressible(GREY, "") == len(file.getvalue()) / 1000
    assert judges.incompressible(NOISE, "") > judges.incompressible(GREY, "")
    assert judges.compressible(NOISE, "") < judges.compressible(GREY, "")


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("x = 1", "taste", r"mine\.py has no function taste\."),
        ("taste = 1", "taste", r"mine\.py has no function taste\."),
        (
            "import no_such",
            "taste",
            r"mine\.py cannot be loaded: .*No module named 'no_such'\.",
        ),
        ("1 +", "taste", r"mine\.py cannot be loaded: SyntaxError: .*line 1\)\."),
    ],
)
def test_a_file_without_a_judge_is_a_sentence(tmp_path, text, name, sentence):
    with pytest.raises(judges.JudgeError, match=sentence):
        judges.load(f"{written(tmp_path, text)}:{name}")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("taste", r"is FILE\.py:FUNCTION, or compressible or incompressible; 'taste' is neither"),
        (":taste", "is neither"),
        ("nowhere.py:taste", r"There is no file nowhere\.py\."),
        ("no_such_module:taste", "No module named 'no_such_module'"),
    ],
)
def test_a_judge_that_is_not_there_is_a_sentence(reference, sentence):
    with pytest.raises(judges.JudgeError, match=sentence):
        judges.load(reference)


def failing(image: Image.Image, prompt: str) -> float:
    raise ValueError("too dark")


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        (failing, "failed at a picture of “a cat”: ValueError: too dark."),
        (lambda image, prompt: None, "For one of “a cat” it gave None."),
        (lambda image, prompt: float("nan"), "it gave nan."),
        (lambda image, prompt: float("inf"), "it gave inf."),
        (lambda image, prompt: [1.0], r"it gave \[1.0\]."),
    ],
)
def test_a_judge_that_gives_no_score_is_a_sentence(judge, sentence):
    with pytest.raises(judges.JudgeError, match=sentence):
        judges.score(judge, GREY, "a cat")
