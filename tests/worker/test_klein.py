"""A session with FLUX.2 klein: drawn, learned, compared and exported by the worker."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Session, Store
from studio.worker.loop import Worker
from tests.support.workers import finish_all


def make_session(store: Store, model: Path) -> Session:
    settings = SessionSettings(
        base_model=str(model),
        prompts=("a cat",),
        preview_prompts=("a cat",),
        sampling=SamplingSettings(steps=2, width_px=64, height_px=64, seed=3, guidance=2.0),
        training=TrainingSettings(rank=2, updates_base=1, updates_per_pick=0),
        round_every=1000,
        live=False,
        queue_target=4,
    )
    session = store.create_session("Mine", settings)
    store.set_last_session(session.id)
    return session


def pick_all(store: Store, session: Session) -> None:
    for pair in store.waiting_pairs(session.id):
        store.add_answer(uuid.uuid4().hex, pair.id, "left")


def test_from_the_first_pair_to_the_exported_file(store: Store, klein_folder: Path) -> None:
    session = make_session(store, klein_folder)
    worker = Worker(store, "cpu")
    finish_all(worker)
    known = store.known_model(str(klein_folder))
    assert (known.family, known.words) == ("flux2_klein_4b", "FLUX.2 klein base 4B")
    pick_all(store, session)
    round_ = store.request_round(session.id)
    finish_all(worker)
    round_ = store.round(round_.id)
    assert round_.state == "done", round_.message
    [adapter] = store.adapters(session.id)
    payload = {
        "adapter_id": adapter.id,
        "name": "mine",
        "formats": ["kohya", "diffusers"],
        "workflows": True,
    }
    job = store.add_job(session.id, "export", payload)
    finish_all(worker)
    assert store.job(job.id).state == "done", store.job(job.id).message
    [export] = store.exports(session.id)
    assert {"mine.safetensors", "mine-diffusers.safetensors"} < set(export.files)
    assert "draws what the adapter draws" in export.checks["mine.safetensors: picture"]
    assert "No workflow is written" in export.checks["in ComfyUI and A1111"]


def test_a_distilled_model_draws_and_says_why_it_does_not_learn(
    store: Store, klein_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "klein"
    shutil.copytree(klein_folder, model)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    session = make_session(store, model)
    worker = Worker(store, "cpu")
    finish_all(worker)
    pick_all(store, session)
    round_ = store.request_round(session.id)
    finish_all(worker)
    round_ = store.round(round_.id)
    assert round_.state == "failed"
    assert "klein is distilled to draw in a few steps" in round_.message
