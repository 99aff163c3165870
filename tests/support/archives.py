"""A session with something of everything, and archives of it that were tampered with."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.files import sha256
from studio.store import Adapter, Export, Session, Store
from tests.support.factories import make_image

Change = Callable[[dict[str, Any], dict[str, bytes]], None]


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return sha256(path)


def fill(store: Store, session: Session) -> None:
    """Something of everything that a session can have."""
    for number in range(6):
        sides = []
        for _ in range(2):
            image = make_image(store, session.id, seed=number)
            sums = {
                "picture_sha256": write(store.image_path(image), f"{image.id}".encode()),
                "trajectory_sha256": write(store.trajectory_path(image), b"t" * 3000),
            }
            sides.append(replace(image, **sums))
        pair = store.add_pair(session.id, "a lion", *sides, None)
        if number < 5:
            marks = {sides[0].id: "f" * 256} if number == 1 else {}
            choice = "left" if number % 2 else "right"
            store.add_answer(f"pick{number}", pair.id, choice, marks=marks)
    store.undo_pick("undo", session.id)
    round_ = store.request_round(session.id)
    store.claim_round()
    store.add_metric(round_.id, 1, {"loss": 0.7, "margin": float("nan")})
    adapter = Adapter(
        "adapter", session.id, round_.id, 1, round_.settings, "base", 4, "", time.time()
    )
    folder = store.adapter_path(adapter)
    adapter = replace(
        adapter,
        sha256=write(folder / "adapter_model.safetensors", b"weights"),
        config_sha256=write(folder / "adapter_config.json", b"{}"),
    )
    store.finish_round(round_.id, adapter)
    image = make_image(store, session.id, purpose="compare", adapter_id=adapter.id)
    write(store.image_path(image), b"png")
    store.add_image(image)
    job = store.add_job(session.id, "compare", {"adapter_id": adapter.id})
    cell = {"prompt": "a lion", "seed": 1, "base": image.id, "tuned": image.id}
    store.update_job(job.id, state="done", result={"cells": [cell]})
    store.add_job(session.id, "preview", {})
    store.add_export(Export("e", session.id, adapter.id, "My LoRA", ("My LoRA.png",), {}, 1.0))
    write(store.export_path(session.id, "e") / "My LoRA.png", b"png")
    store.add_answer("again", pair.id, "tie")
    store.request_round(session.id)


def rewritten(archive: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The same archive, with `change` made to (its document, its files)."""
    with zipfile.ZipFile(archive) as old:
        document = json.loads(old.read("session.json"))
        files = {n: old.read(n) for n in old.namelist() if n != "session.json"}
    change(document, files)
    path = archive.with_name("hostile.zip")
    with zipfile.ZipFile(path, "w", compression) as new:
        new.writestr("session.json", json.dumps(document))
        for name, content in files.items():
            new.writestr(name, content)
    return path
