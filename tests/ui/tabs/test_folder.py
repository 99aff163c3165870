"""What the pages say of a folder of pictures."""

from __future__ import annotations

from dataclasses import replace

from studio.store import Image, Session, Store
from studio.store.rows import SOURCE, SOURCE_HASH, SOURCE_LOOK, SOURCE_MODEL
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prefer.state import page_state
from studio.ui.tabs.prompt.folder import reading, triage
from tests.support.factories import make_image


def found(store: Store, session: Session, name: str, look: int, **changes: object) -> Image:
    companions = {SOURCE: name, SOURCE_HASH: name, SOURCE_LOOK: f"{look:016x}"}
    companions |= {SOURCE_MODEL: "dreamer"}
    return store.add_image(make_image(store, session.id, companions=companions, **changes))


def test_near_duplicates_stand_together_and_what_is_decided_is_left_out(store, session):
    for name, look in (("a", 0), ("b", 2**64 - 1), ("c", 1), ("d", 3)):
        found(store, session, name, look)
    found(store, session, "e", 0, prompt="a lion")
    pictures = store.folder_pictures(session.id)
    shown = triage(pictures, {pictures[2].id})
    assert [one["file"] for one in shown] == ["a", "d", "b", "e"]
    assert [one["alike"] for one in shown] == [
        "Nearly the same as 2 others of the folder.",
        "Nearly the same as 2 others of the folder.",
        "",
        "",
    ]


def test_what_came_of_reading_is_told(store, session):
    assert reading(StoreSnapshot(store), None, 0) == ""
    job = store.add_job(session.id, "read_folder", {"path": "/x"})
    assert "Stop" in reading(StoreSnapshot(store), job, 0)
    result = {"pictures": 3, "known": 1, "left_out": 1, "other_model": 2, "other_size": 0}
    result["remarks"] = ["<b>.png: it is damaged."]
    job = store.update_job(job.id, state="done", result=result)
    said = reading(StoreSnapshot(store), job, 4)
    assert "4 pictures to pick from, 3 of them new." in said
    assert "2 were not made by starter" in said
    assert "scaled" not in said
    assert "&lt;b&gt;.png" in said


def test_prefer_says_where_pictures_come_from_and_what_to_do_at_the_end(store, session):
    store.set_last_session(session.id)
    store.update_settings(session.id, replace(session.settings, pairs_of="folder"))
    assert page_state(StoreSnapshot(store))["empty"]["title"] == "No pictures to pick from"
    pictures = [found(store, session, name, look) for name, look in (("a", 0), ("b", 255))]
    assert "All pairs" in page_state(StoreSnapshot(store))["empty"]["title"]
    store.ask_about(*pictures)
    [asked] = page_state(StoreSnapshot(store))["waiting"]
    assert asked["source"] == "From your folder, by dreamer"
    store.add_job(session.id, "read_folder", {"path": "/x"})
    store.add_answer("1", asked["id"], "left")
    assert "being read" in page_state(StoreSnapshot(store))["empty"]["title"]
