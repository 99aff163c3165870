"""The Compare tab: what can be compared, and the grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.pictures.infotext import Parameters
from studio.settings import (
    SettingsError,
)
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.compare import comparison, grid
from tests.support.factories import finish, pick


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": " \n "}, "at least one prompt"),
        ({"first": -1}, "Seeds are whole numbers"),
        ({"count": None}, "Seeds are whole numbers"),
        ({"adapter_id": None}, "let a round learn first"),
        ({"count": 20}, "at most 32"),
        ({"strength": -1.05}, "A strength lies between -1 and 2."),
        ({"strength": None}, "A strength lies between -1 and 2."),
    ],
)
def test_what_cannot_be_compared_is_said(changes, sentence):
    good = {"text": "a\nb", "first": 5, "count": 2, "adapter_id": "x", "strength": 1.0}
    assert comparison.comparison_payload(**good)["seeds"] == [5, 6]
    assert comparison.comparison_payload(**good | {"strength": -1})["strength"] == -1
    with pytest.raises(SettingsError, match=sentence):
        comparison.comparison_payload(**good | changes)


@pytest.fixture
def adapter(store, session, add_pairs):
    store.set_last_session(session.id)
    pick(store, add_pairs(4))
    return finish(store, session.id, store.request_round(session.id))[1]


def test_what_a_picture_says_is_compared_again(store, session, adapter):
    snapshot = StoreSnapshot(store)
    found = Parameters("a cat", seed=9, steps=20, loras=(("x", 0.5), ("First round 1", 3.0)))
    values, said = comparison.restored(snapshot, found)
    assert values == ["a cat", 9, 1, adapter.id, 2.0]
    assert said == (
        "Filled in from the picture. Not taken over: the LoRA “x” at 0.5 that it was drawn with."
    )
    turned = replace(found, loras=(("First round 1", -0.5),))
    assert comparison.restored(snapshot, turned)[0][4] == -0.5
    other = replace(found, loras=(("blue", 1.0),), steps=30, negative_prompt="dogs", seed=2**64)
    values, said = comparison.restored(snapshot, other)
    assert values[3] == adapter.id
    assert "“blue” at 1 that it was drawn with" in said
    assert "Its seed 18446744073709551616 is larger" in said
    assert "another setting for steps, negative prompt: drop the picture on Prompt" in said
    with pytest.raises(SettingsError, match="names no prompt"):
        comparison.restored(snapshot, Parameters())


# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": " \n "}, "at least one prompt"),
        ({"first": -1}, "Seeds are whole numbers"),
        ({"count": None}, "Seeds are whole numbers"),
        ({"adapter_ids": [None]}, "let a round learn first"),
        ({"strengths": "0, half"}, "Strengths are numbers"),
        ({"strengths": " , "}, "Write the strengths"),
        ({"strengths": "3"}, "A strength lies between -1 and 2."),
        ({"strengths": "-1.1"}, "A strength lies between -1 and 2."),
        ({"strengths": "nan"}, "A strength lies between"),
        ({"count": 1e9}, "at most 144"),
    ],
)
def test_what_no_grid_can_be_drawn_of_is_said(changes, sentence):
    good = {
        "text": "a\nb\na",
        "first": 5,
        "count": 2,
        "adapter_ids": ["x"],
        "strengths": "1 0;0.50",
    }
    assert grid.grid_payload(**good) == {
        "prompts": ["a", "b"],
        "seeds": [5, 6],
        "adapter_ids": ["x"],
        "strengths": [0.0, 0.5, 1.0],
    }
    with pytest.raises(SettingsError, match=sentence):
        grid.grid_payload(**good | changes)


def test_a_grid_that_drew_nothing_is_not_offered(store, session, adapter):
    axes = {"prompts": ["a"], "seeds": [1], "adapter_ids": [adapter.id], "strengths": [1.0]}
    whole = store.add_job(session.id, "grid", axes)
    store.update_job(whole.id, state="done", result={"image_ids": ["i"]})
    empty = store.add_job(session.id, "grid", axes)
    store.update_job(empty.id, state="failed", message="No.")
    shown = grid.grids(StoreSnapshot(store))
    assert [one["id"] for one in shown["grids"]] == [whole.id]
    assert shown["newest"]["id"] == whole.id
    assert shown["newest"]["images"] == ["/images/i"]
    assert (shown["job"]["state"], shown["job"]["message"]) == ("failed", "No.")
