"""Several pictures of one prompt, put in order: what is kept, taken back, counted and split."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from studio.settings import SessionSettings, SettingsError
from studio.store import PickCounts, Store, StoreError, export_session, import_session
from tests.support.factories import make_grid, make_pair


def ids(asked):
    return [image.id for image in asked.images]


def order(store, asked, *places, answer_id="a", **options):
    """Answer a grid: the pictures at `places`, the best first."""
    ranking = [ids(asked)[place] for place in places]
    store.add_ranking(answer_id, asked.id, ranking, **options)
    return ranking


def choices(store, session):
    """Ids of the better and the worse picture of each pair that was decided."""
    found = []
    for one in store.picked_pairs(session.id):
        if one.pick.choice in ("left", "right"):
            sides = {one.pair.left.id, one.pair.right.id}
            found.append((one.chosen.id, *(sides - {one.chosen.id})))
    return found


def test_a_grid_is_all_pairs_of_its_pictures_and_waits_as_one(store, session):
    asked = make_grid(store, session.id, 4)
    pair = make_pair(store, session.id)
    assert len(asked.pairs) == 6
    assert len(set(ids(asked))) == 4
    assert store.waiting(session.id)[0] == asked
    assert [question.id for question in store.waiting(session.id)] == [asked.id, pair.id]
    assert [question.id for question in store.waiting(session.id, limit=1)] == [asked.id]
    assert store.waiting_count(session.id) == store.drawn_count(session.id) == 2


def test_the_best_one_is_better_than_each_of_the_others(store, session):
    asked = make_grid(store, session.id, 4)
    [best] = order(store, asked, 2)
    others = [id_ for id_ in ids(asked) if id_ != best]
    assert sorted(choices(store, session)) == sorted((best, other) for other in others)
    counts = store.pick_counts(session.id)
    assert counts == PickCounts(total=1, usable=3, new=3)
    assert store.waiting(session.id) == []


def test_an_order_decides_every_pair(store, session):
    asked = make_grid(store, session.id, 4)
    ranking = order(store, asked, 3, 0, 2, 1, reason="colour")
    assert sorted(choices(store, session)) == sorted(itertools.combinations(ranking, 2))
    assert {one.pick.reason for one in store.picked_pairs(session.id)} == {"colour"}
    assert store.pick_counts(session.id).usable == 6


@pytest.mark.parametrize("otherwise", ["skip", "tie", "both_bad"])
def test_without_an_order_all_pairs_say_the_same(store, session, otherwise):
    asked = make_grid(store, session.id, 3)
    order(store, asked, otherwise=otherwise)
    assert {one.pick.choice for one in store.picked_pairs(session.id)} == {otherwise}
    counts = store.pick_counts(session.id)
    assert (counts.total, counts.usable) == (1, 0)
    assert counts.ties + counts.both_bad + counts.skipped == 1


@given(
    size=st.integers(3, 6),
    shuffled=st.permutations(range(6)),
    named=st.integers(0, 6),
    otherwise=st.sampled_from(["skip", "tie", "both_bad"]),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_was_said_is_read_again(size, shuffled, named, otherwise):
    with tempfile.TemporaryDirectory() as home:
        store = Store.open(home)
        session = store.create_session("A", SessionSettings())
        asked = make_grid(store, session.id, size)
        places = [place for place in shuffled if place < size][:named]
        said = order(store, asked, *places, otherwise=otherwise)
        [answer] = store.recent_answers(session.id)
        if len(said) == size - 1:  # then the last one is known as well
            said += [id_ for id_ in ids(asked) if id_ not in said]
        assert list(answer.ranking) == said
        assert (answer.id, answer.question) == ("a", asked)
        store.undo_pick("u", session.id)
        assert list(store.answer_before("u").ranking) == said
        assert store.recent_answers(session.id) == []
        store.close()


def test_sent_twice_is_kept_once_and_a_new_answer_replaces_the_old(store, session):
    asked = make_grid(store, session.id, 4)
    for _ in range(2):
        order(store, asked, 1)
    order(store, asked, 2)  # the same id: an answer that was lost on the way, and asked for again
    assert {better for better, _ in choices(store, session)} == {ids(asked)[1]}
    assert store.answer_before("a") is None
    order(store, asked, 2, 3, answer_id="b")
    assert list(store.answer_before("b").ranking) == [ids(asked)[1]]
    [answer] = store.recent_answers(session.id)
    assert list(answer.ranking) == [ids(asked)[2], ids(asked)[3]]
    assert store.pick_counts(session.id).total == 1


def test_undo_takes_all_of_it_back_once(store, session):
    pair, asked = make_pair(store, session.id), make_grid(store, session.id, 4)
    store.add_pick("p", pair.id, "left")
    order(store, asked, 1, 0)
    store.discard_waiting_pairs(session.id)
    for _ in range(2):
        assert store.undo_pick("u", session.id).id == asked.id
    assert store.pick_counts(session.id).total == 1
    assert [question.id for question in store.waiting(session.id)] == [asked.id]
    assert list(store.answer_before("u").ranking) == [ids(asked)[1], ids(asked)[0]]
    assert store.undo_pick("v", session.id).id == pair.id
    assert store.undo_pick("w", session.id) is None


@pytest.mark.parametrize(
    ("ranking", "options", "sentence"),
    [
        (["nobody"], {}, "names pictures of its grid"),
        ([0, 0], {}, "each of them once"),
        ([], {"otherwise": "left"}, "skipped, just as good"),
        ([], {"reason": "colour"}, "for what is better"),
        ([0], {"reason": "fun"}, "A reason is one of"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    store, session, ranking, options, sentence
):
    asked = make_grid(store, session.id, 3)
    named = [ids(asked)[one] if isinstance(one, int) else one for one in ranking]
    with pytest.raises(StoreError, match=sentence):
        store.add_ranking("a", asked.id, named, **options)
    with pytest.raises(StoreError, match="answered together"):
        store.add_pick("p", asked.pairs[1].id, "left")
    assert store.waiting(session.id) == [asked]


def test_stale_and_kept_as_a_whole(store, session):
    first, _ = make_grid(store, session.id, 3), make_grid(store, session.id, 3)
    store.discard_waiting_pairs(session.id, keep=1)
    assert store.waiting(session.id) == [first]
    store.update_settings(session.id, replace(session.settings, pictures=4))
    assert store.waiting(session.id) == []
    with pytest.raises(SettingsError, match="2 and 9"):
        replace(session.settings, pictures=1)


def test_of_a_grid_that_is_held_out_nothing_is_learned(store, session):
    training = replace(session.settings.training, held_out_fraction=0.5)
    store.update_settings(session.id, replace(session.settings, training=training))
    grids = [make_grid(store, session.id, 3) for _ in range(4)]
    for number, asked in enumerate(grids):
        order(store, asked, 0, 1, answer_id=f"a{number}")
    round_ = store.request_round(session.id)
    question = {one.pick.id: one.pair.question_id for one in store.picked_pairs(session.id)}
    held = [question[id_] for id_ in round_.held_out_pick_ids]
    assert held == [grids[1].id, grids[3].id]  # one pick of each: they share their pictures
    assert [question[id_] for id_ in round_.train_pick_ids] == [
        grids[n].id for n in (0, 0, 0, 2, 2, 2)
    ]
    assert round_.updates_total == training.updates(2)  # a grid is one pick
    assert store.pick_counts(session.id).new == 0
    store.update_round(round_.id, state="stopped")
    order(store, grids[1], 2, answer_id="changed")
    assert store.pick_counts(session.id).new == 2
    again = store.request_round(session.id)
    holding = {one.pick.id: one.pair.question_id for one in store.picked_pairs(session.id)}
    assert grids[1].id in {holding[id_] for id_ in again.held_out_pick_ids}
    assert grids[1].id not in {holding[id_] for id_ in again.train_pick_ids}


def test_a_grid_counts_once_for_what_is_asked_again(store, session):
    for number in range(10):
        order(store, make_grid(store, session.id, 4), 0, 1, 2, answer_id=f"a{number}")
        again = store.ask_again(session.id)
        assert (again is None) == (number < 9)
    assert again.grid_id is None
    habits = store.habits(session.id)
    assert (habits.picked, habits.left) == (0, 0)  # where a picture stands in a grid is no side
    store.add_pick("p", again.id, "right")  # sides are swapped: the same one
    habits = store.habits(session.id)
    assert (habits.asked_again, habits.same_again, habits.picked) == (1, 1, 1)


def test_favourites_of_any_place_are_found(store, session):
    asked = make_grid(store, session.id, 4)
    order(store, asked, 0)
    store.set_favourite(ids(asked)[3], True)
    [found] = store.recent_answers(session.id, favourites=True)
    assert found.question.images[3].favourite


def test_a_grid_travels_in_an_archive(store, session, tmp_path):
    asked = make_grid(store, session.id, 4)
    order(store, asked, 3, 1)
    export_session(store, session.id, tmp_path / "one.zip")
    made = import_session(store, tmp_path / "one.zip")
    [answer] = store.recent_answers(made.id)
    assert [ids(answer.question).index(id_) for id_ in answer.ranking] == [3, 1]
