"""The counts that are kept in step, against a plain recount, for any order of actions."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from studio.settings import SamplingSettings, SessionSettings
from studio.store import (
    Consistency,
    PickCounts,
    Store,
    StoreError,
    export_session,
    import_session,
)
from tests.support.factories import discard, make_grid, make_pair
from tests.support.work import steps_of

KINDS = [
    {},
    {"sampling": SamplingSettings(seed=3, shared_noise=False)},  # may share a round with the first
    {"sampling": SamplingSettings(steps=5)},
    {"base_hash": "other"},
]


def recount(store: Store, session_id: str) -> PickCounts:
    """The counts as their descriptions in `rows` define them, from all picks that hold."""
    picked = store.picked_pairs(session_id)
    answers: dict[str, list] = {}
    for one in picked:
        answers.setdefault(one.pair.question_id, []).append(one)
    said = [{one.pick.choice for one in answer} for answer in answers.values()]
    decided = [
        one for one in picked if one.pick.choice in ("left", "right") and one.pair.repeat_of is None
    ]
    order = {pair.id: n for n, pair in enumerate(all_pairs(store, session_id))}
    new = set()
    if decided:
        newest = max(decided, key=lambda one: order[one.pair.id]).pair.left
        learnable = {
            one.pick.id
            for one in decided
            if one.pair.left.base_hash == newest.base_hash
            and one.pair.left.sampling.may_share_a_round_with(newest.sampling)
        }
        last = store.rounds(session_id)[-1:]
        used = {id_ for one in last for id_ in one.train_pick_ids + one.held_out_pick_ids}
        for answer in answers.values():
            if used & {one.pick.id for one in answer}:
                used |= {one.pick.id for one in answer}
        new = learnable - used
    return PickCounts(
        total=len(answers),
        usable=len(decided),
        ties=said.count({"tie"}),
        both_bad=said.count({"both_bad"}),
        skipped=said.count({"skip"}),
        new=len(new),
    )


def all_pairs(store: Store, session_id: str) -> list:
    """Every pair that was answered or waits, in the order in which it was added."""
    from studio.store.questions import read_pair, select_pairs
    from studio.store.schema import pairs

    with store.reading() as connection:
        query = select_pairs().where(pairs.c.session_id == session_id).order_by(pairs.c.seq)
        return [read_pair(row) for row in connection.execute(query)]


def retest(store: Store, session_id: str) -> Consistency:
    picked = [one for one in store.picked_pairs(session_id) if one.pick.choice in ("left", "right")]
    chosen = {one.pair.id: one.chosen.id for one in picked}
    again = [one for one in picked if one.pair.repeat_of in chosen]
    alone = [one.pick.choice for one in picked if one.pair.grid_id is None]
    return Consistency(
        repeated=len(again),
        agreed=sum(chosen[one.pair.repeat_of] == one.chosen.id for one in again),
        picked=len(alone),
        left=alone.count("left"),
    )


class Counting(RuleBasedStateMachine):
    """Two stores on one home, as the web process and the worker have them."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.home = Path(self.folder.name)
        self.store, self.other = Store.open(self.home), Store.open(self.home)
        training = replace(SessionSettings().training, held_out_fraction=0.3)
        self.sessions = [self.store.create_session("A", SessionSettings(training=training)).id]
        self.number = 0

    def teardown(self) -> None:
        self.store.close()
        self.other.close()
        self.folder.cleanup()

    def id(self) -> str:
        self.number += 1
        return f"id{self.number}"

    def questions(self, session_id: str) -> list[str]:
        return list(dict.fromkeys(p.question_id for p in all_pairs(self.store, session_id)))

    @rule(data=st.data(), kind=st.sampled_from(KINDS), size=st.sampled_from([2, 2, 2, 3]))
    def add_a_question(self, data: st.DataObject, kind: dict, size: int) -> None:
        session_id = data.draw(st.sampled_from(self.sessions))
        if size == 2:
            make_pair(self.store, session_id, **kind)
        else:
            make_grid(self.store, session_id, size, **kind)

    @rule(
        data=st.data(),
        choice=st.sampled_from(["left", "left", "right", "tie", "both_bad", "skip"]),
        ranked=st.integers(1, 3),
    )
    def answer(self, data: st.DataObject, choice: str, ranked: int) -> None:
        session_id = data.draw(st.sampled_from(self.sessions))
        asked = self.questions(session_id)
        if not asked:
            return
        id_ = data.draw(st.sampled_from(asked))
        if self.store.pair(id_).grid_id is None:
            self.store.add_answer(self.id(), id_, choice)
        elif choice in ("left", "right"):
            [grid] = [q for q in self.of(session_id) if q[0].question_id == id_]
            images = list(dict.fromkeys(i.id for p in grid for i in (p.left, p.right)))
            ranking = images[-ranked:] if choice == "left" else images[:ranked]
            self.store.add_answer(self.id(), id_, "ranked", ranking=ranking)
        else:
            self.store.add_answer(self.id(), id_, choice)

    def of(self, session_id: str) -> list[list]:
        grouped: dict[str, list] = {}
        for pair in all_pairs(self.store, session_id):
            grouped.setdefault(pair.question_id, []).append(pair)
        return list(grouped.values())

    @rule(data=st.data())
    def answer_all_that_waits(self, data: st.DataObject) -> None:
        session_id = data.draw(st.sampled_from(self.sessions))
        for question in self.store.waiting(session_id, 100):
            if len(question.pairs) == 1:
                side = data.draw(st.sampled_from(["left", "right"]))
                self.store.add_answer(self.id(), question.id, side)

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        self.store.undo_pick(self.id(), data.draw(st.sampled_from(self.sessions)))

    @rule(data=st.data(), kind=st.sampled_from(KINDS))
    def many_pairs(self, data: st.DataObject, kind: dict) -> None:
        session_id = data.draw(st.sampled_from(self.sessions))
        for number in range(6):
            pair = make_pair(self.store, session_id, **kind)
            self.store.add_answer(self.id(), pair.id, "left" if number % 3 else "right")

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        self.store.ask_again(data.draw(st.sampled_from(self.sessions)))

    @rule(data=st.data(), ends=st.booleans())
    def round(self, data: st.DataObject, ends: bool) -> None:
        try:
            made = self.other.request_round(data.draw(st.sampled_from(self.sessions)))
        except StoreError:
            return
        if ends:
            self.other.update_round(made.id, state="stopped")

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        discard(self.store, data.draw(st.sampled_from(self.sessions)))

    @precondition(lambda self: len(self.sessions) < 3)
    @rule(data=st.data())
    def import_an_archive(self, data: st.DataObject) -> None:
        path = self.home / f"{self.id()}.zip"
        export_session(self.store, data.draw(st.sampled_from(self.sessions)), path)
        self.sessions.append(import_session(self.other, path).id)

    @rule()
    def restart(self) -> None:
        self.other.close()
        self.other = Store.open(self.home)

    @invariant()
    def they_equal_a_recount(self) -> None:
        for store in (self.store, self.other):
            for session_id in self.sessions:
                assert store.pick_counts(session_id) == recount(store, session_id)
                assert store.consistency(session_id) == retest(store, session_id)


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_what_is_rolled_back_is_not_counted(store, session, add_pairs):
    [pair] = add_pairs(1)
    assert store.pick_counts(session.id).total == 0
    with contextlib.suppress(KeyError), store.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO picks (id, pair_id, choice, much_better, created_at_s) "
            f"VALUES ('x', '{pair.id}', 'left', 0, 1)"
        )
        raise KeyError
    assert store.pick_counts(session.id).total == 0
    store.add_answer("y", pair.id, "tie")
    assert store.pick_counts(session.id) == PickCounts(total=1, ties=1)


def test_an_error_while_reading_loses_no_count(store, session):
    """SQLite is interrupted after so many of its instructions, at the next look it is not."""
    for total, most in enumerate(range(1, 400, 7), start=1):
        store.add_answer(f"p{most}", make_pair(store, session.id).id, "left")
        steps = 0

        def interrupt(most: int = most) -> bool:
            nonlocal steps
            steps += 1
            return steps > most

        interrupted = connections(store)
        for connection in interrupted:
            connection.set_progress_handler(interrupt, 1)
        with contextlib.suppress(sa.exc.OperationalError):
            store.pick_counts(session.id)
        for connection in interrupted:
            # The pool closes a connection whose rollback was interrupted, too.
            with contextlib.suppress(sqlite3.ProgrammingError):
                connection.set_progress_handler(None, 0)
        assert store.pick_counts(session.id).new == total


def test_an_answer_costs_the_same_after_many_as_after_few(store, session):
    """Counted in instructions, of Python and of SQLite: no clock says whether it grows."""

    def cost(picks: int) -> tuple[int, int]:
        made = store.create_session(str(picks), SessionSettings(prompts=("a",)))
        for number in range(picks):
            pair = make_pair(store, made.id)
            store.add_answer(f"{picks}-{number}", pair.id, "left" if number % 3 else "right")
        store.ask_again(made.id)
        waiting = [make_pair(store, made.id).id for _ in range(3)]
        store.pick_counts(made.id)  # reads all of them, once a process
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        def answer() -> None:
            store.add_answer(f"last-{picks}", waiting[1], "right")
            store.waiting(made.id, 64)
            store.pick_counts(made.id)
            store.consistency(made.id)
            store.due_session()

        for connection in connections(store):
            connection.set_progress_handler(count, 1)
        answered = steps_of(answer)
        for connection in connections(store):
            connection.set_progress_handler(None, 0)
        return answered, steps

    few, many = cost(20), cost(400)
    assert few[1] > 100
    assert many[0] < 1.1 * few[0]
    assert many[1] < 1.1 * few[1]


def connections(store: Store) -> list:
    """SQLite's own connection objects behind the store, of which a thread uses one at a time."""
    with store.reading() as connection:
        return [connection.connection.driver_connection]


def test_an_answer_tells_which_answer_it_replaced(store, session, add_pairs):
    [pair] = add_pairs(1)
    first = store.add_answer("one", pair.id, "left", reason="colour")
    assert (first.answer.id, first.replaced) == ("one", None)
    second = store.add_answer("two", pair.id, "right")
    assert (second.answer.pick.choice, second.replaced) == ("right", first.answer)
    assert store.add_answer("two", pair.id, "right") == second  # its response was lost
    assert store.add_answer("one", pair.id, "left") == first
    store.undo_pick("undo", session.id)
    assert store.add_answer("three", pair.id, "tie").replaced is None  # it was withdrawn before
    grid = make_grid(store, session.id, 3)
    best = grid.images[0].id
    before = store.add_answer("g", grid.id, "ranked", ranking=[best])
    assert before.answer.ranking == (best,)
    assert store.add_answer("h", grid.id, "tie").replaced == before.answer


def test_a_pair_is_not_ranked(store, session, add_pairs):
    [pair] = add_pairs(1)
    for choice in ("ranked", "", None):
        with pytest.raises(StoreError, match="An answer to a pair is one of left, right"):
            store.add_answer("one", pair.id, choice)
    assert store.pick_counts(session.id) == PickCounts()
