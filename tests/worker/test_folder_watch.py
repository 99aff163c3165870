"""A watched folder: new pictures are read while the worker has nothing else to do."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from studio.settings import SamplingSettings, SessionSettings
from studio.store import Session, Store
from studio.store.rows import SOURCE
from studio.worker import folder_watch
from studio.worker.loop import Worker
from tests.support.foreign_pictures import drawing, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    for seed in range(3):
        save(folder, f"cat{seed}", drawing(seed))
    return folder


@pytest.fixture
def session(store: Store, tiny_model: Path, folder: Path) -> Session:
    settings = SessionSettings(
        base_model=str(tiny_model),
        sampling=SamplingSettings(steps=4, width_px=64, height_px=64),
        live=False,
        folder=str(folder),
        watch_folder=True,
    )
    session = store.create_session("Tiny", settings)
    store.set_last_session(session.id)
    return session


@pytest.fixture
def worker(store: Store, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(folder_watch, "LOOK_EVERY_S", 0.0)
    return Worker(store, "cpu")


def look(worker: Worker) -> None:
    """Twice, as a file is whole when it has not changed since the last look."""
    for _ in range(2):
        while worker.work():
            pass


def found(store: Store, session: Session) -> list[str]:
    return sorted(image.companions[SOURCE] for image in store.folder_pictures(session.id))


def test_new_pictures_are_found_by_themselves_once(store, worker, session, folder):
    look(worker)
    assert found(store, session) == ["cat0.png", "cat1.png", "cat2.png"]
    whole = save(folder / "today", "cat3", drawing(3)).read_bytes()
    (folder / "today" / "cat4.png").write_bytes(whole[:200])  # half written
    shutil.copy(folder / "cat0.png", folder / "copy.png")
    look(worker)
    assert found(store, session)[-1] == "today/cat3.png"
    assert len(found(store, session)) == 4
    [remark] = store.left_out_since(session.id, str(folder), 0.0)
    assert remark.startswith("today/cat4.png: it is damaged")
    save(folder / "today", "cat4", drawing(4))
    look(worker)
    assert len(found(store, session)) == 5
    assert store.left_out_since(session.id, str(folder), 0.0) == []
    number, last_s = store.folder_pictures_since(session.id, 0.0)
    assert (number, last_s > 0) == (5, True)


def test_another_worker_does_not_read_them_again(store, worker, session, folder, monkeypatch):
    look(worker)
    read: list[Path] = []
    content_of = folder_watch.FolderReader.read

    def counted(self, path, stat):
        read.append(path)
        return content_of(self, path, stat)

    monkeypatch.setattr(folder_watch.FolderReader, "read", counted)
    other = Worker(store, "cpu")
    look(other)
    assert read == []
    save(folder, "cat7", drawing(7))
    look(other)
    assert [path.name for path in read] == ["cat7.png"]


def test_a_reading_by_hand_and_the_watch_do_not_read_the_same_twice(store, worker, session, folder):
    look(worker)
    save(folder, "cat5", drawing(5))
    job = store.add_job(session.id, "read_folder", {"path": str(folder)})
    look(worker)
    assert store.job(job.id).result["pictures"] == 1
    assert len(found(store, session)) == 4


def test_nothing_is_watched_that_is_not_wished(store, worker, session, folder):
    store.update_settings(session.id, replace(session.settings, watch_folder=False))
    look(worker)
    assert found(store, session) == []
    gone = replace(session.settings, folder=str(folder / "gone"))
    store.update_settings(session.id, gone)
    look(worker)
    assert found(store, session) == []
    save(folder / "gone", "cat6", drawing(6))  # a drive that comes back
    look(worker)
    assert found(store, session) == ["cat6.png"]
