"""The artist's own finished art: read into a session, and drawn beside by the session's model."""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.durations import duration
from studio.engine import sampling
from studio.paths import expanded
from studio.pictures import folders
from studio.pictures.infotext import Parameters
from studio.settings import SamplingSettings
from studio.store import Image, Session, Store
from studio.store.rows import OWN_HASH, SOURCE
from studio.worker.folder_reading import MOST_REMARKS, name_in, picture_files, reporting
from studio.worker.foreign_pictures import (
    LeftOut,
    caption_beside,
    content_of,
    hash_of,
    picture_of,
    row,
    settings_in,
    with_prompt,
    written,
)
from studio.worker.progress import picture_kind
from studio.worker.renderer import Renderer
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled


def read_own_art(
    renderer: Renderer,
    store: Store,
    session: Session,
    path: str,
    caption: str,
    report: Callable[[int, int], object],
) -> dict[str, Any]:
    """Add a picture, or those of a folder, as the artist's own.

    caption: of all of them; "": each has its own, in a text file of its name or in itself. One that
    is there already with another caption is replaced. `report` is called with the files read so far
    and their number, and may raise to end the reading: what was added stays. Returns counts, and
    the names of files that were left out. Raises WorkerError.
    """
    folder, paths = _files(path)
    denoiser = renderer.model_of(session)
    known = {_key(image): image for image in store.own_pictures(session.id, deleted=True)}
    counts = dict.fromkeys(("pictures", "known", "left_out"), 0)
    remarks: list[str] = []
    for file in reporting(store, paths, report):
        name = name_in(folder, file)
        try:
            content = content_of(file)
            companions = {SOURCE: name, OWN_HASH: hash_of(content)}
            image = row(session, denoiser, store.new_image_id(), companions)
            made = _captioned(file, content, caption)
            before = known.get(_key(image))
            if before is not None and before.prompt == made.prompt:
                counts["known"] += 1
                continue
            picture = picture_of(content, session.settings.sampling)
        except LeftOut as problem:
            counts["left_out"] += 1
            remarks.append(f"{name}: {problem}.")
            continue
        known[_key(image)] = store.add_image(written(renderer, denoiser, image, made, picture))
        if before is not None:
            store.replace_own_picture(uuid.uuid4().hex, before.id)
        counts["pictures"] += 1
    return {**counts, "remarks": remarks[:MOST_REMARKS]}


def _files(path: str) -> tuple[Path, list[Path]]:
    """The pictures of a folder, or the one that the path names, and the folder that they lie in."""
    file = expanded(path)
    with contextlib.suppress(OSError, ValueError):
        if file.is_file() and folders.is_picture(file):
            file = file.resolve()
            return file.parent, [file]
    return picture_files(path)


def _captioned(path: Path, content: bytes, caption: str) -> Parameters:
    """What the picture shows, in the artist's words. Raises LeftOut if nobody says it."""
    words = " ".join(caption.split()) or caption_beside(path)
    if words is not None:
        return with_prompt(Parameters(prompt=words))
    try:
        return with_prompt(settings_in(content))
    except LeftOut as error:
        raise LeftOut("it has no caption: write one here, or in a text file of its name") from error


def _key(image: Image) -> tuple[str, str, SamplingSettings]:
    """Equal for copies of one file that a round would read alike."""
    return image.companions.get(OWN_HASH, ""), image.base_hash, image.sampling.of_a_round


class OwnArt:
    """Draws what the captions of own pictures say, of the open session."""

    def __init__(
        self, store: Store, renderer: Renderer, status: StatusReporter, stopping: threading.Event
    ) -> None:
        self.store, self.renderer, self.status = store, renderer, status
        self.stopping = stopping

    def draw_next(self) -> bool:
        """Draw beside the next own picture that has nothing beside it; False if there is none.

        As many are drawn as Prefer shows at once, less the own one.
        """
        session_id = self.store.last_session_id()
        if session_id is None:
            return False
        counts = self.store.own_counts(session_id)
        if counts.drawn == counts.pictures:  # the usual answer, which needs no model
            return False
        session = self.store.session(session_id)
        settings = session.settings
        base_hash = self.renderer.model_of(session).base_hash
        own = self.store.next_own_picture(session_id, base_hash, settings.sampling)
        if own is None:
            return False

        def require_wanted() -> None:
            if self.stopping.is_set() or not self.store.has_session(session_id):
                raise Cancelled
            now = self.store.session(session_id).settings
            if (now.base, now.sampling) != (settings.base, settings.sampling):
                raise Cancelled

        with contextlib.suppress(Cancelled), self.renderer.while_wanted(require_wanted):
            self._draw_beside(own, session)
        return True

    def _draw_beside(self, own: Image, session: Session) -> None:
        denoiser, settings = self.renderer.model_of(session), session.settings
        adapter_id = session.current_adapter_id if settings.pairs_by == "newest" else None
        count = settings.pictures - 1
        kind = picture_kind(denoiser.base_hash, settings.sampling)
        picture_s = self.renderer.pace.of(kind)
        takes = f", {duration(picture_s * count)}" if picture_s else ""
        self.status.report("sampling", f"Drawing beside your own art{takes}: {own.prompt}")
        made_from = f"{settings.sampling.seed} beside {own.companions[OWN_HASH]}"
        seed = random.Random(made_from).getrandbits(31)
        with self.renderer.pace.measured(kind, count), self.renderer.using(adapter_id):
            [chains] = sampling.sample_groups(
                denoiser, [own.prompt], [seed], settings.sampling, count
            )
            pictures = sampling.images(denoiser, chains)
        drawings = [
            self.renderer.write(
                self.renderer.image(session, "pair", own.prompt, chain.seed, adapter_id),
                picture,
                chain,
            )
            for chain, picture in zip(chains, pictures, strict=True)
        ]
        self.store.add_own_question(own, drawings, adapter_id)
