"""The Exam tab: its questions, its pictures, and what a result means."""

from __future__ import annotations

import time

import pytest

from studio.settings import (
    SessionSettings,
    SettingsError,
)
from studio.statistics import Tally
from studio.store import WorkerStatus
from studio.ui.adapters import best_strength
from studio.ui.snapshot import StoreSnapshot
from studio.ui.starter_pack import starter_concepts
from studio.ui.tabs.exam import questions
from studio.ui.tabs.exam.state import meaning, page_state
from tests.support.factories import QUESTIONS, finish, make_image, pick

SETTINGS = SessionSettings(prompts=("a red apple", "two lions"))


@pytest.fixture
def adapter(store, session, add_pairs):
    store.set_last_session(session.id)
    pick(store, add_pairs(4))
    return finish(store, session.id, store.request_round(session.id))[1]


def test_an_exam_asks_for_things_it_has_not_practised_nor_will():
    asked = questions.exam_prompts(" \n ", SETTINGS, frozenset({"an owl in a tree", "The Fox."}))
    assert set(asked) == set(starter_concepts()) - {"red apple", "owl", "fox"}
    assert "lion" in asked  # “lions” is another word
    again = questions.exam_prompts("", SETTINGS, frozenset())
    assert again != questions.exam_prompts("", SETTINGS, frozenset())


@pytest.mark.parametrize("typed", ["a  Lion", "lion", "the lion.", "a snail\nA LION"])
def test_a_prompt_that_was_trained_on_is_refused(typed):
    with pytest.raises(SettingsError, match="was practised"):
        questions.exam_prompts(typed, SETTINGS, frozenset({"a lion"}))
    assert questions.exam_prompts("a lion cub\n a lion cub", SETTINGS, frozenset({"a lion"})) == [
        "a lion cub"
    ]


def test_nothing_left_to_ask_is_a_sentence():
    with pytest.raises(SettingsError, match="write prompts of your own"):
        questions.exam_prompts("", SETTINGS, frozenset(starter_concepts()))
    with pytest.raises(SettingsError, match="longer than"):
        questions.exam_prompts("a" * 2001, SETTINGS, frozenset())


def test_questions_take_the_prompts_in_turn_with_fresh_seeds():
    asked = questions.with_seeds(["a", "b", "c"], 5)
    assert [prompt_ for prompt_, _ in asked] == ["a", "b", "c", "a", "b"]
    assert len({seed for _, seed in asked}) == 5
    for pairs in (None, 0, 101):
        with pytest.raises(SettingsError, match="between 1 and 100"):
            questions.with_seeds(["a"], pairs)


def test_the_exam_is_shown_without_a_word_about_which_is_which(store, session, adapter):
    made = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS)
    for pair in made.pairs[:2]:
        two = [store.add_image(make_image(store, session.id)).id for _ in range(2)]
        store.set_exam_pictures(pair.id, *two)
    shown = page_state(StoreSnapshot(store))
    assert set(shown["exam"]["pairs"][0]) == {"id", "prompt", "left", "right"}
    assert shown["exam"]["drawing"] == "2 of 4 pairs drawn. The painter is starting."
    assert shown["result"] is None
    first = store.exam(made.id).pairs[0]
    store.answer_exam("a", first.id, "left")
    after = page_state(StoreSnapshot(store))["exam"]
    assert [pair["id"] for pair in after["pairs"]] == [made.pairs[1].id]


def test_an_exam_that_is_drawn_says_what_it_waits_for(store, session, adapter):
    store.add_exam(session.id, adapter.id, 0.8, QUESTIONS)

    def drawing() -> str:
        return page_state(StoreSnapshot(store))["exam"]["drawing"]

    status = WorkerStatus(1, "sampling", "Drawing a pair.", "cpu", time.time())
    store.set_worker_status(status)
    assert drawing() == "0 of 4 pairs drawn. Waiting for the painter: drawing pairs."
    job = store.claim_job()
    store.update_job(job.id, message="Drawing pair 1 of 4, about 20 s left")
    assert drawing() == "0 of 4 pairs drawn. Drawing pair 1 of 4, about 20 s left."
    store.cancel_job(job.id)
    assert drawing() == "0 of 4 pairs drawn."


def test_few_pairs_prove_nothing(store, session, adapter):
    made = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS[:3])
    for pair in made.pairs:
        two = [store.add_image(make_image(store, session.id)).id for _ in range(2)]
        store.set_exam_pictures(pair.id, *two)
        store.answer_exam(f"a-{pair.id}", pair.id, pair.tuned_side)
    result = page_state(StoreSnapshot(store))["result"]
    assert result["sentence"] == "You chose the tuned model in 3 of 3, 100% (44–100)."
    assert "not more than chance" in result["meaning"]
    assert best_strength(StoreSnapshot(store), adapter.id) is None


@pytest.mark.parametrize(
    ("tally", "strength", "best", "said"),
    [
        (
            Tally(18, 2),
            0.8,
            0.8,
            "the tuned model, and chance does not explain it. Strength 0.8 is",
        ),
        (Tally(10, 10), 1, None, "not more than chance"),
        (Tally(2, 18), 1, None, "prefer the base model: a lower strength"),
        (Tally(0, 0, 20), 1, None, "not more than chance"),
        (Tally(18, 2), -0.5, -0.5, "You prefer your taste turned round, and chance does not"),
        (Tally(2, 18), -1, None, "prefer the base model: a positive strength"),
    ],
)
def test_what_a_result_means_is_said(tally, strength, best, said):
    assert said in meaning(tally, strength, best)
