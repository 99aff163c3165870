"""Marks on pictures: where the artist saw what decided, kept with the pick."""

from __future__ import annotations

import pytest

from studio.settings import MARKS_ACROSS
from studio.store import Store, StoreError
from studio.ui.tabs.prefer.state import answer_value
from tests.support.factories import make_grid

TOP = "f" * 128 + "0" * 128  # the upper half of a picture
DOT = "0" * 255 + "1"


def test_a_map_has_a_bit_for_every_place():
    assert len(TOP) * 4 == MARKS_ACROSS**2


def test_they_are_kept_with_the_pick_and_go_with_it(store, session, add_pairs, home):
    first, second = add_pairs(2)
    store.add_answer("p", first.id, "left", marks={first.left.id: TOP, first.right.id: DOT})
    store.add_answer("q", second.id, "right", marks={second.right.id: DOT})
    store.close()
    again = Store.open(home)
    one, two = again.picked_pairs(session.id)
    assert one.pick.marks == {"left": TOP, "right": DOT}
    assert two.pick.marks == {"right": DOT}
    assert two.marks == {second.right.id: DOT}
    assert answer_value(again.recent_answers(session.id)[0])["marks"] == {second.right.id: DOT}
    again.add_answer("r", first.id, "left")  # a changed pick says all anew
    assert [one.pick.marks for one in again.picked_pairs(session.id)] == [{"right": DOT}, {}]
    again.undo_pick("u", session.id)
    again.undo_pick("v", session.id)
    assert again.picked_pairs(session.id) == []
    assert again.answer_before("v").pick.marks == {"right": DOT}  # an undo shows them again
    again.close()


def test_a_grid_has_the_marks_of_its_pictures_in_each_pair(store, session):
    grid = make_grid(store, session.id)
    best, *others = (image.id for image in grid.images)
    kept = store.add_answer("g", grid.id, "ranked", ranking=[best], marks={best: TOP})
    marks = [one.pick.marks for one in kept.answer.picked if one.pick.choice != "skip"]
    assert marks == [{"left": TOP}] * len(others)
    assert {one.pick.choice for one in kept.answer.picked if not one.pick.marks} == {"skip"}
    assert answer_value(kept.answer)["marks"] == {best: TOP}


@pytest.mark.parametrize(
    ("choice", "marks", "sentence"),
    [
        ("tie", {"left": TOP}, "of which one is better"),
        ("left", {"elsewhere": TOP}, "on the pictures of a question"),
        ("left", {"left": "0" * 256}, "at least one of them marked"),
        ("left", {"left": TOP[1:]}, "32 by 32"),
        ("left", {"left": "F" * 256}, "hexadecimal"),
        ("left", {"left": TOP + "\n"}, "32 by 32"),
        ("left", {"left": None}, "32 by 32"),
    ],
)
def test_what_is_no_mark_is_refused_and_changes_nothing(
    store, session, add_pairs, choice, marks, sentence
):
    [pair] = add_pairs(1)
    named = {{"left": pair.left.id}.get(key, key): value for key, value in marks.items()}
    with pytest.raises(StoreError, match=sentence):
        store.add_answer("p", pair.id, choice, marks=named)
    assert store.picked_pairs(session.id) == []
