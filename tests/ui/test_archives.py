"""Sessions as files, over the routes that the page uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from studio.store import Store
from studio.ui import archives
from studio.ui.app import build
from studio.ui.guard import LARGEST_BODY_BYTES
from tests.browser import seed


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(build(store), base_url="http://127.0.0.1:7860")


def rest(home: Path) -> list[Path]:
    return [path for path in (home / "imports").rglob("*") if path.is_file()]


def test_a_session_is_saved_and_taken_in(client, store, session):
    seed.add_pairs(store, session, 3)
    store.add_answer("one", store.waiting_pairs(session.id)[0].id, "left")
    store.rename_session(session.id, "Blau / 猫 “x”")
    answer = client.get(f"/sessions/{session.id}.zip")
    assert answer.status_code == 200
    assert "filename*=UTF-8''Blau%20%2F%20%E7%8C%AB" in answer.headers["content-disposition"]
    taken = client.post("/sessions", content=answer.content)
    assert taken.json() == {"ok": True, "sentence": "“Blau / 猫 “x”” is here, and open."}
    made = store.session(store.last_session_id())
    assert made.id != session.id
    assert [one.pick.choice for one in store.picked_pairs(made.id)] == ["left"]
    for pair in store.waiting_pairs(made.id):
        assert store.image_path(pair.left).is_file()
    assert rest(store.home) == []


def test_what_is_no_session_is_a_sentence_and_leaves_nothing(client, store, session):
    before = store.last_session_id()
    answer = client.post("/sessions", content=b"PK\x03\x04 and so on").json()
    assert answer == {
        "ok": False,
        "sentence": "This file is damaged, or is not an archive of a session.",
    }
    assert store.last_session_id() == before
    assert [one.id for one in store.sessions()] == [session.id]
    assert rest(store.home) == []


def test_a_file_may_be_larger_than_anything_else_that_is_sent(client, store):
    large = b"x" * (LARGEST_BODY_BYTES + 1)
    assert client.post("/sessions", content=large).json()["ok"] is False
    assert client.post("/parameters", content=large).status_code == 413


def test_a_file_for_which_there_is_no_room_is_not_even_read(client, store, monkeypatch):
    monkeypatch.setattr(archives, "free_bytes", lambda home: archives.SPARE_BYTES + 1000)
    answer = client.post("/sessions", content=b"x" * 1000).json()
    assert answer["ok"] is False
    assert "Make some room" in answer["sentence"]
    assert not (store.home / "imports").exists()


def test_a_session_that_is_not_there(client):
    assert client.get("/sessions/nonesuch.zip").status_code == 404
