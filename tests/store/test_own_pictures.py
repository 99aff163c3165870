"""The artist's own finished art, chosen over what was drawn beside it."""

from __future__ import annotations

import pytest

from studio.store import Image, Session, Store, StoreError, export_session, import_session
from studio.store.rows import OWN_ART, OWN_HASH, SOURCE
from tests.support.factories import make_image, make_pair, pick


def own(store: Store, session: Session, name: str = "a", **changes: object) -> Image:
    companions = {SOURCE: f"{name}.png", OWN_HASH: name}
    return store.add_image(make_image(store, session.id, companions=companions, **changes))


def drawn(store: Store, session: Session, number: int = 1, **changes: object) -> list[Image]:
    return [make_image(store, session.id, **changes) for _ in range(number)]


def test_own_art_is_chosen_over_a_drawing_as_any_pick(store, session):
    picture = own(store, session)
    assert store.own_counts(session.id).drawn == 0
    question = store.add_own_question(picture, drawn(store, session), None)
    assert store.waiting_count(session.id) == 0
    assert store.judged_counts(session.id) == {}  # no function picked
    [held] = store.picked_pairs(session.id)
    assert (held.chosen.id, held.pick.judge) == (picture.id, OWN_ART)
    assert store.pick_counts(session.id).usable == store.pick_counts(session.id).new == 1
    counts = store.own_counts(session.id)
    assert (counts.pictures, counts.drawn, counts.chosen) == (1, 1, 1)
    [answer] = store.recent_answers(session.id)
    assert answer.question.id == question.id


def test_of_several_drawings_nothing_is_said_between_them(store, session):
    picture = own(store, session)
    question = store.add_own_question(picture, drawn(store, session, 3), None)
    assert len(question.images) == 4
    better = [one for one in store.picked_pairs(session.id) if one.pick.choice != "skip"]
    assert {one.chosen.id for one in better} == {picture.id}
    assert len(better) == 3
    assert {one.pick.judge for one in store.picked_pairs(session.id)} == {OWN_ART}


def test_the_own_picture_stands_on_either_side(store, session):
    sides = set()
    for number in range(20):
        picture = own(store, session, str(number))
        pair = store.add_own_question(picture, drawn(store, session), None).pairs[0]
        sides.add(pair.left.id == picture.id)
    assert sides == {True, False}


def test_it_is_never_counted_as_the_artist_agreeing_with_themselves(store, session):
    for number in range(30):
        store.add_own_question(own(store, session, str(number)), drawn(store, session), None)
    assert store.ask_again(session.id) is None
    assert store.consistency(session.id).picked == 0
    assert store.consistency(session.id).left == 0
    assert store.drawn_count(session.id) == 0  # nor as a turn of the prompts
    pick(store, [make_pair(store, session.id)])
    assert store.consistency(session.id).picked == 1


def test_undo_takes_back_the_last_click_and_not_own_art_that_came_after_it(store, session):
    pair = make_pair(store, session.id)
    pick(store, [pair])
    store.add_own_question(own(store, session), drawn(store, session), None)
    assert store.undo_pick("undo", session.id).id == pair.id
    assert store.undo_pick("more", session.id) is None
    assert store.own_counts(session.id).chosen == 1


def test_it_is_taken_back_and_chosen_again(store, session):
    picture = own(store, session)
    question = store.add_own_question(picture, drawn(store, session, 2), None)
    store.set_own_chosen("1", picture.id, False)
    store.set_own_chosen("1", picture.id, False)  # sent twice
    assert store.picked_pairs(session.id) == []
    assert store.waiting_count(session.id) == 0  # it is no question
    [known] = store.newest_own_pictures(session.id, 5)
    assert (known.image, len(known.drawings), known.is_chosen) == (picture, 2, False)
    store.set_own_chosen("2", picture.id, True)
    assert store.pick_counts(session.id).usable == 2
    # The artist may also say otherwise: that is a click of theirs.
    other = next(image for image in question.images if image.id != picture.id)
    store.add_answer("3", question.id, "ranked", ranking=[other.id])
    [answer] = store.recent_answers(session.id)
    assert (answer.ranking[0], answer.pick.judge) == (other.id, None)
    assert store.undo_pick("4", session.id).id == question.id


def test_only_what_waits_for_a_drawing_is_drawn_beside(store, session):
    first, second = own(store, session, "a"), own(store, session, "b")
    store.add_own_question(own(store, session, "d"), drawn(store, session), None)
    other_model = own(store, session, "c", base_hash="other")
    sampling = first.sampling
    assert store.next_own_picture(session.id, "base", sampling) == first
    store.add_own_question(first, drawn(store, session), None)
    assert store.next_own_picture(session.id, "base", sampling) == second
    counts = store.own_counts(session.id)
    assert (counts.pictures, counts.drawn, counts.chosen) == (4, 2, 2)
    with pytest.raises(StoreError, match="Nothing is to be drawn"):
        store.add_own_question(first, drawn(store, session), None)
    assert store.leave_own_out(session.id) == 2
    assert store.next_own_picture(session.id, "base", sampling) is None
    assert len(store.own_pictures(session.id)) == 2
    everything = [one.id for one in store.own_pictures(session.id, deleted=True)]
    assert set(everything) > {first.id, second.id, other_model.id}
    with pytest.raises(StoreError, match="Nothing is to be drawn"):
        store.add_own_question(second, drawn(store, session), None)
    store.restore_images(session.id, [second.id])
    assert store.next_own_picture(session.id, "base", sampling) == second


def test_another_caption_takes_the_place_of_the_first(store, session):
    picture = own(store, session)
    store.add_own_question(picture, drawn(store, session), None)
    store.replace_own_picture("1", picture.id)
    assert store.picked_pairs(session.id) == []
    assert store.own_counts(session.id).pictures == 0


def test_it_is_no_picture_of_a_folder(store, session):
    own(store, session)
    assert store.folder_count(session.id) == 0
    assert store.folder_pictures(session.id) == []


def test_deleted_art_is_learned_from_and_stays_on_the_disk(store, session):
    picture = own(store, session)
    store.add_own_question(picture, drawn(store, session), None)
    store.delete_images(session.id, [picture.id])
    assert store.pick_counts(session.id).usable == 1
    assert store.deleted_pictures(session.id).used == {"a pick": 1}
    assert store.own_counts(session.id).pictures == 0


def test_it_is_held_out_by_the_same_rules(store, session):
    for number in range(10):
        store.add_own_question(own(store, session, str(number)), drawn(store, session, 2), None)
    round_ = store.request_round(session.id)
    assert len(round_.held_out_pick_ids) == 2  # a grid as a whole
    assert store.own_picks_among(round_.held_out_pick_ids) == 2
    by_pick = {one.pick.id: one.pair.question_id for one in store.picked_pairs(session.id)}
    trained = {by_pick[id_] for id_ in round_.train_pick_ids}
    assert trained.isdisjoint(by_pick[id_] for id_ in round_.held_out_pick_ids)


def test_an_archive_takes_it_along(store, session, tmp_path):
    store.add_own_question(own(store, session), drawn(store, session), None)
    export_session(store, session.id, tmp_path / "session.zip")
    other = Store.open(tmp_path / "other")
    there = import_session(other, tmp_path / "session.zip")
    assert other.own_counts(there.id) == store.own_counts(session.id)
    [held] = other.picked_pairs(there.id)
    assert held.chosen.is_own
    assert held.pick.judge == OWN_ART
    other.close()


def test_what_does_not_exist_is_a_sentence(store, session):
    picture = own(store, session)
    with pytest.raises(StoreError, match="Nothing is drawn"):
        store.set_own_chosen("1", picture.id, False)
