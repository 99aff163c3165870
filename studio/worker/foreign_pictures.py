"""Pictures that were not drawn here, as rows and files of a session.

Each is copied: cropped and scaled to the session's size, with its final latents by the model's VAE,
so that a round can learn from it at once. The files themselves are never changed.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import PIL.Image

from studio.engine.trajectory import Trajectory
from studio.models import Denoiser
from studio.pictures import folders, infotext
from studio.pictures.alike import difference_hash
from studio.pictures.files import fitted, parameters_of
from studio.pictures.infotext import Parameters, ParametersError
from studio.prompting import text_files
from studio.settings import LARGEST_INTEGER, MAX_PROMPT_CHARACTERS, SamplingSettings
from studio.store import Image, Session
from studio.store.rows import SOURCE_LOOK, SOURCE_MODEL, SOURCE_SETTINGS
from studio.worker.renderer import Renderer

CAPTIONS = (".txt", ".caption")  # endings of the text files that trainers keep beside pictures


class LeftOut(Exception):
    """A file that cannot be used; the message says why, without its name."""


def content_of(path: Path) -> bytes:
    """The content of a picture file. Raises LeftOut."""
    try:
        if path.stat().st_size > folders.LARGEST_BYTES:
            raise LeftOut("it is too large for a picture")
        return path.read_bytes()
    except OSError as error:
        raise LeftOut("it cannot be read") from error


def row(session: Session, denoiser: Denoiser, image_id: str, companions: dict[str, str]) -> Image:
    """A picture of the session of which nothing is known yet but where it comes from."""
    return Image(
        id=image_id,
        session_id=session.id,
        purpose="pair",
        prompt="",
        seed=0,
        adapter_id=None,
        strength=1.0,
        sampling=session.settings.sampling,
        base_hash=denoiser.base_hash,
        created_at_s=time.time(),
        companions=companions,
    )


def caption_beside(path: Path) -> str | None:
    """The text of the caption file beside a picture, in one line; None if there is none."""
    for ending in CAPTIONS:
        try:
            return " ".join(text_files.read(path.with_suffix(ending)).text.split())
        except (OSError, ValueError):
            continue
    return None


def settings_in(content: bytes) -> Parameters:
    """How a picture was made, as its file says. Raises LeftOut if it does not."""
    try:
        return parameters_of(content, folders.LARGEST_BYTES)
    except ParametersError as error:
        raise LeftOut(str(error).rstrip(".")) from error


def with_prompt(made: Parameters) -> Parameters:
    """The same with a prompt that can be stored. Raises LeftOut if it has none, or a longer one."""
    prompt = made.prompt.strip()
    if not prompt:
        raise LeftOut("its prompt is empty")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise LeftOut(f"its prompt is longer than {MAX_PROMPT_CHARACTERS} characters")
    return replace(made, prompt=printable(prompt))


def picture_of(content: bytes, sampling: SamplingSettings) -> PIL.Image.Image:
    """The picture at the size that is learned. Raises LeftOut."""
    picture = fitted(content, (sampling.width_px, sampling.height_px))
    if picture is None:
        raise LeftOut("it is damaged, or no picture")
    return picture


def hash_of(content: bytes) -> str:
    """By which the same file is known again, whatever its name."""
    return hashlib.sha256(content).hexdigest()


def written(
    renderer: Renderer, denoiser: Denoiser, image: Image, made: Parameters, picture: PIL.Image.Image
) -> Image:
    """Write the files of a picture; gives its row for the caller to add."""
    seed = made.seed if made.seed is not None and made.seed <= LARGEST_INTEGER else 0
    texts = [made.prompt, image.sampling.negative_prompt]
    companions = {
        SOURCE_MODEL: printable(made.model or made.model_hash),
        SOURCE_SETTINGS: printable(infotext.write(made)),
        SOURCE_LOOK: f"{difference_hash(picture):016x}",
    }
    companions = denoiser.companions(texts) | image.companions | companions
    image = replace(image, prompt=made.prompt, seed=seed, companions=companions)
    timesteps = denoiser.schedule(image.sampling).timesteps.cpu()
    final = denoiser.encode([picture]).cpu()  # the only latents that exist
    chain = Trajectory(final, timesteps, made.prompt, seed, image.sampling, image.base_hash)
    return renderer.write(image, picture, chain)


def printable(text: str) -> str:
    """A text that can be stored: names of files may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode()
