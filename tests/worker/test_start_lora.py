"""A session that starts from somebody's LoRA: what is drawn, learned and exported with it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors import safe_open

from studio import models
from studio.settings import SamplingSettings, SessionSettings, StartLora, TrainingSettings
from studio.store import Job, Session, Store
from studio.ui.images import made_with
from studio.ui.previews import current_previews
from studio.ui.sessions import request_preview
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.export.exports import export_cards
from studio.ui.tabs.prompt import start_lora
from studio.worker.loop import Worker
from tests.support.loras import write_lora
from tests.support.workers import finish_all


@pytest.fixture
def settings(tiny_model: Path) -> SessionSettings:
    return SessionSettings(
        base_model=str(tiny_model),
        prompts=("a cat", "a dog"),
        preview_prompts=("a cat",),
        sampling=SamplingSettings(steps=3, width_px=64, height_px=64, seed=3),
        training=TrainingSettings(rank=2, updates_base=2, updates_per_pick=0),
        round_every=1000,
        live=False,
        queue_target=4,
    )


@pytest.fixture
def session(store: Store, settings: SessionSettings) -> Session:
    session = store.create_session("Mine", settings)
    store.set_last_session(session.id)
    return session


@pytest.fixture
def lora(tiny_model: Path, tmp_path: Path) -> Path:
    return write_lora(tmp_path / "style.safetensors", tiny_model)


def start(store: Store, session: Session, wanted: StartLora | None) -> Session:
    now = store.session(session.id).settings
    return store.update_settings(session.id, replace(now, start=wanted))


def pick_all(store: Store, session: Session) -> None:
    for pair in store.waiting_pairs(session.id):
        store.add_answer(uuid.uuid4().hex, pair.id, "left")


def hashes(store: Store, session: Session) -> list[str]:
    return [one.pair.left.base_hash for one in store.picked_pairs(session.id)]


def test_pictures_with_and_without_it_are_never_learned_from_together(
    store, session, worker, lora, tiny_model
):
    finish_all(worker)
    pick_all(store, session)
    start(store, session, StartLora(str(lora), 0.7))
    assert store.waiting_pairs(session.id) == []  # what was drawn without it is not asked any more
    finish_all(worker)
    pick_all(store, session)
    plain, styled = hashes(store, session)[0], hashes(store, session)[-1]
    expected = models.load(str(tiny_model), "cpu", start=StartLora(str(lora), 0.7)).base_hash
    assert styled == expected != plain
    round_ = store.request_round(session.id)
    assert len(round_.train_pick_ids + round_.held_out_pick_ids) == 4  # of eight
    finish_all(worker)
    [adapter] = store.adapters(session.id)
    assert (store.round(round_.id).state, adapter.base_hash) == ("done", styled)
    assert store.session(session.id).current_adapter_id == adapter.id
    # another strength is another model
    assert start(store, session, StartLora(str(lora), 0.8)).current_adapter_id is None
    finish_all(worker)
    job = store.add_job(
        session.id,
        "compare",
        {"prompts": ["a cat"], "seeds": [1], "adapter_id": adapter.id, "strength": 1.0},
    )
    worker.jobs.run_next()
    assert store.job(job.id).state == "failed"
    assert "another base model" in store.job(job.id).message
    # and the one from before is the same again
    start(store, session, StartLora(str(lora), 0.7))
    again = store.add_job(session.id, "compare", job.payload)
    worker.jobs.run_next()
    assert store.job(again.id).state == "done", store.job(again.id).message


def test_another_file_under_its_name_is_another_model(store, session, worker, lora, tiny_model):
    start(store, session, StartLora(str(lora)))
    finish_all(worker)
    [before] = store.images(session.id, "preview")
    write_lora(lora, tiny_model, seed=1)
    finish_all(worker)
    after, _ = store.images(session.id, "preview")
    assert after.base_hash != before.base_hash
    one, two = (store.image_path(image).read_bytes() for image in (before, after))
    assert one != two


def test_a_file_that_is_gone_is_said_and_what_is_loaded_goes_on(store, session, worker, lora):
    start(store, session, StartLora(str(lora)))
    finish_all(worker)
    lora.unlink()
    pick_all(store, session)
    finish_all(worker)
    assert len(store.waiting_pairs(session.id)) == 4
    pick_all(store, session)
    with pytest.raises(models.ModelError, match=r"style\.safetensors is missing"):
        finish_all(Worker(store, "cpu"))


def test_what_is_exported_says_what_it_belongs_to(store, session, worker, lora):
    start(store, session, StartLora(str(lora), 0.7))
    finish_all(worker)
    pick_all(store, session)
    store.request_round(session.id)
    finish_all(worker)
    [adapter] = store.adapters(session.id)
    payload = {"adapter_id": adapter.id, "name": "Mine", "formats": ["kohya", "diffusers"]}
    job = store.add_job(session.id, "export", payload)
    worker.jobs.run_next()
    assert store.job(job.id).state == "done", store.job(job.id).message
    [made] = store.exports(session.id)
    folder = store.export_path(session.id, made.id)
    for name in ("Mine.safetensors", "Mine-diffusers.safetensors"):
        with safe_open(folder / name, "pt") as file:
            said = file.metadata()
        assert said["d3po_studio.start_lora"] == "style"
        assert said["d3po_studio.start_lora_strength"] == "0.7"
        assert len(said["d3po_studio.start_lora_sha256"]) == 64
        sentence = "It was trained on top of the LoRA style at strength 0.7: use both together."
        assert sentence in said["modelspec.description"]
        assert said["modelspec.usage_hint"].endswith(sentence)
    assert sentence in (folder / "Mine.json").read_text("utf-8")
    cards = export_cards(StoreSnapshot(store), is_local=True)
    assert "Taught on top of the LoRA <b>style at strength 0.7</b>" in cards
    [picture] = store.images(session.id, "preview", adapter_id=None)
    assert made_with(store, picture).more["Start LoRA"] == "style at 0.7"


def test_looking_at_a_file_says_how_it_fits(store, session, worker, lora, tmp_path):
    def looked_at(path: Path) -> str:
        payload = {"path": str(path), "base_model": session.settings.base_model}
        store.add_job(session.id, "fit", payload)
        assert "working-line" in start_lora.inspected_lora(StoreSnapshot(store))
        worker.jobs.run_next()
        return start_lora.inspected_lora(StoreSnapshot(store))

    said = looked_at(lora)
    assert "<b>style</b> fits: " in said
    assert "layers of the image network, rank 2." in said
    assert "Start from this LoRA" in said
    start(store, session, StartLora(str(lora), 0.5))
    assert "Use this strength" in start_lora.inspected_lora(StoreSnapshot(store))
    assert "<b>style.safetensors</b> at strength 0.5" in start_lora.current_lora(
        StoreSnapshot(store)
    )
    assert "is missing from" in looked_at(tmp_path / "none.safetensors")
    (tmp_path / "<b>.safetensors").write_bytes(b"<!doctype html>")
    said = looked_at(tmp_path / "<b>.safetensors")
    assert "&lt;b&gt;.safetensors is a web page" in said


def test_another_lora_is_drawn_beside_base_and_tuned(store, session, worker, lora, tmp_path):
    finish_all(worker)
    pick_all(store, session)
    store.request_round(session.id)
    finish_all(worker)
    [adapter] = store.adapters(session.id)

    def compare(other: StartLora) -> Job:
        payload = {"prompts": ["a cat"], "seeds": [1], "adapter_id": adapter.id, "strength": 1.0}
        job = store.add_job(session.id, "compare", payload | {"other": other.to_dict()})
        worker.jobs.run_next()
        return store.job(job.id)

    before = worker.renderer.denoiser.network.state_dict()
    before = {key: value.clone() for key, value in before.items() if "lora" not in key}
    job = compare(StartLora(str(lora), 0.5))
    assert job.state == "done", job.message
    assert job.result["fit"].endswith("layers of the image network, rank 2.")
    [cell] = job.result["cells"]
    pictures = [store.image(cell[side]) for side in ("base", "tuned", "other")]
    assert len({store.image_path(one).read_bytes() for one in pictures}) == 3
    base, _, other = pictures
    assert (other.adapter_id, other.base_hash) == (None, base.base_hash)
    assert made_with(store, other).loras == ((lora.stem, 0.5),)  # in the saved picture, too
    after = worker.renderer.denoiser.network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    # it is what a session draws that starts from it
    start(store, session, StartLora(str(lora), 0.5))
    finish_all(worker)
    drawn = worker.renderer.picture(other)
    assert drawn.tobytes() == PIL.Image.open(store.image_path(other)).convert("RGB").tobytes()
    start(store, session, None)
    # drawn once; another strength is another picture
    assert compare(StartLora(str(lora), 0.5)).result["cells"] == [cell]
    assert compare(StartLora(str(lora), 0.6)).result["cells"] != [cell]
    (tmp_path / "x.safetensors").write_bytes(b"not a lora at all, but text")
    job = compare(StartLora(str(tmp_path / "x.safetensors")))
    assert (job.state, job.message) == ("failed", "x.safetensors is a text file, not a model.")


def test_what_is_shown_after_a_change_was_taken_back_is_what_is_drawn_now(
    store, session, worker, lora
):
    shown = []
    for wanted in (None, StartLora(str(lora)), None):
        session = start(store, session, wanted)
        request_preview(store, session)
        finish_all(worker)
        shown.append(current_previews(StoreSnapshot(store))[None, "a cat"])
    assert shown[0] == shown[2] != shown[1]
    assert len(store.images(session.id, "preview")) == 2  # each was drawn once
    wanted = replace(session.settings.sampling, seed=99)
    store.update_settings(session.id, replace(session.settings, sampling=wanted))
    finish_all(worker)  # drawn by itself, without a job
    assert current_previews(StoreSnapshot(store))[None, "a cat"].seed != shown[0].seed
