"""Pairs asked again, what the picks say of the picking, and rounds that are held back."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from studio.statistics import leans, wilson
from studio.store import Store, StoreError
from studio.store.questions import ASK_AGAIN_EVERY
from tests.support.factories import finish, open_at, pick


def pick_all(store, pairs, choices="lr"):
    """Left and right in turn."""
    words = {"l": "left", "r": "right"}
    for place, pair in enumerate(pairs):
        store.add_answer(f"pick-{pair.id}", pair.id, words[choices[place % len(choices)]])


def chosen(pair, choice):
    return (pair.left if choice == "left" else pair.right).id


def test_a_lean_is_what_chance_does_not_explain():
    assert wilson(0, 0) == (0.0, 1.0)
    assert not leans(14, 24)
    assert leans(20, 24)
    assert leans(4, 24)


def test_one_pair_in_ten_comes_back_with_its_sides_swapped(store, session, add_pairs):
    pairs = add_pairs(ASK_AGAIN_EVERY)
    pick_all(store, pairs[:-1])
    assert store.ask_again(session.id) is None
    pick_all(store, pairs[-1:])
    again = store.ask_again(session.id)
    before = pairs[ASK_AGAIN_EVERY // 2]
    assert (again.repeat_of, again.prompt) == (before.id, before.prompt)
    assert (again.left, again.right) == (before.right, before.left)
    assert store.waiting_pairs(session.id) == [again]
    assert store.drawn_count(session.id) == ASK_AGAIN_EVERY  # or a prompt would miss its turn
    assert store.pair(again.id) == again
    assert store.ask_again(session.id) is None  # until there are ten more
    more = add_pairs(ASK_AGAIN_EVERY)
    pick_all(store, more)
    assert store.ask_again(session.id).repeat_of == more[ASK_AGAIN_EVERY // 2].id


def test_what_is_asked_again_is_not_learned_from(store, session, add_pairs):
    pick_all(store, add_pairs(ASK_AGAIN_EVERY))
    before = store.pick_counts(session.id)
    again = store.ask_again(session.id)
    store.add_answer("again", again.id, "left")
    after = store.pick_counts(session.id)
    assert (after.total, after.usable, after.new) == (before.total + 1, before.usable, before.new)
    round_ = store.request_round(session.id)
    assert "again" not in round_.train_pick_ids + round_.held_out_pick_ids


@pytest.mark.parametrize(("choice", "same"), [("left", 0), ("right", 1)])
def test_the_same_picture_chosen_again_is_counted(store, session, add_pairs, choice, same):
    pairs = add_pairs(ASK_AGAIN_EVERY)
    pick(store, pairs)  # the left one, every time
    again = store.ask_again(session.id)
    assert store.consistency(session.id).repeated == 0
    store.add_answer("again", again.id, choice)
    found = store.consistency(session.id)
    was_chosen = chosen(pairs[ASK_AGAIN_EVERY // 2], "left")
    assert (was_chosen == chosen(again, choice)) == bool(same)
    assert (found.repeated, found.agreed) == (1, same)
    assert (found.picked, found.left) == (11, 10 + (choice == "left"))


def test_no_answer_about_a_pair_asked_again_is_no_evidence(store, session, add_pairs):
    pairs = add_pairs(ASK_AGAIN_EVERY)
    pick(store, pairs)
    again = store.ask_again(session.id)
    store.add_answer("again", again.id, "tie")
    assert store.consistency(session.id).repeated == 0
    store.add_answer("surely", again.id, "left")
    assert store.consistency(session.id).repeated == 1
    store.add_answer("changed", pairs[ASK_AGAIN_EVERY // 2].id, "skip")  # the first answer
    assert store.consistency(session.id).repeated == 0


def test_a_round_that_is_held_back_is_kept_and_not_used(store, session, add_pairs):
    pick(store, add_pairs(4))
    _, first = finish(store, session.id, store.request_round(session.id))
    pick(store, add_pairs(4))
    round_ = store.request_round(session.id)
    adapter = replace(
        first, id="second", round_id=round_.id, number=2, checks={"drift": 9.0, "detail": 0.1}
    )
    done = store.finish_round(round_.id, adapter, "Held back.", held_back=True)
    assert (done.state, done.adapter_id, done.message) == ("held_back", "second", "Held back.")
    assert done.finished_at_s is not None
    assert store.session(session.id).current_adapter_id == first.id
    assert store.adapter("second").checks == {"drift": 9.0, "detail": 0.1}
    store.set_current_adapter(session.id, "second")  # all the same, if the artist likes it
    assert store.session(session.id).current_adapter_id == "second"


def test_picks_taken_back_after_a_round_are_known(store, session, add_pairs):
    pairs = add_pairs(6)
    pick(store, pairs)
    round_, _ = finish(store, session.id, store.request_round(session.id))
    held_out = len(round_.held_out_pick_ids)
    assert store.withdrawn(round_) == 0
    store.undo_pick("undo", session.id)
    store.add_answer("changed", pairs[0].id, "right")
    later = store.request_round(session.id)
    gone = set(round_.train_pick_ids) - set(later.train_pick_ids)
    assert store.withdrawn(round_) == len(gone)
    assert 2 - held_out <= len(gone) <= 2
    assert store.withdrawn(later) == 0


def test_a_store_of_the_first_schema_opens(home):
    """With its rows, which are given what they lack."""
    path = home / "studio.sqlite"
    open_at(home, "0001")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO sessions (id, name, settings, updated_at_s, created_at_s) "
            "VALUES ('s', 'Old', '{}', 1, 1)"
        )
        connection.execute(
            "INSERT INTO rounds (id, session_id, number, state, settings, train_pick_ids, "
            "held_out_pick_ids, updates_done, updates_total, message, attempts, created_at_s) "
            "VALUES ('r', 's', 1, 'done', '{}', '[]', '[]', 1, 1, '', 1, 1)"
        )
        connection.execute(
            "INSERT INTO adapters (id, session_id, round_id, number, settings, base_hash, picks, "
            "sha256, created_at_s) VALUES ('a', 's', 'r', 1, '{}', 'base', 4, '00', 1)"
        )
    connection.close()
    store = Store.open(home)
    assert store.adapter("a").checks == {}
    assert store.session("s").name == "Old"
    assert store.consistency("s").picked == 0
    with pytest.raises(StoreError):
        store.request_round("s")
    store.close()
