"""The Train tab: the dial, the round, the strip and the evidence."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pytest

from studio.settings import (
    OBJECTIVES,
    SessionSettings,
    TrainingSettings,
)
from studio.store import (
    Consistency,
    Session,
    Store,
    WorkerStatus,
)
from studio.store.status import RoundProgress
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.train import evidence, learning, round_card, strip, verdict
from tests.support.factories import finish, make_adapter, make_image, make_pair


def test_the_strength_dial_sets_how_far_a_round_goes_and_reads_it_back():
    for name in learning.SHIFTS:
        settings = learning.with_strength(SessionSettings(), name)
        assert learning.strength_of(settings.training) == name
    gentle, strong = (learning.with_strength(SessionSettings(), n) for n in ("Gentle", "Strong"))
    assert gentle.training.target_shift < strong.training.target_shift
    assert gentle.training.beta == strong.training.beta


def test_the_strength_dial_sets_beta_where_there_is_no_target_shift():
    published = SessionSettings(training=OBJECTIVES["d3po"])
    gentle, strong = (learning.with_strength(published, n) for n in ("Gentle", "Strong"))
    assert gentle.training.beta > strong.training.beta  # beta is what holds it back
    assert gentle.training.target_shift is strong.training.target_shift is None


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_another_way_of_learning_is_taken_whole_but_for_what_is_kept(objective):
    kept = {"rank": 4, "alpha": 2.0, "count_strength": True, "lone_pictures": True}
    kept |= {"keep_to_prompt": 1.0, "orders": "rank", "from_tastes": True}
    kept |= {"beside": "adapter", "beside_share": 0.3}
    assert set(kept) == set(learning.KEPT)
    changed = learning.with_objective(SessionSettings(training=TrainingSettings(**kept)), objective)
    assert changed.training == replace(OBJECTIVES[objective], **kept)
    assert objective in learning.OBJECTIVE_WORDS


def test_the_dial_ends_at_very_gentle():
    settings = SessionSettings()
    for name in ("Gentle", "Very gentle"):
        assert learning.can_be_gentler(settings)
        settings = learning.more_gently(settings)
        assert learning.strength_of(settings.training) == name
    assert not learning.can_be_gentler(settings)


def test_the_strip_has_a_row_for_the_base_and_every_round(store: Store, session: Session):
    store.set_last_session(session.id)
    for _ in range(6):
        pair = make_pair(store, session.id)
        store.add_answer(f"pick{pair.id}", pair.id, "left")
    round_ = store.request_round(session.id)
    store.claim_round()
    store.update_round(round_.id, state="failed", message="It <broke>.")
    shown = strip.strip_of_rounds(StoreSnapshot(store))
    assert "Base model" in shown
    assert "Round 1" in shown
    assert "It &lt;broke&gt;." in shown
    assert "could not be finished" in round_card.round_card(StoreSnapshot(store))


def test_a_round_that_is_being_checked_shows_its_pictures_as_they_come(
    store: Store, session: Session, add_pairs
):
    store.set_last_session(session.id)
    for number, pair in enumerate(add_pairs(4)):
        store.add_answer(f"pick{number}", pair.id, "left")
    round_ = store.request_round(session.id)
    store.claim_round()
    adapter = make_adapter(session.id, round_)
    store.keep_adapter(round_.id, adapter)
    [prompt, *_] = session.settings.shown_prompts
    image = store.add_image(
        make_image(store, session.id, purpose="preview", prompt=prompt, adapter_id=adapter.id)
    )
    shown = strip.strip_of_rounds(StoreSnapshot(store))
    assert image.id in shown
    assert "being checked" in shown
    assert f"data-adapter='{adapter.id}'" not in shown  # it is not judged yet
    assert store.adapters(session.id) == []
    at = RoundProgress(round_.id, "Drawing test pictures, 2 of 12", 0.8, 61.0)
    store.set_worker_status(WorkerStatus(1, "training", "", "cpu", time.time(), at))
    card = round_card.round_card(StoreSnapshot(store))
    assert "has learned from 4 picks" in card
    assert "Drawing test pictures, 2 of 12, about 1 min left." in card
    assert "Stop keeps what it learned" in card
    assert "aria-valuenow='80'" in card
    store.stop_round(round_.id)
    store.finish_round(round_.id, adapter, "Done. You stopped it.")
    assert [one.id for one in store.adapters(session.id)] == [adapter.id]
    assert "You stopped it." in round_card.round_card(StoreSnapshot(store))


def test_a_round_that_ran_short_of_memory_says_so_while_it_runs_and_when_it_is_done(
    store: Store, session: Session, add_pairs
):
    for number, pair in enumerate(add_pairs(4)):
        store.add_answer(f"pick{number}", pair.id, "left")
    round_ = store.request_round(session.id)
    store.claim_round()
    note = "The memory ran out at update 2."
    store.update_round(round_.id, message=note)
    assert note in round_card.round_card(StoreSnapshot(store))
    store.update_round(round_.id, state="done", message=f"Done. {note}")
    assert note in round_card.round_card(StoreSnapshot(store))
    assert "Done." not in round_card.round_card(StoreSnapshot(store))


def test_it_says_how_many_lone_pictures_a_round_learns_from(
    store: Store, session: Session, add_pairs
):
    pairs = add_pairs(4)
    for number, pair in enumerate(pairs):
        store.add_answer(f"pick{number}", pair.id, "both_bad")
    for pair in pairs[:3]:
        store.set_favourite(pair.left.id, True)
    assert learning.lone_sentence(StoreSnapshot(store)) == ""
    training = replace(session.settings.training, lone_pictures=True)
    store.update_settings(session.id, replace(session.settings, training=training))
    assert learning.lone_sentence(StoreSnapshot(store)) == (
        "It takes 4 favourites and 4 bad pictures; so far there are 3 favourites and 5 bad "
        "pictures. Until then a round learns from your other picks alone."
    )
    assert "choose a few on the Prefer tab" in round_card.round_card(StoreSnapshot(store))
    store.set_favourite(pairs[3].right.id, True)
    sentence = "The next round learns from 4 favourites and 4 bad pictures too."
    assert learning.lone_sentence(StoreSnapshot(store)) == sentence
    assert "4 favourites and 4 bad pictures to learn" in round_card.round_card(StoreSnapshot(store))
    store.request_round(session.id)
    assert "from 4 picks and 4 favourites" in round_card.round_card(StoreSnapshot(store))


def test_it_offers_a_round_from_favourites_where_there_are_no_picks(
    store: Store, session: Session, add_pairs
):
    pairs = add_pairs(8)
    for pair in pairs[:3]:
        store.set_favourite(pair.left.id, True)
    assert "choose a few on the Prefer tab" in round_card.round_card(StoreSnapshot(store))
    store.set_favourite(pairs[3].left.id, True)
    assert "learn from your 4 favourites" in round_card.round_card(StoreSnapshot(store))
    round_ = store.request_round(session.id)
    assert "learns from 4 favourites," in round_card.round_card(StoreSnapshot(store))
    finish(store, session.id, round_)
    assert "Everything you picked is learned" in round_card.round_card(StoreSnapshot(store))
    store.set_favourite(pairs[4].left.id, True)
    assert "learn from your 5 favourites" in round_card.round_card(StoreSnapshot(store))
    for number, pair in enumerate(pairs[4:]):
        store.add_answer(f"pick{number}", pair.id, "left")
    assert "4 new picks" in round_card.round_card(StoreSnapshot(store))


def test_the_consistency_of_picks_is_explained():
    said = dict(evidence.consistency_lines(Consistency(repeated=4, agreed=3, picked=24, left=20)))
    assert "You chose the same again in 3 of 4 pairs shown twice" in said
    assert "look at the left one first?" in said["You chose the left picture in 83 % of 24 picks"]
    even = dict(evidence.consistency_lines(Consistency(repeated=0, agreed=0, picked=24, left=11)))
    assert "you do not favour one" in even["You chose the right picture in 54 % of 24 picks"]
    assert evidence.consistency_lines(Consistency(0, 0, 5, 5)) == []


# --- the verdict ---------------------------------------------------------------------------------


def learn(store: Store, session: Session, agreement: float, held_back: str = "") -> None:
    """A round over all picks, asked at its end about those kept out."""
    round_ = store.request_round(session.id)
    store.claim_round()
    store.add_metric(round_.id, 1, {"loss": 0.6, "held_out_agreement": 0.0})
    store.add_metric(round_.id, 2, {"loss": 0.5, "held_out_agreement": agreement})
    adapter = make_adapter(session.id, round_)
    store.finish_round(round_.id, adapter, held_back or "Done.", held_back=bool(held_back))


def pick_new(store: Store, session: Session, number: int) -> None:
    for _ in range(number):
        store.add_answer(uuid.uuid4().hex, make_pair(store, session.id).id, "left")


def test_the_verdict_counts_down_to_the_first_round(store: Store) -> None:
    session = store.create_session("A", SessionSettings(prompts=("a lion",), round_every=16))
    store.set_last_session(session.id)
    pick_new(store, session, 5)
    card = verdict.verdict_card(StoreSnapshot(store))
    assert "<b>Pick more:</b>" in card
    assert "11 more" in card
    assert "Not asked" in card
    assert "<circle" not in card


def test_the_verdict_shows_the_guesses_of_each_round_at_its_end(store: Store) -> None:
    session = store.create_session("A", SessionSettings(prompts=("a lion",), round_every=16))
    store.set_last_session(session.id)
    pick_new(store, session, 30)
    learn(store, session, 1.0)
    snapshot = StoreSnapshot(store)
    assert snapshot.agreements == [(1, 6, 6)]
    card = verdict.verdict_card(snapshot)
    assert "<b>Go on:</b> It guesses 6 of 6 (61–100 %)" in card
    assert "aria-label='Picks kept out of the lessons: round 1 guesses 6 of 6" in card
    pick_new(store, session, 10)
    learn(store, session, 0.25, held_back="Held back, because of mush.")
    card = verdict.verdict_card(StoreSnapshot(store))
    assert "<b>Stop:</b> Held back, because of mush." in card
    assert card.count("<circle") == 2


def test_the_verdict_asks_the_exams_of_the_adapter_in_use(store: Store) -> None:
    session = store.create_session("A", SessionSettings(prompts=("a lion",)))
    store.set_last_session(session.id)
    pick_new(store, session, 20)
    learn(store, session, 0.5)
    current = StoreSnapshot(store).current_adapter
    for strength, choose in ((0.5, "base"), (1.0, "tuned")):
        exam = store.add_exam(session.id, current.id, strength, [("a lion", n) for n in range(10)])
        for pair in exam.pairs:
            two = [
                store.add_image(
                    make_image(store, session.id, purpose="exam", adapter_id=adapter_id)
                )
                for adapter_id in (None, current.id)
            ]
            store.set_exam_pictures(pair.id, two[0].id, two[1].id)
            other = {"left": "right", "right": "left"}[pair.tuned_side]
            answer = pair.tuned_side if choose == "tuned" else other
            store.answer_exam(uuid.uuid4().hex, pair.id, answer)
    assert "blind you chose it in 10 of 10" in verdict.verdict_card(StoreSnapshot(store))
    pick_new(store, session, 10)
    learn(store, session, 0.5)  # another adapter, which no exam has asked about
    assert "blind" not in verdict.verdict_card(StoreSnapshot(store))
