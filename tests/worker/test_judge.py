"""A judge picks in the worker, with a real (tiny) model: built in or from a file; and refusals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from studio.settings import SamplingSettings, SessionSettings
from studio.store import Session, Store
from studio.worker.loop import Worker


@pytest.fixture
def session(store: Store, tiny_model: Path) -> Session:
    settings = SessionSettings(
        base_model=str(tiny_model),
        prompts=("a cat",),
        sampling=SamplingSettings(steps=1, width_px=64, height_px=64),
        live=False,
        queue_target=2,
    )
    session = store.create_session("Tiny", settings)
    store.set_last_session(session.id)
    return session


def do(store: Store, worker: Worker, session: Session, judge: str, picks: int = 3):
    job = store.add_job(session.id, "judge", {"judge": judge, "picks": picks})
    worker.jobs.run_next()
    return store.job(job.id)


def judged(store: Store, session: Session) -> list[str | None]:
    return [one.pick.judge for one in store.picked_pairs(session.id)]


def test_it_picks_as_often_as_it_is_asked_to(store, session, worker):
    job = do(store, worker, session, "compressible")
    assert (job.state, job.result) == ("done", {"picks": 3, "name": "compressible"})
    assert judged(store, session) == ["compressible"] * 3


def test_a_file_of_ones_own_is_run_and_one_of_others_is_not(store, session, worker, tmp_path):
    taste = tmp_path / "taste.py"
    taste.write_text("def calm(image, prompt):\n    return image.width\n")
    assert do(store, worker, session, f"{taste}:calm").state == "done"
    assert judged(store, session) == ["taste.py:calm"] * 3
    taste.chmod(0o666)
    job = do(store, worker, session, f"{taste}:calm")
    assert (job.state, len(judged(store, session))) == ("failed", 3)
    assert "others may write it" in job.message
    for reference, sentence in (
        ("os:getpid", "a file of your own"),
        ("taste.py:calm", "its whole path"),
        (f"{tmp_path}/none.py:calm", "There is no file"),
    ):
        assert sentence in do(store, worker, session, reference).message
    if os.getuid() == 0:  # only root can give a file away
        taste.chmod(0o644)
        os.chown(taste, 12345, -1)
        assert "another user" in do(store, worker, session, f"{taste}:calm").message


def test_it_stops_between_two_picks_and_at_a_fault(store, session, worker, tmp_path):
    taste = tmp_path / "taste.py"
    taste.write_text("def broken(image, prompt):\n    raise ValueError('no taste')\n")
    job = do(store, worker, session, f"{taste}:broken")
    assert job.state == "failed"
    assert "no taste" in job.message
    job = store.add_job(session.id, "judge", {"judge": "compressible", "picks": 50})
    add = store.add_answer

    def add_and_stop(*args, **options):
        store.cancel_job(job.id)
        return add(*args, **options)

    store.add_answer = add_and_stop
    worker.jobs.run_next()
    assert store.job(job.id).state == "cancelled"
    assert judged(store, session) == ["compressible"]


def test_it_goes_on_where_an_ended_worker_left_it(store, session, worker):
    job = store.add_job(session.id, "judge", {"judge": "compressible", "picks": 3})
    store.claim_job()
    store.update_job(job.id, result={"picks": 2})
    worker.jobs.run_next()
    assert store.job(job.id).result["picks"] == 3
    assert judged(store, session) == ["compressible"]


def test_it_says_when_there_is_nothing_to_pick_from(store, session, worker):
    other = store.create_session("Other", SessionSettings(prompts=("a dog",)))
    store.set_last_session(other.id)
    assert "Another session was opened" in do(store, worker, session, "compressible").message
    assert judged(store, session) == []
