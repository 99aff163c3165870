"""A folder of pictures that other programs made, read into a session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from studio.paths import expanded
from studio.pictures import folders
from studio.pictures.infotext import Parameters
from studio.settings import SamplingSettings
from studio.store import Image, Session, Store
from studio.store.rows import SOURCE, SOURCE_HASH
from studio.worker.disk_space import require_disk_space
from studio.worker.errors import WorkerError
from studio.worker.foreign_pictures import (
    LeftOut,
    caption_beside,
    content_of,
    hash_of,
    picture_of,
    printable,
    row,
    settings_in,
    with_prompt,
    written,
)
from studio.worker.renderer import Renderer

MOST_PICTURES = 50_000  # of a folder
MOST_REMARKS = 50  # on files that were left out
REPORT_EVERY_S = 0.5


def read_folder(
    renderer: Renderer,
    store: Store,
    session: Session,
    path: str,
    report: Callable[[int, int], object],
) -> dict[str, Any]:
    """Add the pictures of a folder that the session does not have yet.

    `report` is called with the files read so far and their number, and may raise to end the
    reading: what was added stays. Returns counts, and the names of files that were left out.
    Raises WorkerError if the folder cannot be read.
    """
    folder, paths = picture_files(path)
    denoiser = renderer.model_of(session)
    known = {_key(image) for image in store.folder_pictures(session.id, deleted=True)}
    counts = dict.fromkeys(("pictures", "known", "left_out", "other_model", "other_size"), 0)
    remarks: list[str] = []
    for file in reporting(store, paths, report):
        name = name_in(folder, file)
        try:
            content = content_of(file)
            companions = {SOURCE: name, SOURCE_HASH: hash_of(content)}
            image = row(session, denoiser, store.new_image_id(), companions)
            if _key(image) in known:
                counts["known"] += 1
                continue
            picture = picture_of(content, session.settings.sampling)
            made = _made(file, content)
        except LeftOut as problem:
            counts["left_out"] += 1
            remarks.append(f"{name}: {problem}.")
            continue
        store.add_image(written(renderer, denoiser, image, made, picture))
        known.add(_key(image))
        counts["pictures"] += 1
        counts["other_model"] += made.model.casefold() != _model_name(session).casefold()
        counts["other_size"] += (made.width_px, made.height_px) != _size(session.settings.sampling)
    return {**counts, "remarks": remarks[:MOST_REMARKS]}


def picture_files(path: str) -> tuple[Path, list[Path]]:
    """A folder as somebody typed it, and the pictures in it. Raises WorkerError."""
    folder = expanded(path)
    try:
        paths = list(islice(folders.picture_paths(folder), MOST_PICTURES))
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{path} is not a folder that can be read. Copy its path from your file manager."
        ) from error
    if not paths:
        raise WorkerError(f"There are no PNG, JPEG, WebP or AVIF files in {path}.")
    return folder.resolve(), paths


def reporting(
    store: Store, paths: list[Path], report: Callable[[int, int], object]
) -> Iterator[Path]:
    """The paths one by one, with a report now and then, as long as there is room on the disk."""
    reported_s = 0.0
    for number, path in enumerate(paths):
        if time.monotonic() - reported_s > REPORT_EVERY_S:
            require_disk_space(store.home)
            report(number, len(paths))
            reported_s = time.monotonic()
        yield path


def name_in(folder: Path, path: Path) -> str:
    """The name of a file as it stands in the folder that was read."""
    return printable(path.relative_to(folder).as_posix())


def _key(image: Image) -> tuple[str, str, SamplingSettings]:
    """Equal for copies of one file that a round would read alike."""
    return image.companions.get(SOURCE_HASH, ""), image.base_hash, image.sampling.of_a_round


def _made(path: Path, content: bytes) -> Parameters:
    """How it was made, as it says itself; else its caption, in a text file of the same name."""
    try:
        made = settings_in(content)
    except LeftOut:
        caption = caption_beside(path)
        if caption is None:
            raise
        made = Parameters(prompt=caption)
    return with_prompt(made)


def _size(sampling: SamplingSettings) -> tuple[int, int]:
    return sampling.width_px, sampling.height_px


def _model_name(session: Session) -> str:
    return Path(session.settings.base_model).name.removesuffix(".safetensors")
