"""Picks of other programs become a session."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import PIL.Image
import torch

from studio.datasets.picks import ExchangeError, ForeignPick
from studio.engine import trajectory
from studio.engine.trajectory import Trajectory
from studio.files import sha256
from studio.pictures.files import fitted
from studio.settings import (
    MAX_PROMPT_CHARACTERS,
    MAX_PROMPTS,
    SamplingSettings,
    SessionSettings,
    StartLora,
)
from studio.store import Image, Session, Store, write_atomically

if TYPE_CHECKING:
    from studio.models import Denoiser


@dataclass(frozen=True)
class ImportResult:
    """The session made of imported picks."""

    session: Session
    picks: int
    left_out: int  # picks whose pictures or prompts cannot be used
    remarks: tuple[str, ...] = ()  # sentences: which were left out and why, and what was guessed


def import_picks(
    store: Store,
    denoiser: Denoiser,
    base: tuple[str, StartLora | None],
    name: str,
    picks: Iterable[ForeignPick],
    size_px: tuple[int, int],
    report: Callable[[Session, int], object] = lambda session, done: None,
) -> ImportResult:
    """Make a session of foreign picks, from which Diffusion-DPO can learn.

    Pictures are cropped to `size_px` (width, height) and encoded by the base model's VAE. `base`
    is the denoiser's own (`SessionSettings.base`). `report` is called with the session and the
    number of picks so far, at first 0. Raises ExchangeError if no pick can be used, and whatever
    `report` raises; the session is then deleted.
    """
    width_px, height_px = size_px
    sampling = SamplingSettings(width_px=width_px, height_px=height_px, eta=0.0, shared_noise=False)
    base_model, start = base
    settings = SessionSettings(base_model=base_model, start=start, sampling=sampling, live=False)
    session = store.create_session(name, settings)
    prompts: dict[str, None] = {}
    taken = left_out = 0
    remarks: list[str] = []
    try:
        report(session, taken)
        for number, pick in enumerate(picks, start=1):
            prompt = pick.prompt.strip()
            sides = [fitted(content, size_px) for content in (pick.left, pick.right)]
            if problem := pick.problem or _problem(prompt, sides):
                left_out += 1
                remarks.append(f"{pick.name or f'Row {number}'} was left out: {problem}.")
                continue
            if pick.remark:
                remarks.append(f"{pick.remark}.")
            prompts[prompt] = None
            left, right = (
                _add_files(store, session, denoiser, prompt, 2 * taken + side, picture)
                for side, picture in enumerate(sides)
            )
            pair = store.add_pair(session.id, prompt, left, right, None)
            how = {"much_better": pick.much_better, "reason": pick.reason}
            store.add_answer(uuid.uuid4().hex, pair.id, pick.choice, judge=pick.judge, **how)
            taken += 1
            report(session, taken)
        if not taken:
            raise ExchangeError(
                "None of these picks can be used: each needs a prompt of at most "
                f"{MAX_PROMPT_CHARACTERS} characters and two pictures (PNG, JPEG or WebP)."
            )
    except BaseException:
        store.delete_session(session.id)  # all or nothing
        raise
    settings = replace(settings, prompts=tuple(prompts)[:MAX_PROMPTS])
    session = store.update_settings(session.id, settings)
    return ImportResult(session, taken, left_out, tuple(map(_printable, remarks)))


def _problem(prompt: str, sides: list[PIL.Image.Image | None]) -> str:
    """Why a pick cannot be used; "" if it can."""
    if None in sides:
        return "one of its pictures cannot be read, or is no PNG, JPEG or WebP"
    if not 0 < len(prompt) <= MAX_PROMPT_CHARACTERS:
        return f"its prompt is empty, or longer than {MAX_PROMPT_CHARACTERS} characters"
    if prompt != _printable(prompt):
        return "its prompt contains half of a character (a lone surrogate)"
    return ""


def _printable(text: str) -> str:
    """A text that can be stored: names of files and JSON may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _add_files(
    store: Store,
    session: Session,
    denoiser: Denoiser,
    prompt: str,
    seed: int,
    picture: PIL.Image.Image,
) -> Image:
    """Write the files of an imported picture; returns its row, for the caller to add."""
    sampling = session.settings.sampling
    image = Image(
        id=store.new_image_id(),
        session_id=session.id,
        purpose="pair",
        prompt=prompt,
        seed=seed,
        adapter_id=None,
        strength=1.0,
        sampling=sampling,
        base_hash=denoiser.base_hash,
        created_at_s=time.time(),
        companions=denoiser.companions([prompt, sampling.negative_prompt]),
    )
    timesteps = denoiser.schedule(sampling).timesteps.cpu()
    [final] = denoiser.encode([picture]).cpu()
    chain = torch.zeros(len(timesteps) + 1, *final.shape)
    chain[-1] = final  # the only latents that exist
    drawn = Trajectory(chain, timesteps, prompt, seed, sampling, denoiser.base_hash)
    lossless, display = store.image_path(image), store.display_path(image)
    where = store.trajectory_path(image)
    write_atomically(lossless, lambda path: picture.save(path, "PNG"))
    if display != lossless:
        write_atomically(display, lambda path: picture.save(path, "JPEG", quality=92))
    write_atomically(where, lambda path: trajectory.save(path, drawn))
    return replace(image, picture_sha256=sha256(lossless), trajectory_sha256=sha256(where))
