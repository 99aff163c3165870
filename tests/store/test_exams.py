"""Blind exams: what is asked, what is kept, what is said of the result."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from studio.statistics import Tally, exam_sentence, recommended_strength, tallies, wilson
from studio.store import Store, StoreError, export_session, import_session
from tests.support.factories import QUESTIONS, finish, make_image, open_at, pick


@pytest.fixture
def adapter(store, session, add_pairs):
    pick(store, add_pairs(4))
    return finish(store, session.id, store.request_round(session.id))[1]


@pytest.fixture
def exam(store, session, adapter):
    """Four pairs, all drawn."""
    made = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS)
    for pair in made.pairs:
        two = [
            store.add_image(make_image(store, session.id, purpose="exam", adapter_id=adapter_id))
            for adapter_id in (None, adapter.id)
        ]
        store.set_exam_pictures(pair.id, two[0].id, two[1].id)
    return store.exam(made.id)


def other(side):
    return "right" if side == "left" else "left"


# --- the store -----------------------------------------------------------------------------------


def test_an_exam_asks_in_order_with_the_sides_shuffled_and_even(store, session, adapter):
    seen = set()
    for _ in range(40):
        exam = store.add_exam(session.id, adapter.id, 1.0, QUESTIONS)
        assert [(pair.prompt, pair.seed) for pair in exam.pairs] == QUESTIONS
        sides = tuple(pair.tuned_side for pair in exam.pairs)
        assert Counter(sides) == {"left": 2, "right": 2}
        seen.add(sides)
        store.leave_exam(exam.id)
    assert len(seen) > 1
    assert store.exams(session.id, adapter.id)[0].id == exam.id


def test_the_pictures_are_where_the_sides_say(exam):
    for pair in exam.pairs:
        shown = dict(zip(("left", "right"), pair.sides, strict=True))
        assert shown[pair.tuned_side] == pair.tuned_image_id
        assert shown[other(pair.tuned_side)] == pair.base_image_id


def test_an_answer_sent_twice_counts_once(store, exam):
    first = exam.pairs[0]
    for _ in range(2):
        store.answer_exam("a", first.id, "left")
    assert store.exam(exam.id).answered == 1
    store.take_back_answer("z", exam.id)
    store.answer_exam("a", first.id, "left")  # it was on its way for a long time
    store.take_back_answer("z", exam.id)
    assert store.exam(exam.id).answered == 0
    store.answer_exam("b", first.id, "tie")
    assert store.exam(exam.id).pairs[0].choice == "tie"


def test_an_answer_knows_the_one_that_it_replaced(store, exam):
    first, second = exam.pairs[:2]
    store.answer_exam("a", first.id, "left")
    store.answer_exam("b", second.id, "right")
    for _ in range(2):  # lost on the way, and sent again
        store.answer_exam("c", first.id, "tie")
        before = [store.exam_answer_before(answer_id) for answer_id in "abc"]
        assert before == [None, None, "left"]
    store.take_back_answer("z", exam.id)
    store.answer_exam("d", first.id, "right")
    assert store.exam_answer_before("d") is None


def test_answers_are_taken_back_one_by_one_from_the_newest(store, exam):
    for number, pair in enumerate(exam.pairs[:3]):
        store.answer_exam(f"a{number}", pair.id, "left")
    assert store.take_back_answer("z1", exam.id).answered == 2
    assert [pair.choice for pair in store.take_back_answer("z2", exam.id).pairs] == [
        "left",
        None,
        None,
        None,
    ]
    store.take_back_answer("z3", exam.id)
    assert store.take_back_answer("z4", exam.id).answered == 0


def test_the_result_stands_and_survives_reopening(store, session, exam, home):
    choices = [exam.pairs[0].tuned_side, exam.pairs[1].tuned_side, "tie"]
    for pair, choice in zip(exam.pairs, choices, strict=False):
        store.answer_exam(f"a-{pair.id}", pair.id, choice)
    last = exam.pairs[3]
    assert store.exam(exam.id).is_open
    done = store.answer_exam("last", last.id, other(last.tuned_side))
    assert (done.tuned_wins, done.base_wins, done.ties) == (2, 1, 1)
    assert done.is_finished
    assert not done.is_open
    assert store.answer_exam("last", last.id, "tie") == done
    with pytest.raises(StoreError, match="is over"):
        store.answer_exam("more", last.id, last.tuned_side)
    with pytest.raises(StoreError, match="is over"):
        store.take_back_answer("z", exam.id)
    assert store.leave_exam(exam.id) == done
    store.close()
    after = Store.open(home)
    assert after.exams(session.id) == [done]
    after.close()


def test_an_exam_that_is_left_takes_no_answers_and_its_job_ends(store, session, exam):
    [job] = store.jobs(session.id, "exam")
    assert store.leave_exam(exam.id).left_at_s
    assert store.job(job.id).state == "cancelled"
    with pytest.raises(StoreError, match="was left"):
        store.answer_exam("a", exam.pairs[0].id, "left")
    assert store.draw_exam(exam.id) is None


def test_what_cannot_be_examined_is_a_sentence(store, session, adapter):
    for questions in ([], QUESTIONS * 51):
        with pytest.raises(StoreError, match="between 1 and 200"):
            store.add_exam(session.id, adapter.id, 1.0, questions)
    elsewhere = store.create_session("Other", session.settings)
    with pytest.raises(StoreError, match="does not belong"):
        store.add_exam(elsewhere.id, adapter.id, 1.0, QUESTIONS)
    exam = store.add_exam(session.id, adapter.id, 1.0, QUESTIONS)
    with pytest.raises(StoreError, match="is open already"):
        store.add_exam(session.id, adapter.id, 1.0, QUESTIONS)
    with pytest.raises(StoreError, match="not drawn yet"):
        store.answer_exam("a", exam.pairs[0].id, "left")
    with pytest.raises(StoreError, match="not part of an exam"):
        store.answer_exam("a", "nonsense", "left")
    with pytest.raises(StoreError, match="is one of"):
        store.answer_exam("a", exam.pairs[0].id, "both_bad")


def test_the_missing_pictures_are_asked_for_once(store, session, adapter):
    exam = store.add_exam(session.id, adapter.id, 1.0, QUESTIONS)
    assert store.draw_exam(exam.id) is None
    store.update_job(store.claim_job().id, state="failed", message="The disk was full.")
    assert store.draw_exam(exam.id).payload == {"exam_id": exam.id}
    assert store.draw_exam(exam.id) is None


def test_what_was_trained_on_is_known(store, session, add_pairs):
    """Of all rounds so far; what was held out, or picked later, was not."""
    pick(store, add_pairs(4, prompt="a red apple"), prefix="first")
    round_ = store.request_round(session.id)
    _, adapter = finish(store, session.id, round_)
    pick(store, add_pairs(4, prompt="a lion"), prefix="second")
    assert store.trained_prompts(adapter.id) == {"a red apple"}
    _, later = finish(store, session.id, store.request_round(session.id))
    assert store.trained_prompts(later.id) == {"a red apple", "a lion"}


def test_a_store_from_before_the_exams_opens(home):
    open_at(home, "0002")
    with sqlite3.connect(home / "studio.sqlite") as connection:
        connection.execute(
            "INSERT INTO sessions (id, name, settings, updated_at_s, created_at_s) "
            "VALUES ('s', 'Old', '{}', 1, 1)"
        )
    connection.close()
    store = Store.open(home)
    assert store.session("s").name == "Old"
    assert store.exams("s") == []
    store.close()


# --- the figures ---------------------------------------------------------------------------------


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_that_of_a_statistics_library(counts):
    wins, total = counts
    expected = binomtest(wins, total).proportion_ci(0.95, method="wilson")
    assert wilson(wins, total) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(
    ("tally", "said"),
    [
        (Tally(16, 4), "You chose the tuned model in 16 of 20, 80% (58–92)."),
        (
            Tally(14, 3, 3),
            "You chose the tuned model in 14 of 17, 82% (59–94). "
            "In 3 more you saw no difference: left out.",
        ),
        (Tally(0, 0, 20), "You saw no difference in any of the 20 pairs."),
    ],
)
def test_the_sentence(tally, said):
    assert exam_sentence(tally) == said


def finished(exam, strength, tuned, base, ties=0):
    """An exam as the store would give it."""
    pairs = [
        replace(exam.pairs[0], choice=choice)
        for choice, number in (
            (exam.pairs[0].tuned_side, tuned),
            (other(exam.pairs[0].tuned_side), base),
            ("tie", ties),
        )
        for _ in range(number)
    ]
    return replace(exam, strength=strength, pairs=tuple(pairs), created_at_s=time.time())


def test_exams_at_one_strength_count_together(exam):
    found = tallies(
        [finished(exam, 1.0, 5, 3, 2), exam, finished(exam, 0.5, 4, 6), finished(exam, 1.0, 8, 2)]
    )
    assert list(found.items()) == [(0.5, Tally(4, 6)), (1.0, Tally(13, 5, 2))]


def test_the_strength_that_is_surest_is_recommended():
    assert recommended_strength({}) is None
    assert recommended_strength({1.0: Tally(11, 9), 0.5: Tally(0, 0, 20)}) is None
    assert recommended_strength({0.5: Tally(15, 5), 1.0: Tally(18, 2), 1.5: Tally(5, 0)}) == 1.0
    assert recommended_strength({0.5: Tally(18, 2), 1.0: Tally(18, 2)}) == 0.5
    assert recommended_strength({-1.0: Tally(18, 2), 0.5: Tally(18, 2)}) == 0.5
    assert recommended_strength({-0.5: Tally(18, 2), 0.5: Tally(5, 15)}) == -0.5


# --- of mixes ------------------------------------------------------------------------------------


def test_an_exam_of_a_mix_keeps_what_was_mixed_and_says_nothing_of_the_round(
    store, session, adapter, tmp_path
):
    parts = [{"adapter_id": adapter.id, "strength": 0.5}, {"path": "//server/a.safetensors"}]
    mix = {"name": "Round 1 at 0.5 + a at 1", "parts": parts, "hash": ""}
    exam = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS, mix)
    store.set_exam_hash(exam.id, "abc")
    exam = store.exam(exam.id)
    assert exam.mix == {**mix, "hash": "abc"}
    assert store.exams(session.id) == [exam]
    assert store.exams(session.id, adapter.id) == []
    store.leave_exam(exam.id)
    alone = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS)
    assert alone.mix is None
    assert store.exams(session.id, adapter.id) == [alone]
    with pytest.raises(StoreError, match="no mix"):
        store.set_exam_hash(alone.id, "abc")
    export_session(store, session.id, tmp_path / "session.zip")
    there = Store.open(tmp_path / "there")
    made = import_session(there, tmp_path / "session.zip")
    [_, mixed] = there.exams(made.id)
    [known] = there.adapters(made.id)
    assert [part.get("adapter_id") for part in mixed.mix["parts"]] == [known.id, None]
    assert mixed.mix["parts"][1]["path"] == "a.safetensors"  # of no other machine
    there.close()
