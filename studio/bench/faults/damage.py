"""Flipped bits and truncated files: the studio must notice every damaged file."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from studio.bench.faults.operations import Home, things
from studio.bench.faults.trial import Row, copy_of
from studio.store import (
    Store,
    StoreDamaged,
    StoreError,
    database_complaints,
    differing_rows,
    examine_files,
    restore,
    snapshots,
)
from studio.store.files import read_sealed, set_aside

QUICK_TIMES, TIMES = 6, 200
FILES = {
    "pictures": "sessions/*/images/*.png",
    "latents": "sessions/*/trajectories/*.safetensors",
    "adapters": "sessions/*/adapters/*/*",
    "checkpoints": "sessions/*/checkpoints/*.pt",
    "the database": "studio.sqlite",
}


def flip(content: bytes, dice: random.Random) -> bytes:
    """Flip a random bit."""
    index = dice.randrange(len(content))
    changed = bytearray(content)
    changed[index] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(content: bytes, dice: random.Random) -> bytes:
    """Truncate at a random position."""
    return content[: dice.randrange(len(content))]


def rows(
    homes: dict[str, Home],
    folder: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    home = homes["new"]
    for what, pattern in FILES.items():
        for verb, change in (("a bit flips in", flip), ("cut short:", cut)):
            row = Row(f"{verb} {what}")
            if wanted(row.fault):
                check = _check_database if what == "the database" else _check_file
                dice = random.Random(row.fault)
                for _ in range(QUICK_TIMES if quick else TIMES):
                    _damage(row, home, folder, pattern, change, dice, check)
                yield row


def _damage(
    row: Row,
    home: Home,
    folder: Path,
    pattern: str,
    change: Callable[[bytes, random.Random], bytes],
    dice: random.Random,
    check: Callable[[Row, Home, Path, Path], None],
) -> None:
    with copy_of(home, folder) as copy:
        path = dice.choice(sorted(copy.glob(pattern)))
        path.write_bytes(change(path.read_bytes(), dice))
        row.tried += 1
        try:
            check(row, home, copy, path)
        except Exception as error:
            row.problems.append(f"{path.name}: no sentence, but {error!r}")


def _check_file(row: Row, home: Home, copy: Path, path: Path) -> None:
    """The damage is noticed, everything else is unchanged, and nothing is deleted."""
    with contextlib.closing(Store.open(copy)) as store:
        if path.suffix == ".pt":
            try:
                torch.load(io.BytesIO(read_sealed(path)), weights_only=True)
                noticed = False
            except StoreDamaged:
                noticed = True
                set_aside(copy, path)
        else:
            noticed = examine_files(store).damaged == [str(path.relative_to(copy))]
        row.torn += not noticed
        row.lost += len(home.things - things(store, home.session_id))
    row.lost += not (copy / "aside" / path.relative_to(copy)).exists() and noticed


def _check_database(row: Row, home: Home, copy: Path, path: Path) -> None:
    """Damage to permanent rows is noticed, and the snapshot restores everything."""
    [snapshot] = snapshots(copy)
    noticed = bool(database_complaints(path)) or bool(differing_rows(path, snapshot.path))
    try:
        with contextlib.closing(Store.open(copy)) as store:
            same = things(store, home.session_id) == home.things
            examine_files(store)
    except StoreError:
        noticed, same = True, False
    row.torn += not (same or noticed)
    restore(copy, snapshot.path)
    with contextlib.closing(Store.open(copy)) as store:
        row.lost += len(home.things - things(store, home.session_id))
