"""An artist's own pairs: pictures of the same names in the folders `chosen` and `rejected`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from studio.datasets.picks import (
    PICTURE_ENDINGS,
    ExchangeError,
    ForeignPick,
    picture_content,
)
from studio.pictures import files as picture_files
from studio.prompting import text_files
from studio.settings import MAX_PROMPT_CHARACTERS

CAPTION_ENDINGS = (".txt", ".caption")


def read(folder: Path) -> Iterator[ForeignPick]:
    """The pairs in the folders `chosen` and `rejected`."""
    chosen, rejected = (_by_stem(folder / side) for side in ("chosen", "rejected"))
    used: set[Path] = set()
    number = 0
    for one in sorted(itertools.chain(*chosen.values())):
        if one.suffix.lower() not in PICTURE_ENDINGS:
            continue
        other = _of_the_same_name(one, rejected)
        used |= {one} | ({other} if other else set())
        prompt, remark, problem = _prompt_of(one, other, (chosen, rejected))
        if other is None:
            problem = "there is no picture of this name in rejected"
        sides = [picture_content(one), picture_content(other) if other else b""]
        more = {"name": f"chosen/{one.name}", "problem": problem, "remark": remark}
        # The chosen picture alternates between left and right, so that no side is favoured.
        if number % 2:
            yield ForeignPick(prompt, *sides[::-1], choice="right", **more)
        else:
            yield ForeignPick(prompt, *sides, choice="left", **more)
        number += 1
    for path in sorted(set(itertools.chain(*chosen.values(), *rejected.values())) - used):
        if path.suffix.lower() in CAPTION_ENDINGS or path.name.startswith("."):
            continue
        problem = "it is no PNG, JPEG or WebP"
        if path.suffix.lower() in PICTURE_ENDINGS:
            problem = "there is no picture of this name in chosen that is left for it"
        yield ForeignPick(
            "", b"", b"", "tie", name=f"{path.parent.name}/{path.name}", problem=problem
        )


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The files in a folder by their lower-case names without extension."""
    found: dict[str, list[Path]] = {}
    try:
        for path in sorted(folder.iterdir()):
            if not path.is_dir():
                found.setdefault(path.stem.lower(), []).append(path)
    except OSError as error:
        raise ExchangeError(f"{folder} cannot be read: {error.strerror}.") from error
    return found


def _of_the_same_name(picture: Path, others: Mapping[str, list[Path]]) -> Path | None:
    """The partner of a picture. Extension and case only matter if several names fit."""
    alike = others.get(picture.stem.lower(), [])
    found = [path for path in alike if path.suffix.lower() in PICTURE_ENDINGS]
    alike = (
        [path for path in found if path.name == picture.name]
        or [path for path in found if path.stem == picture.stem]
        or found
    )
    return min(alike, default=None)


def _prompt_of(
    one: Path, other: Path | None, folders: Sequence[Mapping[str, list[Path]]]
) -> tuple[str, str, str]:
    """(prompt, remark, problem) from a text file of either picture, or from the pictures.

    The remark names an encoding that was guessed.
    """
    stems = (one.stem.lower(), (other or one).stem.lower())
    for stem, folder in zip(stems, folders, strict=True):
        for path in folder.get(stem, []):
            if path.suffix.lower() not in CAPTION_ENDINGS:
                continue
            try:
                found = text_files.read(path, 4 * MAX_PROMPT_CHARACTERS)
            except (OSError, ValueError) as error:
                return "", "", f"{path.parent.name}/{path.name} cannot be read: {error}"
            guess = f"{path.parent.name}/{path.name} was read as {found.encoding}"
            return found.text.strip(), guess if found.is_guess else "", ""
    for picture in filter(None, (one, other)):
        with contextlib.suppress(OSError, ValueError):
            return picture_files.parameters_of(picture_content(picture)).prompt, "", ""
    return "", "", "it has no prompt: put one into a text file with the same name"
