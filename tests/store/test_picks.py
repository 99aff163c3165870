"""Picks and undo against a model in plain Python, for any order of actions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from studio.settings import CHOICES, SessionSettings
from studio.store import PickCounts, Store
from tests.support.factories import discard, make_pair


class Picking(RuleBasedStateMachine):
    """The model: pairs in order, and every answer ever given, in order."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")  # thousands of commits; what survives a kill is tested elsewhere
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.store = Store.open(self.folder.name)
        self.session_id = self.store.create_session("A", SessionSettings()).id
        self.other_id = self.store.create_session("B", SessionSettings()).id
        other = make_pair(self.store, self.other_id)
        self.store.add_answer("other", other.id, "left")
        self.pairs: list[str] = []
        self.stale: set[str] = set()
        self.answers: list[tuple[str, str, str | None]] = []  # id, pair, choice

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def holding(self) -> dict[str, tuple[int, str, str | None]]:
        """The last answer of each pair: when, pick id, choice."""
        return {pair: (n, id_, choice) for n, (id_, pair, choice) in enumerate(self.answers)}

    def waiting(self) -> list[str]:
        last = self.holding()
        shown = [pair for pair in self.pairs if pair not in self.stale]
        withdrawn = [pair for pair in shown if pair in last and last[pair][2] is None]
        withdrawn.sort(key=lambda pair: -last[pair][0])
        return withdrawn + [pair for pair in shown if pair not in last]

    def picked(self) -> list[tuple[str, str, str]]:
        held = sorted((*answer, pair) for pair, answer in self.holding().items())
        return [(id_, pair, choice) for _, id_, choice, pair in held if choice is not None]

    @rule(number=st.integers(1, 3))
    def add_pairs(self, number: int) -> None:
        self.pairs += [make_pair(self.store, self.session_id).id for _ in range(number)]

    @precondition(lambda self: self.waiting())
    @rule(choice=st.sampled_from(CHOICES), ahead=st.integers(0, 2))
    def pick_a_waiting_pair(self, choice: str, ahead: int) -> None:
        waiting = self.waiting()
        self._pick(waiting[min(ahead, len(waiting) - 1)], choice)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), choice=st.sampled_from(CHOICES))
    def pick_any_pair_even_again(self, data: st.DataObject, choice: str) -> None:
        self._pick(data.draw(st.sampled_from(self.pairs)), choice)

    def _pick(self, pair: str, choice: str) -> None:
        id_ = f"pick{len(self.answers)}"
        assert self.store.add_answer(id_, pair, choice).answer.pick.choice == choice
        self.answers.append((id_, pair, choice))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def a_request_arrives_again(self, data: st.DataObject) -> None:
        id_, pair, choice = data.draw(st.sampled_from(self.answers))
        if choice is None:
            assert self.store.undo_pick(id_, self.session_id).id == pair
        else:
            assert self.store.add_answer(id_, pair, choice).answer.id == id_

    @rule()
    def undo(self) -> None:
        id_ = f"undo{len(self.answers)}"
        picked = self.picked()
        pair = self.store.undo_pick(id_, self.session_id)
        if not picked:
            assert pair is None
            return
        assert pair.id == picked[-1][1]
        self.answers.append((id_, pair.id, None))
        self.stale.discard(pair.id)
        assert self.store.waiting_pairs(self.session_id, 1)[0].id == pair.id

    @rule(keep=st.integers(0, 2))
    def discard(self, keep: int) -> None:
        self.stale |= set(self.waiting()[keep:])
        discard(self.store, self.session_id, keep=keep)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store.open(Path(self.folder.name))

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        waiting, picked = self.waiting(), self.picked()
        assert [pair.id for pair in self.store.waiting_pairs(self.session_id, 1000)] == waiting
        assert [pair.id for pair in self.store.waiting_pairs(self.session_id, 2)] == waiting[:2]
        assert self.store.waiting_count(self.session_id) == len(waiting)
        found = self.store.picked_pairs(self.session_id)
        assert [(one.pick.id, one.pair.id, one.pick.choice) for one in found] == picked
        choices = [choice for *_, choice in picked]
        usable = choices.count("left") + choices.count("right")
        assert self.store.pick_counts(self.session_id) == PickCounts(
            total=len(picked),
            usable=usable,
            ties=choices.count("tie"),
            both_bad=choices.count("both_bad"),
            skipped=choices.count("skip"),
            new=usable,
        )
        assert self.store.pick_counts(self.other_id).total == 1


TestPicking = Picking.TestCase
TestPicking.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
