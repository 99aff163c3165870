"""Folders of pictures: read, asked about, and learned from, with a real (tiny) model."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from studio.engine import trajectory
from studio.settings import OBJECTIVES, TrainingSettings
from studio.store import Job, Session, Store, examine_files, export_session, import_session
from studio.store.rows import SOURCE, SOURCE_MODEL
from studio.ui.images import made_with
from studio.worker import folder_reading
from studio.worker.folder_pairs import groups_of
from studio.worker.loop import Worker
from tests.support.foreign_pictures import PROGRAMS, drawing, save
from tests.support.workers import finish_all, small_session


@pytest.fixture
def session(store: Store, tiny_model: Path) -> Session:
    training = TrainingSettings(rank=2, updates_base=2, updates_per_pick=0)
    return small_session(store, tiny_model, 4, training=training, queue_target=3, pairs_of="folder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures of a cat and three of a dog, by one model."""
    folder = tmp_path / "pictures"
    for seed in range(8):
        save(folder, f"cat{seed}", drawing(seed))
    for seed in range(20, 23):
        save(folder, f"dog{seed}", drawing(seed), prompt="a dog")
    return folder


def read(store: Store, worker: Worker, session: Session, path: Path) -> Job:
    job = store.add_job(session.id, "read_folder", {"path": str(path)})
    worker.jobs.run_next()
    return store.job(job.id)


def pick_all(store: Store, worker: Worker, session: Session) -> int:
    """Pick the picture whose name comes first, until nothing more is asked."""
    ids = itertools.count()
    while True:
        finish_all(worker)
        waiting = store.waiting_pairs(session.id, 100)
        if not waiting:
            return next(ids)
        for pair in waiting:
            names = pair.left.companions[SOURCE], pair.right.companions[SOURCE]
            choice = "left" if names[0] < names[1] else "right"
            store.add_answer(f"pick{next(ids)}", pair.id, choice)


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_s_pictures_are_read(store, worker, session, tmp_path, program):
    path = save(tmp_path / "in", "one", drawing(1, (80, 96)), program)
    content = path.read_bytes()
    job = read(store, worker, session, path.parent)
    assert job.state == "done", job.message
    assert job.result["pictures"] == job.result["other_model"] == job.result["other_size"] == 1
    [image] = store.folder_pictures(session.id)
    assert (image.prompt, image.companions[SOURCE]) == ("a cat", path.name)
    assert image.companions[SOURCE_MODEL] == "dreamer"
    assert image.seed == 5
    made = made_with(store, image)  # as its file says, and not as this session draws
    assert (made.negative_prompt, made.steps, made.width_px, made.height_px) == ("dogs", 7, 80, 96)
    assert path.read_bytes() == content
    latents = trajectory.load(store.trajectory_path(image)).latents
    assert latents.shape == (1, 4, 8, 8)
    denoiser = worker.renderer.model_of(session)
    expected = denoiser.encode([PIL.Image.open(store.image_path(image))]).cpu().half()
    assert torch.equal(latents, expected)


def test_a_folder_read_twice_adds_nothing_twice(store, worker, session, folder):
    first = read(store, worker, session, folder)
    shutil.copy(folder / "cat1.png", folder / "the same again.png")
    second = read(store, worker, session, folder)
    assert (first.result["pictures"], second.result["pictures"]) == (11, 0)
    assert second.result["known"] == 12
    store.delete_images(session.id, [store.folder_pictures(session.id)[0].id])
    assert read(store, worker, session, folder).result["pictures"] == 0
    assert store.folder_count(session.id) == 10


def test_what_cannot_be_used_is_counted_and_named(store, worker, session, tmp_path):
    folder = tmp_path / "in"
    whole = save(folder, "whole", drawing(1))
    (folder / "torn.png").write_bytes(whole.read_bytes()[:-400])
    (folder / "nothing.webp").touch()
    (folder / "text.jpg").write_text("no picture")
    drawing(2).save(folder / "silent.png")
    save(folder, "long", drawing(3), prompt="cat " * 2000)
    drawing(4).save(folder / "captioned.png")
    (folder / "captioned.txt").write_text("a blue\nsquare")
    job = read(store, worker, session, folder)
    assert job.state == "done", job.message
    assert (job.result["pictures"], job.result["left_out"]) == (2, 5)
    prompts = [image.prompt for image in store.folder_pictures(session.id)]
    assert prompts == ["a blue square", "a cat"]
    said = dict(remark.split(": ", 1) for remark in job.result["remarks"])
    assert set(said) == {"torn.png", "nothing.webp", "text.jpg", "silent.png", "long.png"}
    assert said["torn.png"] == "it is damaged, or no picture."
    assert "does not say how it was made" in said["silent.png"]
    assert not examine_files(store).missing


@pytest.mark.parametrize("name", ["nowhere", "empty", "file.png"])
def test_no_folder_is_a_sentence(store, worker, session, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").touch()
    job = read(store, worker, session, tmp_path / name)
    assert job.state == "failed"
    assert str(tmp_path / name) in job.message


def test_what_was_read_stays_when_the_reading_is_cancelled(
    store, worker, session, folder, monkeypatch
):
    job = store.add_job(session.id, "read_folder", {"path": str(folder)})
    add = store.add_image

    def add_and_cancel(image):
        add(image)
        store.cancel_job(job.id)

    with monkeypatch.context() as patch:
        patch.setattr(store, "add_image", add_and_cancel)
        patch.setattr(folder_reading, "REPORT_EVERY_S", 0.0)
        worker.jobs.run_next()
    assert store.job(job.id).state == "cancelled"
    assert store.folder_count(session.id) == 1
    assert read(store, worker, session, folder).result["pictures"] == 10


# --- pairs ---------------------------------------------------------------------------------------


def test_pairs_are_asked_within_groups_until_all_are_in_order(store, worker, session, folder):
    read(store, worker, session, folder)
    finish_all(worker)
    assert store.waiting_count(session.id) == 3
    pick_all(store, worker, session)
    pairs = store.folder_pairs(session.id)
    assert len(pairs) == 8 * 3 / 2 + 3
    names = {image.id: image.companions[SOURCE] for image in store.folder_pictures(session.id)}
    assert all(names[left][:3] == names[right][:3] for left, right, _ in pairs)
    wins = Counter(names[left if choice == "left" else right] for left, right, choice in pairs)
    assert wins["cat0.png"] == 3
    assert wins["cat7.png"] == 0


def test_a_withdrawn_answer_waits_again_and_is_asked_once(store, worker, session, folder):
    read(store, worker, session, folder)
    finish_all(worker)
    pair = store.waiting_pairs(session.id)[0]
    store.add_answer("one", pair.id, "left")
    finish_all(worker)
    store.undo_pick("undo", session.id)
    assert store.waiting_pairs(session.id)[0].id == pair.id
    pick_all(store, worker, session)
    met = [frozenset(pair[:2]) for pair in store.folder_pairs(session.id)]
    assert len(met) == len(set(met)) == 15


def test_near_duplicates_and_other_models_never_meet(store, worker, session, tmp_path):
    folder = tmp_path / "in"
    save(folder, "a", drawing(1))
    save(folder, "b", drawing(1, (128, 128)), "forge")  # the same, larger
    save(folder, "c", drawing(2))
    save(folder, "d", drawing(3), model="other")
    read(store, worker, session, folder)
    groups = groups_of(store.folder_pictures(session.id))
    names = [[image.companions[SOURCE] for image in group] for group in groups]
    assert names == [["a.png", "c.png"], ["d.png"]]
    assert pick_all(store, worker, session) == 1


def test_pictures_of_another_size_wait_until_they_are_read_for_this_one(
    store, worker, session, folder
):
    read(store, worker, session, folder)
    larger = replace(session.settings.sampling, width_px=72)
    session = store.update_settings(session.id, replace(session.settings, sampling=larger))
    finish_all(worker)
    assert store.waiting_count(session.id) == 0
    assert read(store, worker, session, folder).result["pictures"] == 11
    finish_all(worker)
    assert {pair.left.sampling.width_px for pair in store.waiting_pairs(session.id)} == {72}


def test_drawn_pairs_come_again_when_they_are_wanted(store, worker, session, folder):
    read(store, worker, session, folder)
    finish_all(worker)
    drawn = replace(session.settings, pairs_of="drawings", prompts=("a fish",))
    store.update_settings(session.id, drawn)
    finish_all(worker)
    assert {pair.prompt for pair in store.waiting_pairs(session.id)} == {"a fish"}


# --- learning ------------------------------------------------------------------------------------


def test_a_round_learns_from_pairs_and_from_pictures_alone(store, worker, session, folder):
    training = replace(session.settings.training, lone_pictures=True)
    store.update_settings(session.id, replace(session.settings, training=training))
    read(store, worker, session, folder)
    pick_all(store, worker, session)
    for number, image in enumerate(store.folder_pictures(session.id)[:8]):
        store.say_of(f"say{number}", image.id, "good" if number < 4 else "bad")
    round_ = store.request_round(session.id)
    assert len(round_.favourite_ids) == 4
    finish_all(worker)
    assert store.round(round_.id).state == "done", store.round(round_.id).message
    assert "without" not in store.round(round_.id).message


def test_d3po_says_that_it_cannot_learn_from_them(store, worker, session, folder):
    read(store, worker, session, folder)
    pick_all(store, worker, session)
    training = replace(OBJECTIVES["d3po"], rank=2)
    store.update_settings(session.id, replace(session.settings, training=training))
    round_ = store.request_round(session.id)
    finish_all(worker)
    assert store.round(round_.id).state == "failed"
    assert "Choose Diffusion-DPO" in store.round(round_.id).message


def test_an_archive_takes_them_along(store, worker, session, folder, tmp_path):
    read(store, worker, session, folder)
    pick_all(store, worker, session)
    bad = store.folder_pictures(session.id)[0]
    store.say_of("bad", bad.id, "bad")
    assert export_session(store, session.id, tmp_path / "session.zip") == 0
    with_store = Store.open(tmp_path / "other")
    there = import_session(with_store, tmp_path / "session.zip")
    assert with_store.folder_count(there.id) == 11
    assert len(with_store.folder_pairs(there.id)) == 15
    assert list(with_store.verdicts(there.id).values()) == ["bad"]
    assert with_store.pick_counts(there.id) == store.pick_counts(session.id)
    with_store.close()
