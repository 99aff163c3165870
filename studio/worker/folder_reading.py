"""A folder of pictures that other programs made, read into a session.

Each picture is copied: cropped and scaled to the session's size, with its final latents by the
model's VAE, so that a round can learn from it at once. The files themselves are never changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image

from studio.engine.trajectory import Trajectory
from studio.models import Denoiser
from studio.paths import expanded
from studio.pictures import folders, infotext
from studio.pictures.alike import difference_hash
from studio.pictures.files import fitted, parameters_of
from studio.pictures.infotext import Parameters, ParametersError
from studio.prompting import text_files
from studio.settings import LARGEST_INTEGER, MAX_PROMPT_CHARACTERS, SamplingSettings
from studio.store import Image, Session, Store
from studio.store.rows import SOURCE, SOURCE_HASH, SOURCE_LOOK, SOURCE_MODEL, SOURCE_SETTINGS
from studio.worker.disk_space import require_disk_space
from studio.worker.errors import WorkerError
from studio.worker.renderer import Renderer

MOST_PICTURES = 50_000  # of a folder
MOST_REMARKS = 50  # on files that were left out
REPORT_EVERY_S = 0.5


class _LeftOut(Exception):
    """A file that cannot be used; the message says why, without its name."""


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
    folder = expanded(path)
    try:
        paths = list(islice(folders.picture_paths(folder), MOST_PICTURES))
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{path} is not a folder that can be read. Copy its path from your file manager."
        ) from error
    if not paths:
        raise WorkerError(f"There are no PNG, JPEG, WebP or AVIF files in {path}.")
    denoiser = renderer.model_of(session)
    known = {_key(image) for image in store.folder_pictures(session.id, deleted=True)}
    counts = dict.fromkeys(("pictures", "known", "left_out", "other_model", "other_size"), 0)
    remarks: list[str] = []
    reported_s = 0.0
    for number, file in enumerate(paths):
        if time.monotonic() - reported_s > REPORT_EVERY_S:
            require_disk_space(store.home)
            report(number, len(paths))
            reported_s = time.monotonic()
        name = _printable(file.relative_to(folder.resolve()).as_posix())
        try:
            content = _content(file)
            image = _row(store, session, denoiser, name, content)
            if _key(image) in known:
                counts["known"] += 1
                continue
            picture = _picture(content, session.settings.sampling)
            made = _made(file, content)
        except _LeftOut as problem:
            counts["left_out"] += 1
            remarks.append(f"{name}: {problem}.")
            continue
        store.add_image(_written(renderer, denoiser, image, made, picture))
        known.add(_key(image))
        counts["pictures"] += 1
        counts["other_model"] += made.model.casefold() != _model_name(session).casefold()
        counts["other_size"] += (made.width_px, made.height_px) != _size(session.settings.sampling)
    return {**counts, "remarks": remarks[:MOST_REMARKS]}


def _key(image: Image) -> tuple[str, str, SamplingSettings]:
    """Equal for copies of one file that a round would read alike."""
    return image.companions.get(SOURCE_HASH, ""), image.base_hash, image.sampling.of_a_round


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > folders.LARGEST_BYTES:
            raise _LeftOut("it is too large for a picture")
        return path.read_bytes()
    except OSError as error:
        raise _LeftOut("it cannot be read") from error


def _row(store: Store, session: Session, denoiser: Denoiser, name: str, content: bytes) -> Image:
    """A picture of the session of which nothing is known yet but its content."""
    return Image(
        id=store.new_image_id(),
        session_id=session.id,
        purpose="pair",
        prompt="",
        seed=0,
        adapter_id=None,
        strength=1.0,
        sampling=session.settings.sampling,
        base_hash=denoiser.base_hash,
        created_at_s=time.time(),
        companions={SOURCE: name, SOURCE_HASH: hashlib.sha256(content).hexdigest()},
    )


def _made(path: Path, content: bytes) -> Parameters:
    """How it was made, as it says itself; else its caption, in a text file of the same name."""
    try:
        made = parameters_of(content, folders.LARGEST_BYTES)
    except ParametersError as error:
        try:
            caption = text_files.read(path.with_suffix(".txt")).text
        except (OSError, ValueError):
            raise _LeftOut(str(error).rstrip(".")) from error
        made = Parameters(prompt=" ".join(caption.split()))
    if not made.prompt.strip():
        raise _LeftOut("its prompt is empty")
    if len(made.prompt) > MAX_PROMPT_CHARACTERS:
        raise _LeftOut(f"its prompt is longer than {MAX_PROMPT_CHARACTERS} characters")
    return replace(made, prompt=_printable(made.prompt.strip()))


def _picture(content: bytes, sampling: SamplingSettings) -> PIL.Image.Image:
    picture = fitted(content, _size(sampling))
    if picture is None:
        raise _LeftOut("it is damaged, or no picture")
    return picture


def _written(
    renderer: Renderer,
    denoiser: Denoiser,
    image: Image,
    made: Parameters,
    picture: PIL.Image.Image,
) -> Image:
    """Write the files of a picture; gives its row for the caller to add."""
    seed = made.seed if made.seed is not None and made.seed <= LARGEST_INTEGER else 0
    texts = [made.prompt, image.sampling.negative_prompt]
    companions = {
        SOURCE_MODEL: _printable(made.model or made.model_hash),
        SOURCE_SETTINGS: _printable(infotext.write(made)),
        SOURCE_LOOK: f"{difference_hash(picture):016x}",
    }
    companions = denoiser.companions(texts) | image.companions | companions
    image = replace(image, prompt=made.prompt, seed=seed, companions=companions)
    timesteps = denoiser.schedule(image.sampling).timesteps.cpu()
    final = denoiser.encode([picture]).cpu()  # the only latents that exist
    chain = Trajectory(final, timesteps, made.prompt, seed, image.sampling, image.base_hash)
    return renderer.write(image, picture, chain)


def _size(sampling: SamplingSettings) -> tuple[int, int]:
    return sampling.width_px, sampling.height_px


def _model_name(session: Session) -> str:
    return Path(session.settings.base_model).name.removesuffix(".safetensors")


def _printable(text: str) -> str:
    """A text that can be stored: names of files may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode()
