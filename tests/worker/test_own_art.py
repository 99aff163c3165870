"""Own finished art: read, drawn beside, and learned from, with a real (tiny) model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from studio.engine import trajectory
from studio.settings import OBJECTIVES, TrainingSettings
from studio.store import Job, Session, Store, examine_files
from studio.store.rows import OWN_ART, SOURCE
from studio.worker.loop import Worker
from tests.support.foreign_pictures import drawing, save
from tests.support.workers import finish_all, small_session


@pytest.fixture
def session(store: Store, tiny_model: Path) -> Session:
    training = TrainingSettings(rank=2, updates_base=2, updates_per_pick=0)
    return small_session(store, tiny_model, 4, training=training)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six drawings by hand, with captions as trainers keep them."""
    folder = tmp_path / "art"
    folder.mkdir()
    for number in range(6):
        drawing(number, (96, 80)).save(folder / f"fox{number}.png")
        (folder / f"fox{number}.txt").write_text(f"a fox,\nnumber {number}")
    return folder


def read(store: Store, worker: Worker, session: Session, path: Path, caption: str = "") -> Job:
    job = store.add_job(session.id, "read_own", {"path": str(path), "caption": caption})
    worker.jobs.run_next()
    return store.job(job.id)


def test_each_is_drawn_beside_and_chosen(store, worker, session, folder):
    content = (folder / "fox0.png").read_bytes()
    job = read(store, worker, session, folder)
    assert job.state == "done", job.message
    assert (job.result["pictures"], job.result["left_out"]) == (6, 0)
    finish_all(worker)
    held = store.picked_pairs(session.id)
    assert len(held) == 6
    assert {one.pick.judge for one in held} == {OWN_ART}
    for one in held:
        assert one.chosen.is_own
        assert one.chosen.prompt == one.rejected.prompt == one.pair.prompt
        chains = [trajectory.load(store.trajectory_path(image)) for image in one.images]
        lengths = {
            image.is_own: len(chain.latents)
            for image, chain in zip(one.images, chains, strict=True)
        }
        assert lengths == {True: 1, False: 5}
        assert chains[0].prompt == chains[1].prompt == one.pair.prompt
    first = next(one for one in held if one.chosen.companions[SOURCE] == "fox0.png")
    assert first.pair.prompt == "a fox, number 0"
    assert not examine_files(store).missing
    assert (folder / "fox0.png").read_bytes() == content


def test_as_many_are_drawn_as_prefer_shows_at_once(store, worker, session, folder):
    store.update_settings(session.id, replace(session.settings, pictures=4))
    read(store, worker, session, folder / "fox1.png")
    finish_all(worker)
    [own] = store.newest_own_pictures(session.id, 9)
    assert (own.is_chosen, len(own.drawings)) == (True, 3)
    assert len({image.picture_sha256 for image in own.drawings}) == 3


def test_captions_are_typed_or_in_text_files_or_in_the_picture(store, worker, session, tmp_path):
    folder = tmp_path / "art"
    save(folder, "both", drawing(1))
    (folder / "both.caption").write_text("a hare")
    save(folder, "inside", drawing(2), prompt="an owl")
    drawing(3).save(folder / "silent.png")
    (folder / "torn.png").write_bytes(b"no picture")
    (folder / "torn.txt").write_text("a hen")
    job = read(store, worker, session, folder)
    prompts = {one.companions[SOURCE]: one.prompt for one in store.own_pictures(session.id)}
    assert prompts == {"both.png": "a hare", "inside.png": "an owl"}
    said = dict(remark.split(": ", 1) for remark in job.result["remarks"])
    assert said == {
        "silent.png": "it has no caption: write one here, or in a text file of its name.",
        "torn.png": "it is damaged, or no picture.",
    }
    job = read(store, worker, session, folder / "silent.png", "  my hen ")
    assert job.result["pictures"] == 1
    assert store.own_pictures(session.id)[-1].prompt == "my hen"


def test_read_again_nothing_comes_twice_and_another_caption_replaces(
    store, worker, session, folder
):
    read(store, worker, session, folder)
    finish_all(worker)
    (folder / "fox2.txt").write_text("a vixen")
    second = read(store, worker, session, folder)
    assert (second.result["pictures"], second.result["known"]) == (1, 5)
    finish_all(worker)
    prompts = [one.pair.prompt for one in store.picked_pairs(session.id)]
    assert len(prompts) == 6
    assert "a vixen" in prompts
    assert "a fox, number 2" not in prompts
    assert read(store, worker, session, folder).result["known"] == 6


def test_what_is_drawn_survives_another_worker(store, worker, session, folder):
    read(store, worker, session, folder)
    while store.own_counts(session.id).drawn < 2:
        assert worker.work()
    finish_all(Worker(store, "cpu"))
    assert store.own_counts(session.id).chosen == 6
    assert len(store.picked_pairs(session.id)) == 6


def test_pictures_of_another_size_wait(store, worker, session, folder):
    read(store, worker, session, folder)
    larger = replace(session.settings.sampling, width_px=72)
    store.update_settings(session.id, replace(session.settings, sampling=larger))
    finish_all(worker)
    assert store.own_counts(session.id).drawn == 0
    assert read(store, worker, session, folder).result["pictures"] == 6
    finish_all(worker)
    assert store.own_counts(session.id).drawn == 6


def test_a_round_learns_from_them(store, worker, session, folder):
    read(store, worker, session, folder)
    finish_all(worker)
    round_ = store.request_round(session.id)
    finish_all(worker)
    assert store.round(round_.id).state == "done", store.round(round_.id).message
    [adapter] = store.adapters(session.id)
    assert adapter.picks == 6


def test_d3po_says_that_it_cannot(store, worker, session, folder):
    read(store, worker, session, folder)
    finish_all(worker)
    training = replace(OBJECTIVES["d3po"], rank=2)
    store.update_settings(session.id, replace(session.settings, training=training))
    round_ = store.request_round(session.id)
    finish_all(worker)
    assert store.round(round_.id).state == "failed"
    assert "of your own" in store.round(round_.id).message


def test_nowhere_is_a_sentence(store, worker, session, tmp_path):
    job = read(store, worker, session, tmp_path / "nowhere.png")
    assert job.state == "failed"
    assert "nowhere.png" in job.message
