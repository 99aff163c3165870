"""Picks as the preferences of Flow-Factory: `train.jsonl`, with a line of JSON for each pair.

A line is version 2 of its offline records (X-GenGroup/Flow-Factory, guidance/datasets.md): a
prompt, the chosen and the rejected picture by their paths within the folder, and metadata. The
studio keeps the rest of a pick in the metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from studio.datasets.picks import (
    LARGEST_JSON_BYTES,
    PICTURE_ENDINGS,
    ExchangeError,
    ForeignPick,
    judge_name,
    picture_content,
)
from studio.settings import REASONS
from studio.store import PickedPair

FILE_NAME = "train.jsonl"


class Media(TypedDict):
    type: Literal["image"]
    path: str


class Candidate(TypedDict):
    media: Annotated[list[Media], Field(min_length=1, max_length=1)]


class Preference(TypedDict):
    type: Literal["preference"]
    chosen: Candidate
    rejected: Candidate


class Input(TypedDict):
    prompt: str
    media: NotRequired[Annotated[list[Any], Field(max_length=0)]]  # pictures to be edited


class Record(TypedDict):
    schema_version: Literal[2]
    input: Input
    supervision: Preference
    metadata: NotRequired[dict[str, Any]]


RECORD = TypeAdapter(Record)


def line(one: PickedPair, chosen: str, rejected: str) -> bytes:
    """The line of a pick of left or right; its pictures have these paths within the folder."""
    record = {
        "schema_version": 2,
        "input": {"prompt": one.pair.prompt, "media": []},
        "supervision": {
            "type": "preference",
            "chosen": {"media": [{"type": "image", "path": chosen}]},
            "rejected": {"media": [{"type": "image", "path": rejected}]},
        },
        "metadata": {
            "better": one.pick.choice,
            "strength": "much better" if one.pick.much_better else "better",
            "reason": one.pick.reason,
            "judge": one.pick.judge,
            "note": one.pair.note,
            "seed_left": one.pair.left.seed,
            "seed_right": one.pair.right.seed,
        },
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def read(folder: Path) -> Iterator[ForeignPick]:
    """The picks that `train.jsonl` lists. Pictures in `chosen` that it omits are named too."""
    listed = set()
    for number, text in enumerate(_content(folder / FILE_NAME).split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            record = RECORD.validate_json(text)
        except ValidationError:
            problem = "it is no version 2 record of which of two pictures is better for a prompt"
            yield _unusable(f"Line {number} of {FILE_NAME}", problem)
            continue
        supervision = record["supervision"]
        paths = [
            Path(os.path.normpath(folder / supervision[side]["media"][0]["path"]))
            for side in ("chosen", "rejected")
        ]
        listed.add(paths[0])
        yield _pick(record, paths, folder, number)
    for path in sorted((folder / "chosen").glob("*")):
        is_picture = path.suffix.lower() in PICTURE_ENDINGS
        if is_picture and Path(os.path.normpath(path)) not in listed:
            yield _unusable(f"chosen/{path.name}", f"{FILE_NAME} does not list it")


def _pick(record: Record, paths: list[Path], folder: Path, number: int) -> ForeignPick:
    name = f"Line {number} of {FILE_NAME}"
    if not all(path.is_relative_to(os.path.normpath(folder)) for path in paths):
        return _unusable(name, "its pictures are outside the folder")
    marks = record.get("metadata", {})
    # Without a mark, the chosen picture alternates between left and right: no side is favoured.
    better = marks.get("better")
    if better not in ("left", "right"):
        better = "left" if number % 2 else "right"
    left, right = map(picture_content, paths if better == "left" else paths[::-1])
    return ForeignPick(
        prompt=record["input"]["prompt"],
        left=left,
        right=right,
        choice=better,
        much_better=marks.get("strength") == "much better",
        reason=marks.get("reason") if marks.get("reason") in REASONS else None,
        judge=judge_name(marks.get("judge")),
        name=name,
    )


def _unusable(name: str, problem: str) -> ForeignPick:
    return ForeignPick("", b"", b"", "tie", name=name, problem=problem)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise ExchangeError(f"{path.name} is longer than {LARGEST_JSON_BYTES:,} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read: {error.strerror}.") from error
