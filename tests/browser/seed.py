"""A store as the worker would fill it, without the worker: real pictures, rows and rounds."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import replace

from PIL import Image as Pictures
from PIL import ImageDraw

from studio.store import Adapter, Export, Image, Pair, Question, Session, Store, WorkerStatus
from studio.store.status import RoundProgress

COLOURS = ("#f2c14e", "#e07a5f", "#81b29a", "#3d5a80", "#98c1d9", "#b56576", "#355070", "#eeeeee")


def image(store: Store, session: Session, purpose: str, prompt: str, **changes: object) -> Image:
    """A picture on the disk and the row that describes it, which is not in the store yet."""
    values = {
        "id": store.new_image_id(),
        "session_id": session.id,
        "purpose": purpose,
        "prompt": prompt,
        "seed": random.getrandbits(30),
        "adapter_id": None,
        "strength": 1.0,
        "sampling": session.settings.sampling,
        "base_hash": "base",
        "created_at_s": time.time(),
    }
    made = Image(**values | changes)
    path = store.image_path(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(made.seed, made.sampling.width_px).save(path)
    return made


def drawing(seed: int, size_px: int) -> Pictures.Image:
    """Some shape on some ground."""
    dice = random.Random(seed)
    ground, shape, inner = dice.sample(COLOURS, 3)
    picture = Pictures.new("RGB", (size_px, size_px), ground)
    pen = ImageDraw.Draw(picture)
    low, high = size_px * 0.15, size_px * 0.85
    form = dice.choice((pen.ellipse, pen.rectangle))
    form((low, low, high, high), fill=shape)
    pen.regular_polygon((size_px / 2, size_px / 2, size_px / 5), dice.randint(3, 7), fill=inner)
    return picture


def add_pairs(
    store: Store, session: Session, number: int, adapter: str | None = None
) -> list[Pair]:
    """Pairs that wait for a pick."""
    made = []
    for place in range(number):
        prompt = session.settings.prompts[place % len(session.settings.prompts)]
        two = (image(store, session, "pair", prompt, adapter_id=adapter) for _ in range(2))
        made.append(store.add_pair(session.id, prompt, *two, adapter))
    return made


def add_grids(store: Store, session: Session, number: int, size: int = 4) -> list[Question]:
    """Grids that wait for an answer; a session that asks for so many pictures at a time."""
    settings = replace(session.settings, pictures=size)
    store.update_settings(session.id, settings)
    made = []
    for _ in range(number):
        prompt = settings.prompts[len(made) % len(settings.prompts)]
        pictures = [image(store, session, "pair", prompt) for _ in range(size)]
        made.append(store.add_question(session.id, prompt, pictures, None))
    return made


def pick_all(store: Store, session: Session) -> None:
    """A pick on every pair that waits."""
    for place, pair in enumerate(store.waiting_pairs(session.id, limit=1000)):
        store.add_answer(uuid.uuid4().hex, pair.id, ("left", "right")[place % 2])


def learn(
    store: Store,
    session: Session,
    updates: int | None = None,
    held_back: str = "",
    agreement: float = 0.8,
) -> Adapter | None:
    """A round over the picks; with `updates`, one that has come only so far; or one held back.
    agreement: the share of the held-out picks that it guesses in the end."""
    round_ = store.request_round(session.id)
    store.claim_round()
    total = round_.updates_total
    for update in range(1, (updates or total) + 1):
        share = update / total
        values = {"loss": 0.69 - 0.1 * share, "margin": share, "accuracy": 0.5 + 0.4 * share}
        values |= {
            "grad_norm": 0.5,
            "seconds": 1.0,
            "held_out_agreement": 0.5 + (agreement - 0.5) * share,
        }
        store.add_metric(round_.id, update, values)
    if updates is not None:
        return None
    adapter = Adapter(
        id=uuid.uuid4().hex,
        session_id=session.id,
        round_id=round_.id,
        number=round_.number,
        settings=round_.settings,
        base_hash="base",
        picks=len(round_.train_pick_ids) + len(round_.held_out_pick_ids),
        sha256="00",
        created_at_s=time.time(),
    )
    store.adapter_path(adapter).mkdir(parents=True)
    store.finish_round(round_.id, adapter, held_back or "Done.", held_back=bool(held_back))
    add_previews(store, session, adapter.id)
    return adapter


def add_previews(store: Store, session: Session, adapter_id: str | None = None) -> None:
    """The shown prompts, drawn."""
    for prompt in session.settings.shown_prompts:
        store.add_image(image(store, session, "preview", prompt, adapter_id=adapter_id))


def say(
    store: Store, state: str = "idle", message: str = "", at: RoundProgress | None = None
) -> None:
    """What the worker says of itself; there is none, so `pages` waits long for its next word."""
    store.set_worker_status(WorkerStatus(1, state, message, "cpu", time.time(), at))


def export_files(store: Store, session: Session, *names: str) -> list[str]:
    """The addresses of files of an export, which say window.canary = 1 if they can."""
    add_pairs(store, session, 4)
    pick_all(store, session)
    adapter = learn(store, session)
    folder = store.export_path(session.id, "e1")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("window.canary = parent.canary = 1")
    store.add_export(Export("e1", session.id, adapter.id, "Blue", names, {}, time.time()))
    return [f"/exports/{session.id}/e1/{name}" for name in names]
