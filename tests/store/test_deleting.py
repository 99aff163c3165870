"""Pictures are deleted, brought back, and erased; nothing else is lost, and nothing dangles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.settings import SessionSettings
from studio.store import (
    GalleryFilter,
    Store,
    StoreError,
    examine_files,
    export_session,
    import_session,
    mend_rows,
    set_orphans_aside,
    take_snapshot,
)
from studio.store.snapshots import differing_rows
from tests.browser import seed
from tests.support.factories import (
    QUESTIONS,
    finish,
    make_adapter,
    make_grid,
    make_image,
    make_pair,
    pick,
)


def drawn(store, session, number=1, purpose="pair"):
    """Pairs of pictures with files, latents among them; or single pictures."""
    if purpose != "pair":
        made = [seed.image(store, session, purpose, "a lion") for _ in range(number)]
        return [store.add_image(image) for image in made]
    pairs = seed.add_pairs(store, session, number)
    for image in (side for pair in pairs for side in (pair.left, pair.right)):
        path = store.trajectory_path(image)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"latents of " + image.id.encode())
    return pairs


def shown(store, session, **wanted):
    """The ids of the first page of a filter."""
    chosen = GalleryFilter(**wanted)
    index = store.gallery_index(session.id, chosen)
    page = store.gallery_page(session.id, chosen, index.starts[0]) if index.starts else []
    return [one.image.id for one in page]


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in (home / "sessions").rglob("*.*")}


def expect_sound(store):
    report = examine_files(store)
    missing = [name for name in report.missing if "/adapters/" not in name]  # `finish` makes none
    assert (missing, report.damaged, report.orphaned) == ([], [], [])
    assert mend_rows(store.home).kept_in is None


def test_deleted_and_brought_back_as_it_was(store, home, session):
    drawn(store, session, 3)
    before = shown(store, session), files(home), store.waiting(session.id)
    gone = before[0][1:3]
    assert sorted(store.delete_images(session.id, gone)) == sorted(gone)
    assert store.delete_images(session.id, gone) == []
    assert shown(store, session) == [id_ for id_ in before[0] if id_ not in gone]
    assert shown(store, session, deleted=True) == gone
    assert store.deleted_count(session.id) == 2
    assert files(home) == before[1]
    expect_sound(store)
    assert sorted(store.restore_images(session.id, gone)) == sorted(gone)
    assert store.restore_images(session.id, gone) == []
    assert (shown(store, session), files(home), store.waiting(session.id)) == before


def test_only_pictures_of_the_session_are_deleted(store, session):
    [pair] = drawn(store, session)
    other = store.create_session("Other", SessionSettings())
    for id_ in (pair.left.id, "none"):
        with pytest.raises(StoreError, match="does not exist"):
            store.delete_images(other.id, [id_])
    assert store.delete_images(session.id, []) == []
    assert store.deleted_count(session.id) == 0


def test_a_question_with_a_deleted_picture_is_not_asked(store, session, add_pairs):
    one, two = add_pairs(2)
    grid = make_grid(store, session.id)
    store.delete_images(session.id, [one.right.id, grid.images[2].id])
    assert [question.id for question in store.waiting(session.id)] == [two.id]
    assert store.waiting_count(session.id) == 1
    store.restore_images(session.id, [grid.images[2].id])
    assert [question.id for question in store.waiting(session.id)] == [two.id, grid.id]


def test_settings_that_change_meanwhile_count_for_it_too(store, session, add_pairs):
    [pair] = add_pairs(1)
    store.delete_images(session.id, [pair.left.id])
    store.update_settings(session.id, SessionSettings(prompts=("another",)))
    store.restore_images(session.id, [pair.left.id])
    assert store.waiting(session.id) == []


def test_a_pick_of_a_deleted_picture_is_still_learned_from(store, session):
    pairs = drawn(store, session, 4)
    picks = pick(store, pairs)
    every = [image.id for pair in pairs for image in (pair.left, pair.right)]
    store.delete_images(session.id, every)
    assert store.deleted_pictures(session.id).used == {"a pick": 8}
    assert store.erase_images(session.id, every) == 0
    learned = store.request_round(session.id)
    assert {*learned.train_pick_ids, *learned.held_out_pick_ids} == {one.id for one in picks}
    expect_sound(store)


def test_what_something_uses_is_not_erased(store, session):
    pairs = drawn(store, session, 7)
    pick(store, pairs[:5])
    store.undo_pick("undo", session.id)  # a round may have begun with it
    starred, free = pairs[5].left, [pairs[5].right, pairs[6].left, pairs[6].right]
    store.set_favourite(starred.id, True)
    _, adapter = finish(store, session.id, store.request_round(session.id))
    exam = store.add_exam(session.id, adapter.id, 1.0, QUESTIONS[:1])
    store.claim_job()
    asked = drawn(store, session, 2, "exam")
    store.set_exam_pictures(exam.pairs[0].id, asked[0].id, asked[1].id)
    strip = drawn(store, session, 1, "preview")
    old, new, cell = (drawn(store, session, 2, "compare") for _ in range(3))
    for two, kind in ((old, "compare"), (new, "compare"), (cell, "grid")):
        payload = {"prompts": ["a"], "seeds": [1], "adapter_ids": [adapter.id], "strengths": [1.0]}
        job = store.add_job(session.id, kind, payload)
        names = {"base": two[0].id, "tuned": two[1].id}
        result = (
            {"cells": [{"prompt": "a", "seed": 1, **names}]}
            if kind == "compare"
            else {"image_ids": list(names.values())}
        )
        store.update_job(job.id, state="done", result=result)
    every = shown(store, session) + [image.id for image in asked]
    store.delete_images(session.id, every)
    assert len(every) == len(set(every)) == 14 + 2 + 1 + 6

    uses = {"a pick": 10, "a star": 1, "an exam": 2, "the strip of rounds": 1, "a comparison": 6}
    found = store.deleted_pictures(session.id)  # the exam is still being drawn
    assert (found.used, found.total) == (uses, len(every))
    store.leave_exam(exam.id)
    uses["a comparison"] = 4
    found = store.deleted_pictures(session.id)
    assert found.used == uses
    assert [image.id for image in found.unused] == [image.id for image in [*free, *old]]
    assert strip[0].id in every
    assert store.erase_images(session.id, every) == 5
    for image in (*free, *old):
        assert not store.image_path(image).exists()
    expect_sound(store)


def test_a_star_of_a_round_that_is_open_is_kept_for_it(store, session, add_pairs):
    [pair] = drawn(store, session)
    store.set_favourite(pair.left.id, True)
    pick(store, add_pairs(4))
    round_ = store.request_round(session.id)
    with store.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE rounds SET favourite_ids = json_array(?) WHERE id = ?",
            (pair.left.id, round_.id),
        )
    store.set_favourite(pair.left.id, False)
    store.delete_images(session.id, [pair.left.id])
    assert store.erase_images(session.id, [pair.left.id]) == 0
    store.claim_round()
    finish(store, session.id, round_)
    assert store.erase_images(session.id, [pair.left.id]) == 1


@pytest.mark.parametrize("state", ["running", "paused"])
def test_what_a_round_is_judged_by_is_kept_until_it_is_judged(store, session, add_pairs, state):
    [drawn_by_base] = drawn(store, session, 1, "compare")
    store.delete_images(session.id, [drawn_by_base.id])
    pick(store, add_pairs(4))
    round_ = store.request_round(session.id)
    store.claim_round()
    adapter = make_adapter(session.id, round_)
    store.keep_adapter(round_.id, adapter)
    if state == "paused":
        store.pause_round(round_.id)
    assert store.deleted_pictures(session.id).used == {"a round": 1}
    assert store.erase_images(session.id, [drawn_by_base.id]) == 0
    store.finish_round(round_.id, adapter)
    assert store.erase_images(session.id, [drawn_by_base.id]) == 1


def test_what_is_erased_is_no_favourite(store, session):
    [pair] = drawn(store, session)
    store.delete_images(session.id, [pair.left.id])
    store.erase_images(session.id, [pair.left.id])
    with pytest.raises(StoreError, match="does not exist"):
        store.set_favourite(pair.left.id, True)
    assert not store.image(pair.left.id).favourite


def test_what_is_erased_is_gone_and_everything_else_is_as_it_was(store, home, session):
    keep, gone = drawn(store, session, 2)
    before = files(home)
    ids = [gone.left.id, gone.right.id]
    store.delete_images(session.id, [*ids, keep.left.id])
    assert store.erase_images(session.id, ids) == 2
    assert before - files(home) == {
        f"sessions/{session.id}/{name}"
        for id_ in ids
        for name in (f"images/{id_}.png", f"trajectories/{id_}.safetensors")
    }
    assert store.restore_images(session.id, [*ids, keep.left.id]) == [keep.left.id]
    assert shown(store, session) == [keep.right.id, keep.left.id]
    assert shown(store, session, deleted=True) == []
    with pytest.raises(StoreError, match="deleted for good"):
        store.add_answer("late", gone.id, "left")
    assert store.find_image(gone.left) is None
    expect_sound(store)


def test_an_archive_holds_what_can_be_brought_back(store, home, session, tmp_path):
    one, two = drawn(store, session, 2)
    store.delete_images(session.id, [one.left.id, two.left.id])
    store.erase_images(session.id, [two.left.id])
    assert export_session(store, session.id, tmp_path / "one.zip") == 0
    made = import_session(store, tmp_path / "one.zip")
    [id_] = shown(store, made, deleted=True)
    assert store.image_path(store.image(id_)).exists()
    assert len(shown(store, made)) == 2
    expect_sound(store)


def test_the_doctor_does_not_mind_what_the_artist_changed(store, home, session):
    [pair] = drawn(store, session)
    snapshot = take_snapshot(home, "before")
    store.set_favourite(pair.right.id, True)
    store.delete_images(session.id, [pair.left.id])
    store.erase_images(session.id, [pair.left.id])
    assert differing_rows(store.path, snapshot) == []


CRASH = """
import os, sys
from pathlib import Path
from studio.store import Store, deleting

left = int(sys.argv[3])

def remove(path):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    path.unlink(missing_ok=True)

deleting.remove = remove
store = Store.open(Path(sys.argv[1]))
store.erase_images(sys.argv[2], sys.argv[4:])
"""


@pytest.mark.parametrize("removed", range(7))
def test_a_crash_while_it_erases_leaves_nothing_behind(store, home, session, removed):
    keep, gone = drawn(store, session, 2)
    ids = [gone.left.id, gone.right.id]
    store.delete_images(session.id, [*ids, keep.left.id])
    command = [sys.executable, "-c", CRASH, str(home), session.id, str(removed), *ids]
    assert subprocess.run(command, check=False).returncode == 9
    assert store.restore_images(session.id, [*ids, keep.left.id]) == [keep.left.id]
    assert set_orphans_aside(store) == []
    for image in (gone.left, gone.right):
        assert not store.image_path(image).exists()
        assert not store.trajectory_path(image).exists()
    for image in (keep.left, keep.right):
        assert store.image_path(image).exists()
        assert store.trajectory_path(image).exists()
    expect_sound(store)
    assert not (home / "aside").exists()


events = st.lists(
    st.tuples(
        st.sampled_from(["delete", "restore", "answer", "undo", "discard"]), st.integers(0, 6)
    ),
    max_size=25,
)


@settings(max_examples=30)
@given(events)
def test_once_all_are_back_it_is_as_if_none_had_been_deleted(events):
    """Two sessions see the same, but that in one of them pictures are deleted."""
    with TemporaryDirectory() as folder:
        store = Store.open(Path(folder))
        sessions = [store.create_session(name, SessionSettings()) for name in "ab"]
        asked = [
            [*(make_pair(store, one.id).id for _ in range(3)), make_grid(store, one.id).id]
            for one in sessions
        ]
        lone = store.add_image(make_image(store, sessions[0].id, purpose="compare"))
        pictures = [id_ for id_ in shown(store, sessions[0]) if id_ != lone.id]
        for number, (what, place) in enumerate(events):
            if what == "delete":
                store.delete_images(sessions[0].id, [pictures[place], lone.id])
            elif what == "restore":
                store.restore_images(sessions[0].id, [pictures[place]])
            for session, questions in zip(sessions, asked, strict=True):
                if what == "answer":
                    id_ = questions[place % 4]
                    store.add_answer(f"{session.name}{number}", id_, "tie")
                elif what == "undo":
                    store.undo_pick(f"{session.name}{number}", session.id)
                elif what == "discard":
                    store.update_settings(session.id, SessionSettings(pictures=2 + place % 2 * 2))
        store.restore_images(sessions[0].id, shown(store, sessions[0], deleted=True))
        waiting = [
            [questions.index(one.id) for one in store.waiting(session.id)]
            for session, questions in zip(sessions, asked, strict=True)
        ]
        assert waiting[0] == waiting[1]
        held = [
            [(questions.index(p.pair.question_id), p.pick.choice) for p in picked]
            for session, questions in zip(sessions, asked, strict=True)
            for picked in [store.picked_pairs(session.id)]
        ]
        assert held[0] == held[1]
        assert store.deleted_count(sessions[0].id) == 0
        store.close()
