"""Picks as a dataset with the columns of Pick-a-Pic, in parquet files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from studio.datasets.picks import ExchangeError, ForeignPick, judge_name
from studio.settings import CHOICES, MARKS_ACROSS, REASONS
from studio.store import Image, PickedPair

ROWS_AT_ONCE = 32  # in memory, with their pictures

COLUMNS = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        # our own
        ("choice", pa.string()),
        ("strength", pa.string()),
        ("reason", pa.string()),
        ("judge", pa.string()),
        ("marks_0", pa.string()),
        ("marks_1", pa.string()),
        ("note", pa.string()),
        ("seed_0", pa.int64()),
        ("seed_1", pa.int64()),
        ("adapter_0", pa.string()),
        ("adapter_1", pa.string()),
        ("base_hash", pa.string()),
        ("sampling", pa.string()),
    ]
)
NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
LABELS: dict[str | None, tuple[float, float]] = {
    "left": (1.0, 0.0),
    "right": (0.0, 1.0),
    "tie": (0.5, 0.5),
}

README = """\
---
task_categories:
- text-to-image
configs:
- config_name: default
  data_files:
{splits}
---

Picks made with D3PO Studio: {count}, one a row. The split `train` holds those of left or right, and
`undecided` the others, because diffusers' train_diffusion_dpo takes the left picture of a row
without a winner for the better one. The columns up to `num_example_per_prompt` are
those of Pick-a-Pic; `jpg_0` (left) and `jpg_1` (right) hold PNG files. `label_0` and `label_1` are
1 and 0, or 0.5 each for a tie; pairs of which both were bad, or that were skipped, have no label
(see `choice`). `strength` is "much better" or "better", `reason` the artist's reason,
`judge` the function that picked instead of the artist (null: the artist did), and `sampling` the
settings both pictures were drawn with. `marks_0` and `marks_1` say where the artist marked what
decided: {across} x {across} places over the whole picture, row by row, as bits in hexadecimal
(null: no marks).
"""


def write(folder: Path, picked: list[PickedPair], path_of: Callable[[Image], Path]) -> int:
    """Write a dataset folder; returns the number of picks."""
    (folder / "data").mkdir()
    of_prompt = Counter(one.pair.prompt for one in picked)
    splits: dict[str, list[tuple[int, PickedPair]]] = {}
    for number, one in enumerate(picked):
        split = "train" if one.pick.choice in ("left", "right") else "undecided"
        splits.setdefault(split, []).append((number, one))
    for split, numbered in splits.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        with pq.ParquetWriter(path, COLUMNS) as writer:
            for start in range(0, len(numbered), ROWS_AT_ONCE):
                rows = [
                    _row(one, number, of_prompt[one.pair.prompt], path_of)
                    for number, one in numbered[start : start + ROWS_AT_ONCE]
                ]
                writer.write_table(pa.Table.from_pylist(rows, COLUMNS))
    named = "\n".join(f"  - split: {one}\n    path: data/{one}-*" for one in sorted(splits))
    readme = README.format(count=len(picked), splits=named, across=MARKS_ACROSS)
    (folder / "README.md").write_text(readme, "utf-8")
    return len(picked)


def _row(
    one: PickedPair, number: int, of_prompt: int, path_of: Callable[[Image], Path]
) -> dict[str, Any]:
    pair, pick = one.pair, one.pick
    sides = (pair.left, pair.right)
    labels = LABELS.get(pick.choice)
    best = {"left": pair.left.id, "right": pair.right.id, "tie": "tie"}.get(pick.choice)
    row = {
        "are_different": True,
        "best_image_uid": best,
        "caption": pair.prompt,
        "created_at": datetime.fromtimestamp(pick.created_at_s, UTC).replace(tzinfo=None),
        "has_label": labels is not None,
        "ranking_id": number,
        "user_id": 0,
        "num_example_per_prompt": of_prompt,
        "choice": pick.choice,
        "reason": pick.reason,
        "judge": pick.judge,
        "note": pair.note,
        "base_hash": pair.left.base_hash,
        "sampling": json.dumps(pair.left.sampling.to_dict()),
    }
    if pick.choice in ("left", "right"):
        row["strength"] = "much better" if pick.much_better else "better"
    for number, side in enumerate(sides):
        row |= {
            f"image_{number}_uid": side.id,
            f"image_{number}_url": "",
            f"jpg_{number}": path_of(side).read_bytes(),
            f"marks_{number}": one.marks.get(side.id),
            f"label_{number}": labels[number] if labels else None,
            f"model_{number}": f"D3PO Studio, base model {side.base_hash[:16]}",
            f"seed_{number}": side.seed,
            f"adapter_{number}": side.adapter_id,
        }
    return row


def read(paths: list[Path]) -> Iterator[ForeignPick]:
    """The picks in parquet files."""
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                missing = [name for name in NEEDED if name not in file.schema_arrow.names]
                if missing:
                    raise ExchangeError(
                        f"{path.name} does not have the columns of Pick-a-Pic: "
                        f"{', '.join(missing)} is missing."
                    )
                wanted = (*NEEDED, "has_label", "choice", "strength", "reason", "judge")
                columns = [name for name in wanted if name in file.schema_arrow.names]
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield from filter(None, map(_pick_of_row, batch.to_pylist()))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ExchangeError(f"{path.name} is damaged, or no parquet file.") from error


def _pick_of_row(row: dict[str, Any]) -> ForeignPick | None:
    """The pick of a row, or None if it has no label."""
    choice = row.get("choice")
    if choice not in CHOICES:
        left, right = (_number(row[name]) for name in ("label_0", "label_1"))
        if row.get("has_label") is False or left is None or right is None:
            return None
        choice = "tie" if left == right else "left" if left > right else "right"
    is_better = choice in ("left", "right")
    return ForeignPick(
        prompt=row["caption"] if isinstance(row["caption"], str) else "",
        left=_bytes(row["jpg_0"]),
        right=_bytes(row["jpg_1"]),
        choice=choice,
        much_better=is_better and row.get("strength") == "much better",
        reason=row.get("reason") if is_better and row.get("reason") in REASONS else None,
        judge=judge_name(row.get("judge")),
    )


def _number(label: Any) -> float | None:
    """A label as a number; None if there is none."""
    if label is None:
        return None
    if not isinstance(label, int | float | Decimal) or math.isinf(label):
        raise ExchangeError(
            "The columns label_0 and label_1 must hold numbers: the higher one marks the better "
            f"picture. One of them holds {str(label)[:80]!r}."
        )
    return None if math.isnan(label) else float(label)


def _bytes(value: Any) -> bytes:
    """Picture bytes, also in the form of the datasets library: {"bytes": ..., "path": ...}."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""
