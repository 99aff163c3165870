"""Picks as pictures of the same names in the folders `chosen` and `rejected`.

The written folder suits three trainers, each with a file of its own:

SimpleTuner    simpletuner.json (bghira/SimpleTuner, documentation/experimental/FLOW_DPO.md)
OneTrainer     concepts.json (Nerogar/OneTrainer, pull request 1403)
Flow-Factory   train.jsonl (see `flow_factory`)

Read are also an artist's own pairs, and the pairs of OneTrainer's Pair Tool, which lie in the
folders `train` and `val` of either side.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from studio.datasets import flow_factory
from studio.datasets.picks import (
    PICTURE_ENDINGS,
    ExchangeError,
    ForeignPick,
    picture_content,
)
from studio.pictures import files as picture_files
from studio.prompting import text_files
from studio.settings import MAX_PROMPT_CHARACTERS
from studio.store import Image, PickedPair

SIDES = ("chosen", "rejected")
CAPTION_ENDINGS = (".txt", ".caption")

README = """\
Pairs picked with D3PO Studio: {count}. Pictures of the same name in `chosen` and `rejected` are a
pair, and the text file beside each holds their prompt. Ties, pairs of which both were bad, and
skipped pairs have no place here.

- SimpleTuner (Flow-DPO): `--data_backend_config={folder}/simpletuner.json`
- OneTrainer with RLHF DPO (pull request 1403): `concepts.json` holds the concept. A OneTrainer
  without it would learn from the rejected pictures as well.
- Flow-Factory (offline-dpo): `dataset_dir: {folder}`. Its `train.jsonl` also holds how much better
  the chosen picture is, why, and on which side it was shown.

`simpletuner.json` and `concepts.json` contain the path of this folder: change it in both if you
move the folder.
"""


def write(
    folder: Path, picked: list[PickedPair], path_of: Callable[[Image], Path], final: Path
) -> int:
    """Write the picks of left or right; returns their number.

    final: the path that the folder will have. Raises ExchangeError if there are no such picks.
    """
    decided = [one for one in picked if one.pick.choice in ("left", "right")]
    if not decided:
        raise ExchangeError(
            "There is no pick yet that says which picture is better, and the folders chosen and "
            "rejected have no place for others."
        )
    for side in SIDES:
        (folder / side).mkdir()
    lines = []
    for number, one in enumerate(decided):
        caption = " ".join(one.pair.prompt.splitlines())  # trainers read a line as a caption
        for side, image in zip(SIDES, (one.chosen, one.rejected), strict=True):
            stem = folder / side / f"{number:05}"
            stem.with_suffix(".png").write_bytes(path_of(image).read_bytes())
            stem.with_suffix(".txt").write_bytes(caption.encode())
        lines.append(flow_factory.line(one, *(f"{side}/{number:05}.png" for side in SIDES)))
    (folder / flow_factory.FILE_NAME).write_bytes(b"".join(lines))
    (folder / "simpletuner.json").write_text(json.dumps(_simpletuner(final), indent=2))
    (folder / "concepts.json").write_text(json.dumps(_concepts(final), indent=2))
    readme = README.format(count=len(decided), folder=final)
    (folder / "README.md").write_bytes(readme.encode("utf-8", "replace"))
    return len(decided)


def _simpletuner(folder: Path) -> list[dict[str, object]]:
    """SimpleTuner's data sets: the rejected pictures are a strict reference of the chosen ones."""
    shared = {"type": "local", "caption_strategy": "textfile"}
    chosen, rejected = (
        {"id": side, **shared, "instance_data_dir": str(folder / side)} for side in SIDES
    )
    return [
        {**chosen, "dataset_type": "image", "conditioning_data": ["rejected"]},
        {
            **rejected,
            "dataset_type": "conditioning",
            "conditioning_type": "reference_strict",
            "source_dataset_id": "chosen",
        },
    ]


def _concepts(folder: Path) -> list[dict[str, object]]:
    """OneTrainer's concepts: one, whose pictures are paired by the part of the path in `{}`."""
    concept = {
        "name": folder.name,
        "path": str(folder),
        "type": "STANDARD",
        "enabled": True,
        "include_subdirectories": True,
        "dpo_chosen_pattern": "chosen/{}",
        "dpo_rejected_pattern": "rejected/{}",
    }
    return [concept]


def read(folder: Path) -> Iterator[ForeignPick]:
    """The pairs in the folders `chosen` and `rejected`, and in their folders `train` and `val`."""
    for part in ("", "train", "val"):
        sides = [folder / side / part for side in SIDES]
        if not part or all(side.is_dir() for side in sides):
            yield from _read_part(folder, *map(_by_stem, sides))


def _read_part(
    folder: Path, chosen: Mapping[str, list[Path]], rejected: Mapping[str, list[Path]]
) -> Iterator[ForeignPick]:
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
        name = one.relative_to(folder).as_posix()
        more = {"name": name, "problem": problem, "remark": remark}
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
        name = path.relative_to(folder).as_posix()
        yield ForeignPick("", b"", b"", "tie", name=name, problem=problem)


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
