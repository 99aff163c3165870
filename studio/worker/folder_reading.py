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
from studio.pictures.watched import Stat, stat_of
from studio.settings import SamplingSettings
from studio.store import Image, SeenFile, Session, Store
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


class FolderReader:
    """Copies pictures of a folder into a session, and remembers each file that was looked at."""

    def __init__(self, renderer: Renderer, store: Store, session: Session, path: str) -> None:
        """path: of the folder, as the artist wrote it, by which its files are remembered."""
        self.renderer, self.store, self.session, self.path = renderer, store, session, path
        self.folder = expanded(path).resolve()
        self.denoiser = renderer.model_of(session)
        self._known = {_key(image) for image in store.folder_pictures(session.id, deleted=True)}
        self._seen: list[SeenFile] = []

    def read(self, path: Path, stat: Stat) -> Parameters | None:
        """Add a picture, and give how it was made; None if the session has it already.

        stat: of the file, from before it is read. Raises LeftOut.
        """
        name, remark = name_in(self.folder, path), ""
        try:
            content = content_of(path)
            companions = {SOURCE: name, SOURCE_HASH: hash_of(content)}
            image = row(self.session, self.denoiser, self.store.new_image_id(), companions)
            if _key(image) in self._known:
                return None
            picture = picture_of(content, self.session.settings.sampling)
            made = _made(path, content)
            self.store.add_image(written(self.renderer, self.denoiser, image, made, picture))
            self._known.add(_key(image))
        except LeftOut as problem:
            remark = f"{problem}."
            raise
        finally:
            self._seen.append(SeenFile(name, *stat, time.time(), remark))
        return made

    def remember(self) -> None:
        """Store which files were looked at since the last call."""
        seen, self._seen = self._seen, []
        self.store.add_seen_files(self.session.id, self.path, seen)


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
    reader = FolderReader(renderer, store, session, path)
    counts = dict.fromkeys(("pictures", "known", "left_out", "other_model", "other_size"), 0)
    remarks: list[str] = []

    def remember(done: int, total: int) -> None:
        reader.remember()
        report(done, total)

    for file in reporting(store, paths, remember):
        try:
            made = reader.read(file, stat_of(file) or (0, 0))
        except LeftOut as problem:
            counts["left_out"] += 1
            remarks.append(f"{name_in(folder, file)}: {problem}.")
            continue
        if made is None:
            counts["known"] += 1
            continue
        counts["pictures"] += 1
        counts["other_model"] += made.model.casefold() != _model_name(session).casefold()
        counts["other_size"] += (made.width_px, made.height_px) != _size(session.settings.sampling)
    reader.remember()
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
