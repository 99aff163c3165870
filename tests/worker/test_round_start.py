"""What a round takes from the store at its beginning, with a real (tiny) model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.engine import training as training_module
from studio.engine import trajectory
from studio.files import ADAPTER_FILE
from studio.lora.format import from_peft
from studio.lora.tools import Lora, resize, summed
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Adapter, Round, Session, Store
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.train import other_tastes
from studio.worker.loop import Worker
from tests.support.factories import finish, pick
from tests.support.workers import learned

SHORT = TrainingSettings(rank=2, updates_base=4, updates_per_pick=0)


@pytest.fixture
def settings(tiny_model: Path) -> SessionSettings:
    return SessionSettings(
        base_model=str(tiny_model),
        prompts=("a cat", "a dog", "a fish"),
        sampling=SamplingSettings(steps=3, width_px=64, height_px=64, seed=3),
        training=SHORT,
        live=False,
        queue_target=8,
    )


def drawn(store: Store, worker: Worker, settings: SessionSettings) -> Session:
    """The open session, with its pairs drawn."""
    session = store.create_session("Open", settings)
    store.set_last_session(session.id)
    while worker.work():
        pass
    return session


def taste(store: Store, settings: SessionSettings, name: str, seed: int) -> Adapter:
    training = replace(SHORT, rank=2 + seed, seed=seed)
    return learned(store, replace(settings, training=training), name, training)


def begin(store: Store, worker: Worker, session: Session, **training: object) -> Round:
    """The round with these settings, before its first update."""
    wanted = replace(session.settings, training=replace(SHORT, **training))
    store.update_settings(session.id, wanted)
    round_ = store.request_round(session.id)
    assert worker.rounds.begin()
    return store.round(round_.id)


def end(store: Store, worker: Worker, round_: Round) -> Round:
    while worker.work() and store.round(round_.id).finished_at_s is None:
        pass
    return store.round(round_.id)


def adapter_bytes(store: Store, session: Session) -> bytes:
    return (store.adapter_path(store.adapters(session.id)[-1]) / ADAPTER_FILE).read_bytes()


class TestFavouritesAlone:
    def test_each_stands_against_what_was_shown_beside_it(self, store, worker, settings):
        session = drawn(store, worker, settings)
        pairs = store.waiting_pairs(session.id, 100)[:4]
        starred = [pair.left for pair in pairs] + [pairs[3].right]
        for image in starred:
            store.set_favourite(image.id, True)
        round_ = begin(store, worker, session)
        batch = worker.rounds.active.training.pairs
        finals = {
            image.id: trajectory.load(store.trajectory_path(image)).latents[-1]
            for pair in pairs
            for image in (pair.left, pair.right)
        }
        # of the last pair both have a star: each stands alone
        expected = [(pair.left, pair.right) for pair in pairs[:3]]
        of_two = batch.of_two
        assert len(of_two) == 3
        assert batch.counts.alone.tolist() == [False] * 3 + [True] * 2
        for pair, (chosen, rejected) in zip(of_two, expected, strict=True):
            assert torch.equal(batch.latents[batch.chosen[pair], -1], finals[chosen.id])
            assert torch.equal(batch.latents[batch.rejected[pair], -1], finals[rejected.id])
        assert end(store, worker, round_).state == "done"

    def test_stopped_and_gone_on_with_it_ends_the_same(self, store, worker, settings, home):
        session = drawn(store, worker, settings)
        for pair in store.waiting_pairs(session.id, 100)[:4]:
            store.set_favourite(pair.left.id, True)
        store.close()
        shutil.copytree(home, f"{home}-copy")
        with_pause = Store.open(Path(f"{home}-copy"))
        store = Store.open(home)
        one, other = Worker(store, "cpu"), Worker(with_pause, "cpu")
        end(store, one, begin(store, one, session))
        round_ = begin(with_pause, other, session)
        while with_pause.round(round_.id).updates_done < 2:
            other.work()
        other.rounds.put_down()
        # a star that comes meanwhile is none of this round
        late = with_pause.waiting_pairs(session.id, 100)[0].right
        with_pause.set_favourite(late.id, True)
        assert end(with_pause, Worker(with_pause, "cpu"), round_).state == "done"
        assert adapter_bytes(store, session) == adapter_bytes(with_pause, session)


class TestBeside:
    def test_the_chosen_round_is_beside_it_and_can_be_chosen_before_the_first_round(
        self, store, worker, settings
    ):
        session = drawn(store, worker, settings)
        assert other_tastes.choices(StoreSnapshot(store)) == [("None", "")]
        blue = taste(store, settings, "Blue", 1)
        assert other_tastes.choices(StoreSnapshot(store)) == [
            ("None", ""),
            ("Blue · round 1", blue.id),
        ]
        pick(store, store.waiting_pairs(session.id, 100))
        round_ = begin(store, worker, session, beside=blue.id, beside_share=0.3)
        _, state = worker.rounds.active.training.beside
        kept = load_file(store.adapter_path(blue) / ADAPTER_FILE)
        assert all(torch.equal(state[name], value) for name, value in kept.items())
        assert end(store, worker, round_).state == "done"

    @pytest.mark.parametrize("gone", ["unknown", "deleted", "another model"])
    def test_one_that_is_gone_is_said_and_what_to_do(self, store, worker, settings, gone):
        session = drawn(store, worker, settings)
        blue = taste(store, settings, "Blue", 1)
        pick(store, store.waiting_pairs(session.id, 100))
        id_ = "nothing" if gone == "unknown" else blue.id
        if gone == "deleted":
            store.delete_session(blue.session_id)
        if gone == "another model":
            _, foreign = finish(
                store, blue.session_id, store.request_round(blue.session_id), base_hash="other"
            )
            id_ = foreign.id
        round_ = begin(store, worker, session, beside=id_)
        assert round_.state == "failed"
        words = {"unknown": "does not exist", "deleted": "was deleted", "another model": "another"}
        assert words[gone] in round_.message
        assert "Choose another one" in round_.message
        chosen = other_tastes.choices(StoreSnapshot(store))[-1]
        assert chosen == ("A round that is gone, or of another model", id_)


class TestFromTastes:
    @pytest.fixture
    def session(self, store: Store, worker: Worker, settings: SessionSettings) -> Session:
        session = drawn(store, worker, replace(settings, queue_target=12))
        self.tastes = [taste(store, settings, *one) for one in (("Blue", 1), ("Warm", 2))]
        pick(store, store.waiting_pairs(session.id, 100))
        return session

    def test_it_begins_with_the_mixture_that_the_picks_point_to(
        self, store, worker, session, monkeypatch
    ):
        asked = []

        def half(margins: torch.Tensor) -> torch.Tensor:
            asked.append(margins)
            return torch.tensor([0.5, 0.25])

        monkeypatch.setattr(training_module, "mixture", half)
        round_ = begin(store, worker, session, from_tastes=True, alpha=3.0)
        [margins] = asked
        assert margins.shape == (len(round_.train_pick_ids), 2)
        assert margins.any()
        assert worker.rounds.active.notes == ("It began from “Warm” at 50 %, “Blue” at 25 %.",)
        terms = [
            (name, part, weight)
            for adapter, weight in zip(self.tastes, (0.25, 0.5), strict=True)
            for name, part in worker.renderer.adapter_parts(adapter).items()
        ]
        nearest, _ = resize(Lora("diffusers", summed(terms), {}), 2)
        state = worker.rounds.active.training.denoiser.adapters.state()
        found = from_peft(state, 2, 3.0)
        for name, part in nearest.parts.items():
            torch.testing.assert_close(
                found[name].change(), part.change(), rtol=1e-3, atol=1e-5, msg=name
            )
        assert "Warm" in end(store, worker, round_).message

    def test_stopped_and_gone_on_with_it_ends_the_same(
        self, store, worker, session, home, monkeypatch
    ):
        # the picks of this test point to neither of the two, whose changes are random
        weights = torch.tensor([0.5, 0.25])
        monkeypatch.setattr(training_module, "mixture", lambda margins: weights)
        store.close()
        shutil.copytree(home, f"{home}-copy")
        with_pause = Store.open(Path(f"{home}-copy"))
        store = Store.open(home)
        one, other = Worker(store, "cpu"), Worker(with_pause, "cpu")
        end(store, one, begin(store, one, session, from_tastes=True))
        round_ = begin(with_pause, other, session, from_tastes=True)
        assert other.rounds.active.notes
        while with_pause.round(round_.id).updates_done < 2:
            other.work()
        other.rounds.put_down()
        # a taste that comes meanwhile is none that it began with
        taste(with_pause, session.settings, "Late", 3)
        assert end(with_pause, Worker(with_pause, "cpu"), round_).state == "done"
        assert adapter_bytes(store, session) == adapter_bytes(with_pause, session)

    def test_with_few_picks_or_no_other_taste_it_begins_untrained(self, store, worker, settings):
        session = drawn(store, worker, settings)
        pairs = store.waiting_pairs(session.id, 100)
        pick(store, pairs[:5])
        taste(store, settings, "Blue", 1)
        begin(store, worker, session, from_tastes=True)
        active = worker.rounds.active
        assert active.notes == ()
        ups = [v for n, v in active.training.denoiser.adapters.state().items() if "lora_B" in n]
        assert not any(value.any() for value in ups)
