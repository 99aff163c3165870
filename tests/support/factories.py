"""Rows that several test modules need."""

from __future__ import annotations

import time
from pathlib import Path

from alembic import command
from alembic.config import Config

from studio.settings import SamplingSettings
from studio.store import Adapter, Image, Pair, Question, Round, Store
from studio.store.database import MIGRATIONS
from studio.store.waiting import discard_waiting

# (prompt, seed) of an exam
QUESTIONS = [("a snail", 1), ("a fox", 2), ("a snail", 3), ("an owl", 4)]

# Another value of every field of the sampling settings than make_image has.
OTHER_SAMPLING = {
    "steps": 5,
    "guidance": 5.0,
    "width_px": 128,
    "height_px": 128,
    "seed": 9,
    "negative_prompt": "blurred",
    "eta": 0.5,
    "shared_noise": False,
    "clip_skip": 2,
}


def make_image(store: Store, session_id: str, **changes: object) -> Image:
    """The row of an image of which there is no file."""
    values = {
        "id": store.new_image_id(),
        "session_id": session_id,
        "purpose": "pair",
        "prompt": "a red apple",
        "seed": 7,
        "adapter_id": None,
        "strength": 1.0,
        "sampling": SamplingSettings(),
        "base_hash": "base",
        "created_at_s": time.time(),
    }
    return Image(**values | changes)


def make_grid(store: Store, session_id: str, size: int = 4, **changes: object) -> Question:
    """A grid in the store, of which there are no files."""
    pictures = [make_image(store, session_id, **changes) for _ in range(size)]
    return store.add_question(session_id, pictures[0].prompt, pictures, pictures[0].adapter_id)


def make_pair(store: Store, session_id: str, **changes: object) -> Pair:
    """A pair in the store, of which there are no files."""
    left, right = (make_image(store, session_id, **changes) for _ in range(2))
    return store.add_pair(session_id, left.prompt, left, right, left.adapter_id)


def discard(store: Store, session_id: str, keep: int = 0) -> None:
    """Discard the waiting questions of a session, except the first `keep`."""
    with store.writing() as connection:
        discard_waiting(connection, session_id, keep=keep)


def open_at(home: Path, revision: str) -> None:
    """A store as an earlier studio left it, with nothing in it."""
    home.mkdir()
    old = Store(home)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with old.writing(counts=False) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    old.close()


def make_adapter(session_id: str, round_: Round, **changes: object) -> Adapter:
    """The row of an adapter of which there are no files."""
    values = {
        "id": f"adapter-{round_.id}",
        "session_id": session_id,
        "round_id": round_.id,
        "number": round_.number,
        "settings": round_.settings,
        "base_hash": "base",
        "picks": len(round_.train_pick_ids),
        "sha256": "00",
        "created_at_s": time.time(),
    }
    return Adapter(**values | changes)


def finish(store, session_id, round_, **changes):
    """Finish a round with an adapter of which there are no files."""
    adapter = make_adapter(session_id, round_, **changes)
    return store.finish_round(round_.id, adapter), adapter


def pick(store, pairs, choice="left", prefix="pick"):
    return [store.add_answer(f"{prefix}-{p.id}", p.id, choice).answer.pick for p in pairs]
