"""Picks as D3PO's published code keeps them: pictures, prompts and scores."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from studio.datasets.picks import (
    LARGEST_JSON_BYTES,
    ExchangeError,
    ForeignPick,
    picture_content,
)
from studio.store import Image, PickedPair


def write(folder: Path, picked: list[PickedPair], path_of: Callable[[Image], Path]) -> int:
    """Write a folder of pictures, prompts and scores; returns the number of picks."""
    (folder / "images").mkdir()
    prompts, scores = [], []
    for one in picked:
        row = {"left": [1, 0], "right": [0, 1], "tie": [1, 1], "both_bad": [0, 0]}
        if one.pick.choice not in row:
            continue
        for number, side in enumerate((one.pair.left, one.pair.right), 2 * len(scores)):
            content = path_of(side).read_bytes()
            (folder / "images" / f"{number:05}.png").write_bytes(content)
        prompts.append(one.pair.prompt)
        scores.append(row[one.pick.choice])
    (folder / "prompt.json").write_text(json.dumps(prompts, ensure_ascii=False), "utf-8")
    (folder / "preference.json").write_text(json.dumps(scores), "utf-8")
    return len(scores)


def read(folder: Path) -> Iterator[ForeignPick]:
    """The picks in a folder of pictures, prompts and scores."""
    prompts = _json(folder / "prompt.json")
    votes = [_json(path) for path in sorted(folder.glob("*.json")) if path.name != "prompt.json"]
    if not votes:
        raise ExchangeError(f"{folder} has prompt.json but no file with the scores.")
    rows = min(map(len, votes))
    if not rows:
        raise ExchangeError(f"There are no scores in {folder}.")
    if rows > len(prompts):
        raise ExchangeError(f"{folder} has {rows} rows of scores, and fewer prompts.")
    try:
        widths = {len(vote[row]) for vote in votes for row in range(rows)}
        if len(widths) != 1:
            raise ValueError
        scores = [
            [sum(map(float, each)) for each in zip(*(vote[row] for vote in votes), strict=True)]
            for row in range(rows)
        ]
        if not all(math.isfinite(score) for scored in scores for score in scored):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ExchangeError(
            f"The scores in {folder} are not rows of one finite number for each picture."
        ) from error
    (width,) = widths
    for row, scored in enumerate(scores):
        prompt = prompts[row] if isinstance(prompts[row], str) else ""
        for one, other in itertools.combinations(range(width), 2):
            choice = "tie"
            if scored[one] != scored[other]:
                choice = "left" if scored[one] > scored[other] else "right"
            sides = (folder / "images" / f"{width * row + n:05}.png" for n in (one, other))
            yield ForeignPick(prompt, *map(picture_content, sides), choice=choice)


def _json(path: Path) -> list:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_JSON_BYTES:
            raise ValueError("no file, or too large")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExchangeError(f"{path.name} cannot be read as JSON.") from error
    if not isinstance(found, list):
        raise ExchangeError(f"{path.name} does not hold a list.")
    return found
