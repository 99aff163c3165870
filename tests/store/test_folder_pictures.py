"""Pictures of folders, of which one says one by one whether they are good or bad."""

from __future__ import annotations

import pytest

from studio.store import Image, Session, Store, StoreError
from studio.store.rows import SOURCE, SOURCE_HASH
from tests.support.factories import make_image, make_pair, pick


@pytest.fixture
def found(store: Store, session: Session) -> list[Image]:
    """Three pictures of a folder, beside drawn ones."""
    make_pair(store, session.id)
    return [
        store.add_image(make_image(store, session.id, companions={SOURCE: name, SOURCE_HASH: name}))
        for name in "abc"
    ]


def test_they_are_told_from_drawn_ones(store, session, found):
    assert store.folder_pictures(session.id) == found
    assert store.folder_count(session.id) == 3
    store.delete_images(session.id, [found[0].id])
    assert store.folder_pictures(session.id) == found[1:]
    assert [one.id for one in store.folder_pictures(session.id, deleted=True)] == [
        one.id for one in found
    ]


def test_good_bad_and_back(store, session, found):
    a, b, c = found
    store.say_of("1", a.id, "good")
    store.say_of("2", b.id, "bad")
    store.say_of("2", b.id, "bad")  # sent twice
    store.say_of("3", c.id, "bad")
    assert store.verdicts(session.id) == {a.id: "good", b.id: "bad", c.id: "bad"}
    store.say_of("4", c.id, None)
    store.say_of("5", a.id, None)
    assert store.verdicts(session.id) == {b.id: "bad"}
    store.say_of("6", c.id, "bad")
    store.say_of("7", b.id, "good")
    assert store.verdicts(session.id) == {b.id: "good", c.id: "bad"}


def test_they_are_the_sides_alone_that_a_round_knows(store, session, found):
    store.say_of("1", found[0].id, "good")
    store.say_of("2", found[1].id, "bad")
    lone = store.lone_pictures(session.id)
    assert [image.id for image in lone.favourites] == [found[0].id]
    assert [image.id for image in lone.bad] == [found[1].id]


def test_what_is_bad_alone_is_no_question_of_prefer(store, session, found):
    [drawn] = store.waiting_pairs(session.id)
    pick(store, [drawn])
    store.say_of("1", found[1].id, "bad")
    assert store.waiting_count(session.id) == 0
    assert len(store.recent_answers(session.id)) == 1
    [alone] = [one.pair for one in store.picked_pairs(session.id) if one.pick.id == "1"]
    with pytest.raises(StoreError, match="one picture"):
        store.add_answer("x", alone.id, "left")
    assert store.undo_pick("undo", session.id).id == drawn.id
    assert store.verdicts(session.id) == {found[1].id: "bad"}


def test_what_does_not_exist_is_a_sentence(store, session, found):
    with pytest.raises(StoreError, match="does not exist"):
        store.say_of("1", "nobody", "good")
    with pytest.raises(StoreError, match="good or bad"):
        store.say_of("1", found[0].id, "fine")
    with pytest.raises(StoreError, match="two pictures of one prompt"):
        store.ask_about(found[0], found[0])
