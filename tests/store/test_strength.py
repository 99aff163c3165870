"""How much better and why, favourites and notes, and the picks in the order of the filmstrip."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from studio.settings import MAX_NOTE_CHARACTERS, REASONS, SamplingSettings
from studio.store import Store, StoreError
from tests.support.factories import open_at


def holding(store, session):
    return {one.pair.id: one.pick for one in store.picked_pairs(session.id)}


def test_strength_and_reason_are_kept_with_the_pick(store, session, add_pairs, home):
    pairs = add_pairs(len(REASONS) + 1)
    for pair, reason in zip(pairs, REASONS, strict=False):
        store.add_answer(f"p-{pair.id}", pair.id, "left", much_better=True, reason=reason)
    store.add_answer("plain", pairs[-1].id, "right")
    store.close()
    again = Store.open(home)
    found = again.picked_pairs(session.id)
    assert [one.pick.reason for one in found] == [*REASONS, None]
    assert [one.pick.much_better for one in found] == [True] * len(REASONS) + [False]
    again.close()


def test_sent_twice_is_kept_once_with_its_first_strength(store, session, add_pairs):
    [pair] = add_pairs(1)
    first = store.add_answer("p", pair.id, "left", much_better=True, reason="detail").answer.pick
    assert store.add_answer("p", pair.id, "left").answer.pick == first
    assert holding(store, session) == {pair.id: first}


def test_a_changed_pick_says_all_anew(store, session, add_pairs):
    [pair] = add_pairs(1)
    store.add_answer("p", pair.id, "left", much_better=True, reason="colour")
    changed = store.add_answer("q", pair.id, "right").answer.pick
    assert (changed.supersedes, changed.much_better, changed.reason) == ("p", False, None)
    assert holding(store, session) == {pair.id: changed}
    for _ in range(2):
        store.undo_pick("u", session.id)
        assert [one.pick for one in store.answer_before("u").picked] == [changed]
    assert holding(store, session) == {}


def test_an_answer_knows_the_one_that_it_replaced(store, session, add_pairs):
    [pair] = add_pairs(1)
    first = store.add_answer("p", pair.id, "left").answer.pick
    assert store.answer_before("p") is None
    for _ in range(2):  # lost on the way, and sent again
        store.add_answer("q", pair.id, "right")
        assert [one.pick for one in store.answer_before("q").picked] == [first]
    store.undo_pick("u", session.id)
    store.add_answer("r", pair.id, "tie")  # after an undo none holds
    assert store.answer_before("r") is None
    with pytest.raises(StoreError, match="does not exist"):
        store.answer_before("nobody's")


@pytest.mark.parametrize(
    ("choice", "options"),
    [("tie", {"much_better": True}), ("skip", {"reason": "detail"}), ("left", {"reason": "fun"})],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    store, session, add_pairs, choice, options
):
    [pair] = add_pairs(1)
    with pytest.raises(StoreError):
        store.add_answer("p", pair.id, choice, **options)
    assert holding(store, session) == {}


def test_every_strength_takes_part_in_a_round(store, session, add_pairs):
    for number, pair in enumerate(add_pairs(8)):
        store.add_answer(f"p{number}", pair.id, "left", much_better=number % 2 == 0)
    assert store.pick_counts(session.id).new == 8
    assert len(store.request_round(session.id).train_pick_ids) == 7


def test_changing_an_old_pick_leaves_the_newest_pictures_to_learn_from(store, session, add_pairs):
    """It is the newest pick then, on pictures that were made in another way."""
    [old] = add_pairs(1, sampling=SamplingSettings(steps=7))
    new = add_pairs(2)
    for pair in (old, *new):
        store.add_answer(f"p-{pair.id}", pair.id, "left")
    assert store.pick_counts(session.id).new == 2
    store.add_answer("changed", old.id, "right")
    assert store.pick_counts(session.id).new == 2


def test_the_filmstrip_pages_from_the_newest_pick(store, session, add_pairs):
    pairs = add_pairs(7)
    for pair in pairs:
        store.add_answer(f"p-{pair.id}", pair.id, "tie")
    store.add_answer("changed", pairs[2].id, "left")
    store.undo_pick("undo", session.id)
    store.add_answer("again", pairs[2].id, "right")
    expected = [pairs[n].id for n in (2, 6, 5, 4, 3, 1, 0)]
    seen, before = [], None
    while page := store.recent_answers(session.id, before=before, limit=3):
        seen += [one.question.id for one in page]
        before = page[-1].id
    assert seen == expected
    # The pick that the next page is asked from may have been changed meanwhile.
    older = store.recent_answers(session.id, before=f"p-{pairs[2].id}")
    assert [one.question.id for one in older] == [pairs[1].id, pairs[0].id]


def test_favourites_are_pictures_and_can_be_looked_through(store, session, add_pairs):
    first, second, _ = pairs = add_pairs(3)
    for pair in pairs:
        store.add_answer(f"p-{pair.id}", pair.id, "left")
    for pair, image in ((first, first.right), (second, second.left)):
        for _ in range(2):
            store.set_favourite(image.id, True)
        assert store.pair(pair.id) != pair
    store.set_favourite(second.left.id, False)
    [found] = store.recent_answers(session.id, favourites=True)
    assert found.question.pairs == (replace(first, right=replace(first.right, favourite=True)),)
    with pytest.raises(StoreError, match="picture does not exist"):
        store.set_favourite("none", True)


def test_a_note_is_kept_and_replaced(store, session, add_pairs):
    [pair] = add_pairs(1)
    store.set_note(pair.id, "  hands ☕\n")
    assert store.pair(pair.id).note == "hands ☕"
    store.set_note(pair.id, "")
    assert store.pair(pair.id).note == ""
    with pytest.raises(StoreError, match="characters"):
        store.set_note(pair.id, "x" * (MAX_NOTE_CHARACTERS + 1))
    with pytest.raises(StoreError, match="pair does not exist"):
        store.set_note("none", "x")


def test_a_pair_asked_again_does_not_remind_of_its_note(store, session, add_pairs):
    for pair in add_pairs(10):
        store.add_answer(f"p-{pair.id}", pair.id, "left")
        store.set_note(pair.id, "the left one")
    assert store.ask_again(session.id).note == ""


def test_a_store_of_the_second_schema_opens(home):
    """Its picks are plain ones, its pictures no favourites, its pairs without a note."""
    open_at(home, "0002")
    with sqlite3.connect(home / "studio.sqlite") as connection:
        connection.execute(
            "INSERT INTO sessions (id, name, settings, updated_at_s, created_at_s) "
            "VALUES ('s', 'Old', '{}', 1, 1)"
        )
        connection.executemany(
            "INSERT INTO images (id, session_id, purpose, prompt, seed, strength, sampling, "
            "base_hash, created_at_s) VALUES (?, 's', 'pair', 'a lion', 1, 1, '{}', 'base', 1)",
            [("a",), ("b",)],
        )
        connection.execute(
            "INSERT INTO pairs (id, session_id, prompt, left_image_id, right_image_id, "
            "created_at_s) VALUES ('pair', 's', 'a lion', 'a', 'b', 1)"
        )
        connection.execute(
            "INSERT INTO picks (id, pair_id, choice, created_at_s) VALUES ('p', 'pair', 'left', 1)"
        )
    connection.close()
    store = Store.open(home)
    [one] = store.picked_pairs("s")
    assert (one.pick.choice, one.pick.much_better, one.pick.reason) == ("left", False, None)
    assert (one.pick.judge, one.pick.marks) == (None, {})
    assert (one.pair.note, one.pair.left.favourite) == ("", False)
    store.add_answer("q", "pair", "right", much_better=True)
    assert store.recent_answers("s")[0].picked[0].pick.much_better
    store.close()
