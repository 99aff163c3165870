"""Judges: functions (picture, prompt) -> number, higher is better, that pick as an artist would.

A judge stands in a Python file of the artist's own, which is run, or is one of `BUILT_IN`.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from PIL import Image

Judge = Callable[[Image.Image, str], float]


class JudgeError(Exception):
    """A judge that cannot be loaded, or gives no score; the message is a sentence."""


def incompressible(image: Image.Image, prompt: str) -> float:
    """Likes busy pictures: kilobytes as a JPEG of quality 95, the task of arXiv 2305.13301."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=95)
    return file.tell() / 1000


def compressible(image: Image.Image, prompt: str) -> float:
    """Likes calm pictures: few kilobytes as a JPEG, a task of the D3PO paper (arXiv 2311.13231)."""
    return -incompressible(image, prompt)


BUILT_IN: dict[str, Judge] = {"compressible": compressible, "incompressible": incompressible}


def load(reference: str) -> Judge:
    """The judge of "path/to/file.py:function", "module:function", or a name of `BUILT_IN`.

    The file or module is run. Raises `JudgeError`.
    """
    if reference in BUILT_IN:
        return BUILT_IN[reference]
    source, _, name = reference.rpartition(":")
    if not source:
        names = " or ".join(BUILT_IN)
        raise JudgeError(f"A judge is FILE.py:FUNCTION, or {names}; {reference!r} is neither.")
    judge = getattr(_run(source), name, None)
    if not callable(judge):
        raise JudgeError(f"{source} has no function {name}.")
    return judge


def score(judge: Judge, image: Image.Image, prompt: str) -> float:
    """What a judge says of a picture, a finite number. Raises `JudgeError`."""
    try:
        found = judge(image, prompt)
    except Exception as error:
        raise JudgeError(
            f"The judge failed at a picture of “{prompt}”: {_in_words(error)}"
        ) from error
    try:
        number = float(found)
    except Exception:  # of any kind, as the libraries of arrays have it
        number = math.nan
    if not math.isfinite(number):
        raise JudgeError(
            f"The judge must give a finite number for every picture. For one of “{prompt}” it gave "
            f"{str(found)[:80]}."
        )
    return number


def _run(source: str) -> ModuleType:
    """The module of a file or of a dotted name."""
    if source.endswith(".py") and not Path(source).is_file():
        raise JudgeError(f"There is no file {source}.")
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location("judge", source)
        module = sys.modules["judge"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:
        raise JudgeError(f"{source} cannot be loaded: {_in_words(error)}") from error
    return module


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".: ") + "."
