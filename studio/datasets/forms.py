"""Formats of picks: `write` and `read`, whichever the format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from studio.datasets import d3po, flow_factory, folders, pickapic
from studio.datasets.picks import ExchangeError, ForeignPick
from studio.store import Image, PickedPair, write_atomically

FORMS = ("pickapic", "folders", "d3po")


def write(
    folder: Path, form: str, picked: Iterable[PickedPair], path_of: Callable[[Image], Path]
) -> tuple[int, int]:
    """Write picks into a new folder; returns how many were written and how many left out.

    Left out are picks whose pictures are missing, and those that the format has no place for: in
    the format of D3PO skipped ones, and in folders all but left and right. Pairs that were asked
    again are not exported. Raises ExchangeError if the folder exists or nothing would be in it.
    """
    if folder.exists():
        raise ExchangeError(f"There is something at {folder} already: choose another folder.")
    first_asked = [one for one in picked if one.pair.repeat_of is None]
    if not first_asked:
        raise ExchangeError("There are no picks to write yet.")
    there = [
        one
        for one in first_asked
        if all(path_of(side).is_file() for side in (one.pair.left, one.pair.right))
    ]
    write_form = {
        "pickapic": pickapic.write,
        "folders": partial(folders.write, final=folder),
        "d3po": d3po.write,
    }[form]
    written = 0

    def write_draft(path: Path) -> None:
        nonlocal written
        path.mkdir()
        written = write_form(path, there, path_of)

    write_atomically(folder, write_draft)
    return written, len(first_asked) - written


def read(path: Path) -> Iterator[ForeignPick]:
    """The picks at `path`, in any of the formats.

    Raises ExchangeError with a sentence, also between two picks.
    """
    try:
        return _read(path)
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(path: Path) -> Iterator[ForeignPick]:
    if path.suffix == ".zip":
        raise ExchangeError(f"{path.name} is an archive: unpack it, and choose the folder.")
    if path.is_file() and path.suffix == ".parquet":
        return pickapic.read([path])
    if not path.is_dir():
        raise ExchangeError(f"There is no folder and no parquet file at {path}.")
    if tables := sorted(table for table in path.rglob("*.parquet") if table.is_file()):
        return pickapic.read(tables)
    if (path / "prompt.json").is_file():
        return d3po.read(path)
    if (path / flow_factory.FILE_NAME).is_file():
        return flow_factory.read(path)
    if all((path / side).is_dir() for side in folders.SIDES):
        return folders.read(path)
    raise ExchangeError(
        f"{path} holds no picks that can be read: neither parquet files (Pick-a-Pic), nor "
        "prompt.json with images/ (D3PO), nor train.jsonl (Flow-Factory), nor the folders chosen "
        "and rejected with pictures of the same names."
    )
