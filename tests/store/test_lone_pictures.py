"""Favourites, and pictures of pairs of which neither was taken, in a round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.settings import SamplingSettings
from studio.store import Session, Store, StoreError, export_session, import_session
from tests.support.factories import finish, make_grid, make_pair, pick


@pytest.fixture
def session(store: Store, session: Session) -> Session:
    """A session that learns from lone pictures."""
    training = replace(session.settings.training, lone_pictures=True)
    return store.update_settings(session.id, replace(session.settings, training=training))


def star(store, *images):
    for image in images:
        store.set_favourite(image.id, True)
    return [image.id for image in images]


def lone(store, session):
    """(ids of favourites, ids of bad pictures) that a round could learn from."""
    found = store.lone_pictures(session.id)
    return [one.id for one in found.favourites], [one.id for one in found.bad]


def sides(pairs):
    return [image for pair in pairs for image in (pair.left, pair.right)]


def test_a_round_can_start_from_four_of_each_and_no_other_pick(store, session, add_pairs):
    good, bad = add_pairs(4), add_pairs(2)
    starred = star(store, *(pair.left for pair in good))
    picks = pick(store, bad, "both_bad")
    assert lone(store, session) == (starred, [image.id for image in sides(bad)])
    round_ = store.request_round(session.id)
    assert round_.favourite_ids == tuple(starred)
    assert round_.train_pick_ids == tuple(one.id for one in picks)
    assert round_.held_out_pick_ids == ()
    assert round_.updates_total == round_.settings.updates(6)
    assert store.rounds(session.id) == [round_]


@pytest.mark.parametrize(("good", "bad"), [(3, 2), (0, 4), (0, 0)])
def test_with_fewer_it_says_how_many_there_are(store, session, add_pairs, good, bad):
    star(store, *(pair.left for pair in add_pairs(good)))
    pick(store, add_pairs(bad), "both_bad")
    expected = rf"4 picks .* there are 0 so far\. Or it needs 4 favourites; there are {good}\.$"
    with pytest.raises(StoreError, match=expected):
        store.request_round(session.id)


def test_too_few_of_one_kind_take_no_part_in_a_round_of_pairs(store, session, add_pairs):
    picks = pick(store, add_pairs(4))
    star(store, *sides(add_pairs(4)))
    pick(store, add_pairs(1), "both_bad")
    round_ = store.request_round(session.id)
    assert round_.favourite_ids == ()
    assert round_.train_pick_ids == tuple(one.id for one in picks)


def test_favourites_alone_are_enough_where_there_are_no_picks(store, session, add_pairs):
    """They are held against what was shown beside them."""
    pairs = add_pairs(5)
    starred = star(store, *(pair.left for pair in pairs[:4]), pairs[0].right)
    few = pick(store, pairs[3:])
    round_ = store.request_round(session.id)
    assert round_.settings == replace(session.settings.training, favourites_alone=True)
    assert set(round_.favourite_ids) == set(starred)
    assert round_.train_pick_ids == tuple(one.id for one in few)
    assert store.session(session.id).settings == session.settings
    beside = store.shown_beside(session.id, starred)
    assert beside[pairs[0].left.id] == [store.image(pairs[0].right.id)]
    assert [one.id for one in beside[pairs[1].left.id]] == [pairs[1].right.id]


def test_beside_a_picture_of_a_grid_are_all_others(store, session):
    grid = make_grid(store, session.id)
    first, *others = (image.id for image in grid.images)
    assert {one.id for one in store.shown_beside(session.id, [first])[first]} == set(others)


def test_with_picks_enough_favourites_alone_take_no_part(store, session, add_pairs):
    star(store, *(pair.left for pair in add_pairs(4)))
    pick(store, add_pairs(4))
    round_ = store.request_round(session.id)
    assert (round_.favourite_ids, round_.settings.favourites_alone) == ((), False)


def test_switched_off_they_take_no_part(store, session, add_pairs):
    training = replace(session.settings.training, lone_pictures=False)
    store.update_settings(session.id, replace(session.settings, training=training))
    star(store, *sides(add_pairs(1)))
    pick(store, add_pairs(4), "both_bad")
    with pytest.raises(StoreError, match=r"Or it needs 4 favourites; there are 2\.$"):
        store.request_round(session.id)


def test_a_star_is_about_one_picture_and_neither_about_two(store, session, add_pairs):
    [pair] = add_pairs(1)
    pick(store, [pair], "both_bad")
    star(store, pair.right)
    assert lone(store, session) == ([pair.right.id], [pair.left.id])


def test_the_pictures_of_a_grid_are_bad_once_each(store, session):
    grid = make_grid(store, session.id)
    store.add_answer("bad", grid.id, "both_bad")
    assert lone(store, session) == ([], [image.id for image in grid.images])


def test_what_is_held_out_is_not_learned_by_a_star(store, session, add_pairs):
    pairs = add_pairs(5)
    picks = pick(store, pairs)
    star(store, *sides(pairs))
    [held_out] = store.request_round(session.id).held_out_pick_ids
    assert held_out == picks[4].id
    expected = [image.id for image in sides(pairs[:4])]
    assert lone(store, session) == (expected, [])
    # nor after the artist has thought better of it
    store.add_answer("later", pairs[4].id, "both_bad")
    assert lone(store, session) == (expected, [])
    store.undo_pick("undo", session.id)
    assert lone(store, session) == (expected, [])


def test_what_was_learned_by_a_star_is_never_held_out(store, session, add_pairs):
    starred, bad = add_pairs(5), add_pairs(2)
    star(store, *(pair.left for pair in starred))
    pick(store, bad, "both_bad")
    finish(store, session.id, store.request_round(session.id))
    pick(store, starred, prefix="later")  # of five, one would be held out
    round_ = store.request_round(session.id)
    assert round_.held_out_pick_ids == ()
    assert len(round_.train_pick_ids) == 5 + 2


def test_pictures_made_otherwise_take_no_part(store, session, add_pairs):
    other = SamplingSettings(steps=9)
    star(store, *sides(add_pairs(1)), *sides(add_pairs(1, base_hash="another")))
    pick(store, add_pairs(1), "both_bad")
    pick(store, add_pairs(1, sampling=other), "both_bad", prefix="other")
    newest = make_pair(store, session.id, sampling=other)
    starred = star(store, newest.left)
    assert lone(store, session)[0] == starred  # the last pick of both_bad decides
    pick(store, add_pairs(1), prefix="decides")
    assert len(lone(store, session)[0]) == len(lone(store, session)[1]) == 2


def test_a_pair_that_is_asked_again_is_bad_once(store, session, add_pairs):
    for number, pair in enumerate(add_pairs(10)):
        store.add_answer(f"p{number}", pair.id, "left")
    again = store.ask_again(session.id)
    store.add_answer("again", again.id, "both_bad")
    assert lone(store, session) == ([], [])


def test_a_round_remembers_its_favourites(store, session, add_pairs, tmp_path, home):
    good = add_pairs(4, prompt="a green owl")
    star(store, *(pair.left for pair in good))
    pick(store, add_pairs(2, prompt="a red fox"), "both_bad")
    round_ = store.request_round(session.id)
    store.set_favourite(good[0].left.id, False)
    assert store.round(round_.id).favourite_ids == round_.favourite_ids
    _, adapter = finish(store, session.id, round_)
    assert store.trained_prompts(adapter.id) == {"a green owl", "a red fox"}
    export_session(store, session.id, tmp_path / "session.zip")
    made = import_session(store, tmp_path / "session.zip")
    [taken] = store.rounds(made.id)
    assert len(taken.favourite_ids) == 4
    assert {store.image(id_).session_id for id_ in taken.favourite_ids} == {made.id}
