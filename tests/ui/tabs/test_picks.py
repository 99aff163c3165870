"""Picks out and in, as the Export tab asks the worker for them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from studio import datasets
from studio.settings import SamplingSettings, SessionSettings, StartLora
from studio.store import Job, Session, Store, StoreFull, set_orphans_aside, write_atomically
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.export import picks
from studio.worker import jobs
from studio.worker.loop import Worker
from tests.support.factories import make_grid


@pytest.fixture
def session(store: Store, tiny_model: Path) -> Session:
    settings = SessionSettings(
        base_model=str(tiny_model),
        prompts=("a cat", "a dog"),
        sampling=SamplingSettings(steps=3, width_px=64, height_px=72),
        live=False,
        queue_target=2,
    )
    session = store.create_session("Blau / 猫", settings)
    store.set_last_session(session.id)
    return session


@pytest.fixture
def worker(store: Store) -> Worker:
    return Worker(store, "cpu")


def do(store: Store, worker: Worker, session: Session, kind: str, **payload: str) -> Job:
    job = store.add_job(session.id, kind, payload)
    worker.jobs.run_next()
    return store.job(job.id)


def pairs(folder: Path, number: int = 3) -> Path:
    for place, side in enumerate(("chosen", "rejected")):
        (folder / side).mkdir(parents=True)
        for name in range(number):
            shade = 60 * name + 30 * place
            PIL.Image.new("RGB", (80, 80), (shade, 9, 9)).save(folder / side / f"{name}.png")
            (folder / side / f"{name}.txt").write_text("a red square")
    return folder


@pytest.mark.parametrize("form", datasets.FORMS)
def test_picks_go_out_and_come_in(store, worker, session, form):
    while worker.work():
        pass
    for pair in store.waiting_pairs(session.id):
        store.add_answer(uuid.uuid4().hex, pair.id, "right")
    folders = []
    for _ in range(2):  # the second beside the first
        job = do(store, worker, session, "give_picks", form=form)
        assert job.state == "done", job.message
        assert (job.result["picks"], job.result["left_out"]) == (2, 0)
        folders.append(Path(job.result["folder"]))
    assert [path.name for path in folders] == [f"Blau 猫-{form}", f"Blau 猫-{form}-2"]
    assert all(path.parent == store.home / "picks" for path in folders)
    said = picks.given_picks(StoreSnapshot(store).newest_job("give_picks"), is_local=True)
    assert f"2 picks in <code>{folders[1]}</code>" in said
    assert "Show folder" in said
    assert "Show folder" not in picks.given_picks(job, is_local=False)
    set_orphans_aside(store)
    taken = do(store, worker, session, "take_picks", path=str(folders[0]))
    assert taken.state == "done", taken.message
    made = store.session(taken.result["session_id"])
    assert [one.pick.choice for one in store.picked_pairs(made.id)] == ["right", "right"]
    assert made.settings.base == session.settings.base
    assert (made.settings.sampling.width_px, made.settings.sampling.height_px) == (64, 72)
    assert store.last_session_id() == session.id  # what is open stays open
    said = picks.taken_picks(taken)
    assert "2 picks in the new session" in said
    assert "Diffusion-DPO can learn from them; D3PO cannot." in said


def test_room_is_asked_for_every_copy_of_a_picture(store, worker, session, monkeypatch):
    """Three pictures of a grid are three pairs: each picture is written twice."""
    grid = make_grid(store, session.id, 3)
    for image in grid.images:
        write_atomically(store.image_path(image), lambda path: path.write_bytes(b"x" * 1000))
    ranking = [image.id for image in grid.images]
    store.add_answer(uuid.uuid4().hex, grid.id, "ranked", ranking=ranking)
    asked = []
    monkeypatch.setattr(jobs, "require_disk_space", lambda home, needed=0: asked.append(needed))
    job = do(store, worker, session, "give_picks", form="folders")
    assert (job.state, job.result["picks"], asked) == ("done", 3, [6000])


def test_without_picks_there_is_nothing_to_write(store, worker, session):
    job = do(store, worker, session, "give_picks", form="d3po")
    assert (job.state, job.message) == ("failed", "There are no picks to write yet.")
    assert "There are no picks" in picks.given_picks(job, is_local=True)
    assert not (store.home / "picks").exists()


def test_what_cannot_be_used_is_a_sentence_and_leaves_nothing(store, worker, session, tmp_path):
    (tmp_path / "empty").mkdir()
    own = pairs(tmp_path / "own", 1)
    (own / "chosen" / "0.png").write_bytes(b"no picture")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    for name, said in (
        ("empty", "holds no picks that can be read"),
        ("none", "There is no folder and no parquet file"),
        ("own", "None of these picks can be used"),
        ("x.parquet", "is damaged, or no parquet file"),
        ("x.zip", "unpack it, and choose the folder"),
    ):
        job = do(store, worker, session, "take_picks", path=str(tmp_path / name))
        assert job.state == "failed"
        assert said in job.message
        assert [one.id for one in store.sessions()] == [session.id]
        assert "nothing else was changed" in picks.taken_picks(job)


def test_one_that_is_left_leaves_nothing_and_one_that_was_killed_begins_anew(
    store, worker, session, tmp_path, monkeypatch
):
    own = pairs(tmp_path / "own")
    job = store.add_job(session.id, "take_picks", {"path": str(own)})
    keep_ready = worker.pair_queue.keep_pairs_ready
    seen = []

    def cancel_at_the_second() -> None:
        seen.append(store.job(job.id).message)
        if len(seen) == 2:
            store.cancel_job(job.id)

    worker.pair_queue.keep_pairs_ready = cancel_at_the_second
    worker.jobs.run_next()
    assert seen == ["0 read.", "1 read."]
    assert store.job(job.id).state == "cancelled"
    assert [one.id for one in store.sessions()] == [session.id]

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    job = store.add_job(session.id, "take_picks", {"path": str(own)})
    worker.pair_queue.keep_pairs_ready = die
    with monkeypatch.context() as patched:
        patched.setattr(store, "delete_session", lambda session_id: None)  # no time for that
        with pytest.raises(Killed):
            worker.jobs.run_next()
    assert len(store.sessions()) == 2
    worker.pair_queue.keep_pairs_ready = keep_ready
    worker.jobs.run_next()  # it is taken up again
    done = store.job(job.id)
    assert (done.state, done.result["picks"]) == ("done", 3)
    assert {one.id for one in store.sessions()} == {session.id, done.result["session_id"]}


def test_without_room_nothing_is_begun(store, worker, session, tmp_path, monkeypatch):
    def full(home: Path, needed_bytes: int = 0) -> None:
        raise StoreFull("The disk is nearly full.")

    monkeypatch.setattr(jobs, "require_disk_space", full)
    job = do(store, worker, session, "take_picks", path=str(pairs(tmp_path / "own")))
    assert (job.state, job.message) == ("failed", "The disk is nearly full.")
    assert [one.id for one in store.sessions()] == [session.id]


def test_they_are_taken_in_for_the_model_that_the_session_has(store, worker, session, tmp_path):
    from tests.support.loras import write_lora

    lora = write_lora(tmp_path / "style.safetensors", Path(session.settings.base_model))
    settings = replace(session.settings, start=StartLora(str(lora)))
    session = store.update_settings(session.id, settings)
    job = do(store, worker, session, "take_picks", path=str(pairs(tmp_path / "own")))
    made = store.session(job.result["session_id"])
    assert made.settings.start == settings.start
    hashes = {one.pair.left.base_hash for one in store.picked_pairs(made.id)}
    assert hashes == {worker.renderer.denoiser.base_hash}
