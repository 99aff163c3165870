"""The Compare tab: what can be compared, and the grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.pictures.infotext import Parameters
from studio.settings import (
    SettingsError,
)
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.compare import best, comparison, grid, mix
from tests.support.factories import finish, make_pair, pick


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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": " "}, "one prompt of at most"),
        ({"many": 1}, "best of 2 to 64"),
        ({"many": None}, "best of 2 to 64"),
        ({"first": -1}, "from 0 upwards"),
        ({"adapter_id": None}, "let a round learn first"),
        ({"strength": 0}, "the base model draws"),
        ({"strength": 3}, "A strength lies between"),
    ],
)
def test_of_what_no_best_can_be_found_is_said(changes, sentence):
    good = {"prompt": "a cat ", "first": 5, "many": 3, "adapter_id": "x", "strength": -0.5}
    assert best.best_payload(**good) == {
        "prompts": ["a cat"],
        "seeds": [5, 6, 7],
        "adapter_id": "x",
        "strength": -0.5,
    }
    with pytest.raises(SettingsError, match=sentence):
        best.best_payload(**good | changes)


@pytest.fixture
def adapter(store, session, add_pairs):
    store.set_last_session(session.id)
    pick(store, add_pairs(4))
    return finish(store, session.id, store.request_round(session.id))[1]


def test_what_a_picture_says_is_compared_again(store, session, adapter):
    snapshot = StoreSnapshot(store)
    found = Parameters("a cat", seed=9, steps=20, loras=(("x", 0.5), ("First round 1", 3.0)))
    values, said = comparison.restored(snapshot, found)
    assert values == ["a cat", 9, 1, adapter.id, 2.0, *[*("", 1.0)] * mix.MOST_MIXED]
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


# --- the mix -------------------------------------------------------------------------------------


def test_a_mix_is_read_from_its_rows(store, session, adapter, add_pairs):
    choices = mix.taste_choices(StoreSnapshot(store))
    assert choices == [mix.NOTHING, ("First · round 1", f"taste:{adapter.id}")]
    rows = (choices[1][1], -0.5, "", 2.0, ' "/loras/my style.safetensors" ', 0.3, None, 1.0)
    parts = mix.mix_payload(rows)
    assert parts == [
        {"adapter_id": adapter.id, "strength": -0.5},
        {"path": "/loras/my style.safetensors", "strength": 0.3},
    ]
    good = {"text": "a", "first": 5, "count": 1, "adapter_id": adapter.id, "strength": 2.0}
    whole = [{"adapter_id": adapter.id, "strength": 2.0}, *parts]
    payload = comparison.comparison_payload(**good, parts=parts)
    assert payload["mix"] == whole
    job = store.add_job(session.id, "compare", payload)
    assert store.job(job.id).payload == payload
    assert comparison.tuned_name(StoreSnapshot(store), job) == "Mix of 3"
    saved = mix.export_payload(adapter.id, 2.0, "Both", 8, parts)
    assert (saved["mix"], saved["rank"]) == (whole, 8)
    with pytest.raises(SettingsError, match="A strength lies between"):
        mix.mix_payload(("x.safetensors", 2.1))
    for changes, sentence in (
        ({"adapter_id": None}, "let a round learn first"),
        ({"parts": []}, "Choose something to mix in first"),
        ({"rank": None}, "A rank is a whole number"),
        ({"rank": -1}, "A rank is a whole number"),
    ):
        form = {"adapter_id": "x", "strength": 1, "name": "y", "rank": 0, "parts": parts}
        with pytest.raises(SettingsError, match=sentence):
            mix.export_payload(**form | changes)


def test_the_tastes_of_a_mixed_picture_are_mixed_again(store, session, adapter):
    other = store.create_session("Warm: light", session.settings)
    pick(store, [make_pair(store, other.id) for _ in range(4)], prefix="w")
    _, warm = finish(store, other.id, store.request_round(other.id))
    loras = (("First round 1", 0.5), ("Warm light round 1", -3.0), ("style", 1.0))
    values, said = comparison.restored(StoreSnapshot(store), Parameters("a cat", loras=loras))
    assert values[3:9] == [adapter.id, 0.5, f"taste:{warm.id}", -1.0, "", 1.0]
    assert "Not taken over: the LoRA “style” at 1 that" in said
    values, _ = comparison.restored(StoreSnapshot(store), Parameters("a cat", loras=loras[1:]))
    assert values[3:7] == [adapter.id, 0.0, f"taste:{warm.id}", -1.0]


def test_tastes_of_other_models_and_deleted_sessions_are_not_offered(
    store, session, adapter, add_pairs
):
    for name, base_hash in (("Second", "base"), ("Third", "another"), ("Fourth", "base")):
        made = store.create_session(name, session.settings)
        pairs = [make_pair(store, made.id) for _ in range(4)]
        pick(store, pairs, prefix=name)
        finish(store, made.id, store.request_round(made.id), base_hash=base_hash)
    store.delete_session(made.id)
    assert [name for name, _ in mix.taste_choices(StoreSnapshot(store))] == [
        "Nothing more",
        "Second · round 1",
        "First · round 1",
    ]


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
