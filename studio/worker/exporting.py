"""An export: checked LoRA files of an adapter or of a mix, the picture that they were checked with,
and what other tools need to draw it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageChops
import PIL.ImageStat

from studio.families import key_of
from studio.files import free_bytes
from studio.lora import format as lora_format
from studio.lora.export import export_parts
from studio.lora.format import LoraError
from studio.lora.metadata import ExportInfo, StartedFrom
from studio.models import Denoiser
from studio.statistics import Tally, tallies
from studio.store import Adapter, Export, Session, Store, StoreFull, write_atomically
from studio.store.rows import CHECK_PICTURE, IN_OTHER_TOOLS, MIX, USE_WITH
from studio.worker import other_tools
from studio.worker.disk_space import RESERVE_MB
from studio.worker.mixing import Mix, read_mix
from studio.worker.renderer import Renderer

SAME_PICTURE_LEVELS = 4.0  # of 255, on average: rounding, carried through all steps of a chain


def write_export(
    renderer: Renderer,
    store: Store,
    session: Session,
    payload: dict[str, Any],
    say_next: Callable[[int, int], None],
) -> Export:
    """Write the files and their row. say_next: called before each test picture with how many are
    drawn, and how many there are.

    Raises StoreFull if there is no room, and LoraError if a file is not what was learned.
    """
    adapter = store.adapter(payload["adapter_id"])
    denoiser = renderer.require_base(session, adapter)
    mix = read_mix(renderer, session, payload)
    info = _info(store, session, payload, adapter, denoiser, mix)
    formats, rank = tuple(payload["formats"]), payload.get("rank", 0)
    parts, exact = mix.as_one(rank) if mix else (renderer.adapter_parts(adapter), "")
    needed_bytes = sum(part.n_bytes for part in parts.values()) * len(formats)
    if needed_bytes + RESERVE_MB * 1_000_000 > free_bytes(store.home):
        raise StoreFull(
            f"An export of this LoRA takes {needed_bytes // 1_000_000} MB, and the disk that "
            f"holds {store.home} has no room for it: make some, and export again."
        )
    [prompt, *_] = session.settings.shown_prompts or ("",)
    wanted = renderer.preview(session, prompt, adapter.id)
    drawings = 1 + len(formats)
    say_next(0, drawings)
    with mix.applied() if mix else renderer.using(adapter.id):
        expected = renderer.picture(wanted)
    drawn: dict[str, PIL.Image.Image] = {}

    def verify(path: Path, form: str) -> dict[str, str]:
        say_next(1 + len(drawn), drawings)
        written = lora_format.read(path) if mix else None
        with denoiser.with_lora(written) if written else denoiser.adapters.using_file(path):
            drawn[form] = renderer.picture(wanted)
        if rank:  # the nearest, and not the same
            return {}
        return {"picture": same_picture(path, drawn[form], expected, bool(mix))}

    export_id = uuid.uuid4().hex
    folder = store.export_path(session.id, export_id)
    report = export_parts(
        folder,
        payload["name"],
        parts,
        info,
        formats,
        expected,
        precision=payload.get("precision", "float32"),
        layers=None if mix else denoiser.adapters.layer_shapes,
        verify=verify,
    )
    # The export's picture: drawn with the written file.
    checked = folder / f"{report.name}{CHECK_PICTURE}"
    write_atomically(checked, lambda path: next(iter(drawn.values())).save(path, "PNG"))
    files = (*(path.name for path in report.files), checked.name)
    checks = report.checks | ({USE_WITH: str(info.start)} if info.start else {})
    checks |= {MIX: f"{mix.words}; {exact}"} if mix else {}
    if payload.get("workflows") and denoiser.info.facts.transformer is not None:
        checks[IN_OTHER_TOOLS] = f"No workflow is written for {denoiser.info.facts.words} yet."
    elif payload.get("workflows"):
        prompt = renderer.expand(wanted.prompt, wanted.seed)
        drawing = other_tools.drawing(denoiser, wanted, prompt, report.name)
        more, checks[IN_OTHER_TOOLS] = other_tools.write(
            folder, report.name, drawing, info.strength
        )
        files += more
    export = Export(
        id=export_id,
        session_id=session.id,
        adapter_id=adapter.id,
        name=payload["name"],
        files=files,
        checks=checks,
        created_at_s=time.time(),
    )
    store.add_export(export)
    return export


def _info(
    store: Store,
    session: Session,
    payload: dict[str, Any],
    adapter: Adapter,
    denoiser: Denoiser,
    mix: Mix | None,
) -> ExportInfo:
    """What the files say about themselves."""
    settings = session.settings.sampling
    strength = payload.get("strength", 1.0)
    exam_tallies = tallies(store.exams(session.id, adapter.id))
    texts = ("trigger", "licence", "author", "notes")
    info = ExportInfo(
        family=key_of(denoiser.info.family, denoiser.prediction_type),
        base_model=denoiser.info.name,
        picks=mix.picks if mix else adapter.picks,
        trained_at_s=adapter.created_at_s,
        base_hash=adapter.base_hash,
        start=denoiser.start and StartedFrom(*denoiser.start.identity),
        prediction_type=denoiser.prediction_type,
        width_px=settings.width_px,
        height_px=settings.height_px,
        clip_skip=settings.clip_skip,
        strength=strength,
        exam=_exam_words(exam_tallies, strength),
        exams=tuple(_exam_numbers(at, tally) for at, tally in exam_tallies.items()),
        **{name: payload.get(name, "") for name in texts},
    )
    if mix:  # the exams were about the adapter alone
        notes = f"A mix of {mix.words}. {info.notes}".strip()
        return replace(info, exam="", exams=(), notes=notes)
    return info


def same_picture(
    path: Path, drawn: PIL.Image.Image, expected: PIL.Image.Image, is_mix: bool = False
) -> str:
    """How near the picture of a LoRA file is to the adapter's own, or the mix's, in words. Raises
    LoraError if the two differ."""
    what = "mix" if is_mix else "adapter"
    difference = PIL.ImageChops.difference(drawn.convert("RGB"), expected.convert("RGB"))
    levels = sum(PIL.ImageStat.Stat(difference).mean) / 3
    if levels > SAME_PICTURE_LEVELS:
        raise LoraError(
            f"The export was stopped: {path.name} does not draw the same picture as the {what} "
            f"({levels:.0f} of 255 levels apart)."
        )
    loaded = "again" if is_mix else "by diffusers"
    return f"loaded {loaded}, it draws what the {what} draws ({levels:.1f} of 255 levels apart)"


def _exam_words(by_strength: dict[float, Tally], strength: float) -> str:
    """The results of the exams for the file's metadata, the recommended strength first."""
    order = sorted(by_strength, key=lambda at: (at != strength, at))
    results = [f"at strength {at:g} in {by_strength[at]}" for at in order]
    return f"Chosen blind over the base model: {'; '.join(results)}." if results else ""


def _exam_numbers(strength: float, tally: Tally) -> dict[str, float]:
    low, high = tally.interval
    return {
        "strength": strength,
        "tuned": tally.tuned,
        "base": tally.base,
        "no_difference": tally.ties,
        "low_95": round(low, 4),
        "high_95": round(high, 4),
    }
