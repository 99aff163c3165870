"""The worker's pieces of work, one by one, with a real (tiny) model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from studio import models
from studio.engine import evaluation, ranking, sampling, trajectory
from studio.engine import training as training_module
from studio.engine.trajectory import ABSENT
from studio.files import ADAPTER_FILE
from studio.lora.format import LoraError
from studio.maths.scalar_adam import ScalarAdam
from studio.models import Denoiser
from studio.models import denoiser as denoiser_module
from studio.pictures import comfyui, infotext
from studio.settings import SamplingSettings, SessionSettings, SettingsError, TrainingSettings
from studio.store import Image, Session, Store, StoreError, StoreFull
from studio.worker import rounds as rounds_module
from studio.worker import wanted as wanted_module
from studio.worker.errors import WorkerError
from studio.worker.exporting import same_picture
from studio.worker.loop import Worker
from studio.worker.pair_queue import nth_draw
from studio.worker.progress import MOST_SHARE
from studio.worker.renderer import preview_seed
from studio.worker.wanted import Cancelled
from tests.support.factories import discard
from tests.support.workers import finish_all

PROMPTS = ("a cat", "a dog", "a fish")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The machine is shared, and the model is tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_settings(tiny_model: Path) -> SessionSettings:
    return SessionSettings(
        base_model=str(tiny_model),
        prompts=PROMPTS,
        sampling=SamplingSettings(steps=4, width_px=64, height_px=64, seed=3),
        training=TrainingSettings(rank=2, updates_base=6, updates_per_pick=0),
        round_every=8,
        live=False,
        queue_target=6,
    )


@pytest.fixture
def settings(tiny_model: Path) -> SessionSettings:
    return tiny_settings(tiny_model)


@pytest.fixture(scope="module")
def picked_home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Six picks, and no round yet."""
    home = tmp_path_factory.mktemp("picked") / "home"
    with contextlib.closing(Store.open(home)) as store:
        session = store.create_session("Tiny", tiny_settings(tiny_model))
        store.set_last_session(session.id)
        finish_all(Worker(store, "cpu"))
        pick_all(store, session)
    return home


@pytest.fixture(scope="module")
def learned_home(tmp_path_factory: pytest.TempPathFactory, picked_home: Path) -> Path:
    """The same after a round, whose pictures are not drawn yet."""
    home = tmp_path_factory.mktemp("learned") / "home"
    shutil.copytree(picked_home, home)
    with contextlib.closing(Store.open(home)) as store:
        session_id = store.last_session_id()
        store.request_round(session_id)
        work_until(Worker(store, "cpu"), lambda: bool(store.adapters(session_id)))
    return home


@pytest.fixture
def session(store: Store, settings: SessionSettings) -> Session:
    """The session that is open, a new one where the home has none."""
    if not store.last_session_id():
        store.set_last_session(store.create_session("Tiny", settings).id)
    return store.session(store.last_session_id())


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """New, or a copy of one with picks or with a round, where the test asks for them."""
    home = tmp_path / "home"
    for name, source in (("adapter", "learned_home"), ("picked", "picked_home")):
        if name in request.fixturenames:
            return shutil.copytree(request.getfixturevalue(source), home)
    return home


@pytest.fixture
def picked(store: Store, session: Session) -> None:
    """Six picks, and no round yet: see `home`."""


def pick_all(store: Store, session: Session) -> None:
    """Say something about every waiting pair, the same for the same pairs."""
    before = store.pick_counts(session.id).total
    for number, pair in enumerate(store.waiting_pairs(session.id, 100), start=before):
        store.add_answer(f"pick{number}", pair.id, ("left", "right", "left")[number % 3])


def say_more(
    store: Store, session: Session, worker: Worker, settings: SessionSettings
) -> list[Image]:
    """Stars on four pictures, "neither" of two pairs, and a round that learns from it all; returns
    the pictures with a star and the others."""
    training = replace(settings.training, count_strength=True, lone_pictures=True)
    store.update_settings(session.id, replace(settings, training=training))
    finish_all(worker)
    good, bad = store.waiting_pairs(session.id, 4)[:2], store.waiting_pairs(session.id, 4)[2:]
    for image in (side for pair in good for side in (pair.left, pair.right)):
        store.set_favourite(image.id, True)
    for number, pair in enumerate(bad):
        store.add_answer(f"neither{number}", pair.id, "both_bad")
    return [side for pair in (*good, *bad) for side in (pair.left, pair.right)]


def work_until(worker: Worker, reached: Callable[[], bool]) -> None:
    for _ in range(1000):
        if reached():
            return
        assert worker.work(), "there is no work left, and it never came to that"
    raise AssertionError("it never came to that")


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def adapter_bytes(store: Store, session: Session, number: int = -1) -> bytes:
    folder = store.adapter_path(store.adapters(session.id)[number])
    return (folder / "adapter_model.safetensors").read_bytes()


class TestPairs:
    def test_the_queue_is_filled_evenly_with_pictures_that_are_there(self, store, session, worker):
        finish_all(worker)
        pairs = store.waiting_pairs(session.id, 100)
        assert Counter(pair.prompt for pair in pairs) == dict.fromkeys(PROMPTS, 2)
        for image in (side for pair in pairs for side in (pair.left, pair.right)):
            with PIL.Image.open(store.image_path(image)) as picture:
                assert picture.size == (64, 64)
            chain = trajectory.load(store.trajectory_path(image))
            assert chain.latents.shape == (5, 4, 8, 8)
            assert (chain.prompt, chain.settings) == (image.prompt, image.sampling)
            assert chain.base_hash == image.base_hash
        pictures = {store.image_path(pair.left).read_bytes() for pair in pairs}
        assert len(pictures) == len(pairs)
        assert not worker.work()

    def test_the_same_settings_draw_the_same_pairs(self, store, session, worker, settings):
        finish_all(worker)
        again = store.create_session("Again", settings)
        store.set_last_session(again.id)
        finish_all(worker)
        first, second = (
            [
                (pair.prompt, store.image_path(pair.left).read_bytes())
                for pair in store.waiting_pairs(one.id, 100)
            ]
            for one in (session, again)
        )
        assert first == second

    def test_without_a_session_or_a_prompt_there_is_nothing_to_do(self, store, worker):
        assert not worker.work()
        session = store.create_session("Empty", SessionSettings())
        store.set_last_session(session.id)
        assert not worker.work()

    def test_what_the_artist_no_longer_wants_is_not_shown(
        self, store, session, worker, settings, monkeypatch
    ):
        sample_groups = sampling.sample_groups

        def change_and_sample(*arguments):  # the artist does so while the first pair is drawn
            store.update_settings(session.id, replace(settings, prompts=("a fox",)))
            return sample_groups(*arguments)

        monkeypatch.setattr(sampling, "sample_groups", change_and_sample)
        finish_all(worker)
        waiting = store.waiting_pairs(session.id, 100)
        assert [pair.prompt for pair in waiting] == ["a fox"] * 6

    def test_alternatives_are_chosen_pair_by_pair_and_learned_as_drawn(
        self, store, session, worker, settings
    ):
        store.wildcards_path.mkdir()
        (store.wildcards_path / "animal.txt").write_text("wolf\nmoth\n", encoding="utf-8")
        prompts = ("a {red|blue} __animal__",)
        store.update_settings(session.id, replace(settings, prompts=prompts, queue_target=12))
        finish_all(worker)
        waiting = store.waiting_pairs(session.id, 100)
        words = [pair.prompt.split() for pair in waiting]
        assert [set(some) for some in zip(*words, strict=True)] == [
            {"a"},
            {"red", "blue"},
            {"wolf", "moth"},
        ]
        for pair in waiting:
            for image in (pair.left, pair.right):
                assert trajectory.load(store.trajectory_path(image)).prompt == pair.prompt
        # the fixed pictures go by the line of the list, so that a strip can follow it
        [preview] = store.images(session.id, "preview")
        assert preview.prompt == prompts[0]

    def test_more_pictures_at_a_time_are_drawn_as_a_grid_and_learned_from_once_each(
        self, store, session, worker, settings
    ):
        store.update_settings(session.id, replace(settings, pictures=4, queue_target=2))
        finish_all(worker)
        asked, _ = store.waiting(session.id)
        chains = [trajectory.load(store.trajectory_path(image)) for image in asked.images]
        assert len(chains) == 4
        assert all(torch.equal(one.latents[0], chains[0].latents[0]) for one in chains)
        ends = {one.latents[-1].numpy().tobytes() for one in chains}
        assert len(ends) == 4
        store.add_answer("a", asked.id, "ranked", ranking=[i.id for i in asked.images])
        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        learned = worker.rounds.active.training.pairs
        assert (len(learned), *learned.latents.shape[:2]) == (6, 4, 1)  # the final latents alone
        assert [len(group) for group in learned.groups()] == [6]
        work_until(worker, lambda: store.round(round_.id).state == "done")

    def test_a_list_that_is_gone_is_said_and_waited_for(self, store, session, worker, settings):
        store.update_settings(session.id, replace(settings, prompts=("a __ghost__",)))
        with pytest.raises(SettingsError, match=r"write ghost\.txt"):
            finish_all(worker)
        store.wildcards_path.mkdir()
        (store.wildcards_path / "ghost.txt").write_text("friendly ghost", encoding="utf-8")
        finish_all(worker)
        assert store.waiting_pairs(session.id, 1)[0].prompt == "a friendly ghost"

    def test_prompts_take_turns_and_seeds_differ(self):
        settings = SessionSettings(prompts=PROMPTS)
        draws = [nth_draw(settings, number) for number in range(300)]
        for turn in range(0, 300, 3):
            assert {prompt for prompt, _ in draws[turn : turn + 3]} == set(PROMPTS)
        assert len({seed for _, seed in draws}) == 300
        assert len({tuple(p for p, _ in draws[turn : turn + 3]) for turn in range(0, 300, 3)}) == 6
        assert draws != [nth_draw(replace(settings, prompts=PROMPTS[::-1]), n) for n in range(300)]


@pytest.mark.usefixtures("picked")
class TestRounds:
    def test_a_round_ends_in_an_adapter_and_its_pictures(self, store, session, worker):
        round_ = store.request_round(session.id)
        work_until(worker, lambda: bool(store.adapters(session.id)))
        [adapter] = store.adapters(session.id)
        assert adapter.sha256 == hashlib.sha256(adapter_bytes(store, session)).hexdigest()
        assert adapter.picks == 6
        config = json.loads((store.adapter_path(adapter) / "adapter_config.json").read_text())
        assert config["r"] == 2
        assert any(
            bool(value.any())
            for value in load_file(
                store.adapter_path(adapter) / "adapter_model.safetensors"
            ).values()
        )
        assert store.session(session.id).current_adapter_id == adapter.id
        assert store.round(round_.id).state == "done"
        assert not store.checkpoint_path(round_).exists()
        assert [one.update for one in store.metrics(round_.id)] == [1, 2, 3, 4, 5, 6]
        assert store.metrics(round_.id)[0].values["loss"] == pytest.approx(0.6931, abs=1e-3)
        assert "held_out_agreement" in store.metrics(round_.id)[-1].values
        finish_all(worker)
        pairs = store.waiting_pairs(session.id, 100)
        assert len(pairs) == 6
        assert {pair.adapter_id for pair in pairs} == {None}
        base, tuned = (
            {one.prompt: one for one in store.images(session.id, "preview", adapter_id=id_)}
            for id_ in (None, adapter.id)
        )
        assert set(base) == set(tuned) == set(PROMPTS)
        for prompt in PROMPTS:
            assert base[prompt].seed == tuned[prompt].seed == preview_seed(3, prompt)
            before, after = (store.image_path(one[prompt]).read_bytes() for one in (base, tuned))
            assert before != after

    @pytest.mark.parametrize("counts", [False, True])
    def test_how_sure_the_artist_was_counts_if_that_is_wanted(
        self, store, session, worker, settings, counts
    ):
        training = replace(settings.training, count_strength=counts)
        store.update_settings(session.id, replace(settings, training=training))
        third = store.picked_pairs(session.id)[2]  # the others are "better"
        store.add_answer("sure", third.pair.id, third.pick.choice, much_better=True)
        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        inner = worker.rounds.active.training.pairs.counts.inner
        expected = [1.0 if id_ == "sure" else 0.5 for id_ in round_.train_pick_ids]
        assert (None if inner is None else inner.tolist()) == (expected if counts else None)
        assert "sure" in round_.train_pick_ids
        work_until(worker, lambda: store.round(round_.id).state == "done")

    def test_pictures_are_looked_at_where_they_are_marked(self, store, session, worker):
        """A picture without marks of its own, where the other one is."""
        one, both, *_ = (
            two for two in store.picked_pairs(session.id) if two.pick.choice in ("left", "right")
        )
        top, left = "f" * 128 + "0" * 128, "ffff0000" * 32
        marks = {one.pair.left.id: top}
        store.add_answer("one", one.pair.id, one.pick.choice, marks=marks)
        marks = {both.pair.left.id: top, both.pair.right.id: left}
        store.add_answer("both", both.pair.id, "right", marks=marks)
        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        pairs = worker.rounds.active.training.pairs
        up, beside, ones = (torch.zeros(pairs.latents.shape[-2:]) for _ in range(3))
        up[: len(up) // 2], beside[:, : beside.shape[1] // 2], ones[:] = 1, 1, 1
        sides = {"one": (up, up), "both": (beside, up)}  # the chosen one first
        for number, pick_id in enumerate(round_.train_pick_ids):
            for side, expected in zip(
                (pairs.chosen, pairs.rejected), sides.get(pick_id, (ones, ones)), strict=True
            ):
                assert torch.equal(pairs.places[side[number], 0], expected)
        assert set(sides) & set(round_.train_pick_ids)
        held_out = worker.rounds.active.training.held_out
        assert held_out is None or held_out.batch.places is None
        work_until(worker, lambda: store.round(round_.id).state == "done")

    def test_favourites_and_bad_pictures_stand_alone(self, store, session, worker, settings):
        pictures = say_more(store, session, worker, settings)
        store.trajectory_path(pictures[0]).unlink()  # of a favourite
        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        pairs = worker.rounds.active.training.pairs
        picks = len(round_.train_pick_ids) - 2
        alone = [False] * picks + [True] * 7
        assert pairs.counts.alone.tolist() == alone
        assert pairs.counts.inner.tolist() == [0.5] * picks + [1] * 7
        assert (pairs.chosen == ABSENT).tolist() == [False] * (picks + 3) + [True] * 4
        assert (pairs.rejected == ABSENT).tolist() == [False] * picks + [True] * 3 + [False] * 4
        weights = pairs.counts.outer[picks:].tolist()
        assert weights == pytest.approx([7 / 6] * 3 + [7 / 8] * 4)
        for image, row in zip(pictures[1:4], range(picks, picks + 3), strict=True):
            final = trajectory.load(store.trajectory_path(image)).latents[-1]
            assert torch.equal(pairs.latents[pairs.chosen[row], -1], final)
        work_until(worker, lambda: store.round(round_.id).state == "done")
        assert store.round(round_.id).updates_done == 6

    def test_the_newest_lora_draws_the_pairs_where_that_is_wanted(self, store, session, worker):
        store.update_settings(session.id, replace(session.settings, pairs_by="newest"))
        store.request_round(session.id)
        finish_all(worker)
        [adapter] = store.adapters(session.id)
        assert store.waiting_pairs(session.id, 100)[-1].adapter_id == adapter.id

    def test_the_artist_is_kept_in_pairs_while_it_trains(self, store, session, worker):
        round_ = store.request_round(session.id)
        assert store.waiting_count(session.id) == 0
        seen = []
        while store.round(round_.id).state != "done":
            assert worker.work()
            seen.append(store.waiting_count(session.id))
        assert 0 < max(seen) <= 2

    def test_pairs_drawn_meanwhile_know_nothing_of_what_is_being_learned(
        self, store, session, worker, settings
    ):
        again = store.create_session("Again", replace(settings, queue_target=8))
        training = replace(settings.training, updates_base=50, learning_rate=0.1)
        store.update_settings(session.id, replace(settings, training=training))
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.waiting_count(session.id) == 2)
        assert store.round(round_.id).state == "running"
        store.set_last_session(again.id)
        store.stop_round(round_.id)
        finish_all(worker)
        meanwhile, without = (
            [store.image_path(pair.right).read_bytes() for pair in store.waiting_pairs(id_, 8)]
            for id_ in (session.id, again.id)
        )
        assert meanwhile == without[6:]

    def test_a_live_session_starts_its_round_by_itself(self, store, session, worker, settings):
        store.update_settings(session.id, replace(settings, live=True))
        finish_all(worker)
        assert not store.rounds(session.id)  # 6 picks are fewer than 8
        pick_all(store, session)
        finish_all(worker)
        assert [one.state for one in store.rounds(session.id)] == ["done"]

    @pytest.mark.parametrize("says_more", [False, True])
    def test_paused_and_resumed_it_ends_as_if_it_had_not_been(
        self, store, session, worker, home, settings, says_more
    ):
        if says_more:
            say_more(store, session, worker, settings)
        copy = Path(f"{home}-copy")
        store.close()
        shutil.copytree(home, copy)
        other = Store.open(copy)
        other.request_round(session.id)
        finish_all(Worker(other, "cpu"))

        round_ = store.request_round(session.id)
        for done in (1, 3, 4):
            work_until(worker, lambda done=done: store.round(round_.id).updates_done >= done)
            if store.pause_round(round_.id).state != "paused":
                break  # a quick machine: it was done before
            worker.work()
            assert store.checkpoint_path(round_).exists()
            assert worker.rounds.active is None
            store.resume_round(round_.id)
        finish_all(worker)
        assert store.round(round_.id).state == "done"
        assert adapter_bytes(store, session) == adapter_bytes(other, session)
        assert bool(store.round(round_.id).favourite_ids) == says_more
        other.close()

    def test_stopped_it_leaves_everything_as_it_was(self, store, session, worker, settings):
        training = replace(settings.training, updates_base=500)
        store.update_settings(session.id, replace(settings, training=training))
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.round(round_.id).updates_done > 0)
        store.stop_round(round_.id)
        finish_all(worker)
        stopped = store.round(round_.id)
        assert stopped.state == "stopped"
        assert stopped.message.startswith("Stopped after")
        assert store.session(session.id).current_adapter_id is None
        assert not store.checkpoint_path(round_).exists()
        assert store.waiting_count(session.id) == 6

    def test_another_model_in_between_changes_nothing(
        self, store, session, worker, settings, tiny_model, tmp_path
    ):
        shutil.copytree(tiny_model, tmp_path / "other")
        training = replace(settings.training, updates_base=500)
        store.update_settings(session.id, replace(settings, training=training))
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.round(round_.id).updates_done > 0)
        other = store.create_session("Other", replace(settings, base_model=str(tmp_path / "other")))
        job = store.add_job(other.id, "preview", {"prompts": ["a cat"], "adapter_id": None})
        assert worker.work()
        assert store.job(job.id).state == "done"
        assert store.round(round_.id).state == "queued"
        done = store.round(round_.id).updates_done
        work_until(worker, lambda: store.round(round_.id).updates_done > done)

    def test_a_round_waits_for_the_room_that_it_needs_and_begins_by_itself(
        self, store, session, worker, monkeypatch
    ):
        round_ = store.request_round(session.id)
        with monkeypatch.context() as full:
            full.setattr("studio.worker.rounds.FILES_OF_A_ROUND", 100_000)
            full.setattr("studio.worker.disk_space.free_bytes", lambda home: 150_000_000)
            for _ in range(5):  # more often than a round may fail
                with pytest.raises(StoreFull, match=r"150 MB are free, and \d+ MB are needed"):
                    worker.rounds.begin()
            assert store.round(round_.id).state == "queued"
            assert store.round(round_.id).message.startswith("Waiting. The disk that holds")
        finish_all(worker)
        assert store.round(round_.id).state == "done"

    def test_a_value_that_is_not_a_number_is_a_sentence_and_no_adapter(
        self, store, session, worker
    ):
        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        with torch.no_grad():
            worker.rounds.active.training.denoiser.adapters.parameters()[1].fill_(float("nan"))
        finish_all(worker)
        assert store.round(round_.id).state == "failed"
        assert "not a number" in store.round(round_.id).message
        assert store.adapters(session.id) == []

    @pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
    def test_never_enough_memory_at_any_phase_is_a_sentence_and_changes_nothing(
        self, store, session, worker, monkeypatch, phase
    ):
        store.request_round(session.id)
        work_until(worker, lambda: bool(store.adapters(session.id)))
        [good] = store.adapters(session.id)
        before = adapter_bytes(store, session)
        store.add_answer("another", store.picked_pairs(session.id)[0].pair.id, "right")
        place, name = {
            "forward": (models.Denoiser, "predict"),
            "backward": (torch.Tensor, "backward"),
            "optimizer": (ScalarAdam, "step"),
        }[phase]
        whole, calls = getattr(place, name), []

        def fails(*arguments, **options):
            calls.append(name)
            if len(calls) > 2:  # not at once: when something has been learned
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            return whole(*arguments, **options)

        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        with monkeypatch.context() as patched:
            patched.setattr(place, name, fails)
            while store.round(round_.id).state == "running":
                worker.rounds.go_on()
        failed = store.round(round_.id)
        assert failed.state == "failed"
        assert "not enough memory" in failed.message
        assert store.adapters(session.id) == [good]
        assert store.session(session.id).current_adapter_id == good.id
        finish_all(worker)  # pairs and pictures are drawn again, from what was good
        assert adapter_bytes(store, session) == before

    def test_a_round_that_runs_out_of_memory_is_finished_with_less_and_says_so(
        self, store, session, worker, home, monkeypatch
    ):
        store.close()
        other = Store.open(shutil.copytree(home, f"{home}-copy"))
        other.request_round(session.id)
        finish_all(Worker(other, "cpu"))
        whole = load_file(other.adapter_path(*other.adapters(session.id)) / ADAPTER_FILE)
        other.close()

        backward, calls = torch.Tensor.backward, []

        def fails_once(*arguments, **options):
            calls.append(1)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            return backward(*arguments, **options)

        monkeypatch.setattr(torch.Tensor, "backward", fails_once)
        round_ = store.request_round(session.id)
        finish_all(worker)
        done = store.round(round_.id)
        assert done.state == "done"
        assert done.message.startswith("Done. The memory ran out at update 2")
        preset = worker.renderer.preset
        assert f"settings for {preset.gb} GB" in done.message
        assert store.worker_status().device == f"cpu, settings for {preset.gb} GB"
        found = load_file(store.adapter_path(*store.adapters(session.id)) / ADAPTER_FILE)
        for name, value in found.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-4)

    def test_weights_that_are_no_numbers_never_become_an_adapter(
        self, store, session, worker, monkeypatch
    ):
        """Weights after a last update that overflows, which no later loss shows."""
        step = ScalarAdam.step

        def overflows(optimizer, *arguments, **options):
            result = step(optimizer, *arguments, **options)
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0, 0] = float("inf")
            return result

        monkeypatch.setattr(ScalarAdam, "step", overflows)
        training = replace(session.settings.training, updates_base=1)
        store.update_settings(session.id, replace(session.settings, training=training))
        round_ = store.request_round(session.id)
        finish_all(worker)
        assert store.round(round_.id).state == "failed"
        assert "not numbers" in store.round(round_.id).message
        assert store.adapters(session.id) == []

    def test_a_broken_file_leaves_its_pick_out(self, store, session, worker):
        images = [one.pair.left for one in store.picked_pairs(session.id)]
        store.trajectory_path(images[0]).write_bytes(b"broken")
        store.trajectory_path(images[1]).unlink()
        round_ = store.request_round(session.id)
        finish_all(worker)
        assert store.round(round_.id).state == "done"
        assert "without 2 of the picks" in store.round(round_.id).message
        assert store.adapters(session.id)[0].picks == 4

    def test_no_file_left_is_a_sentence(self, store, session, worker):
        shutil.rmtree(store.session_path(session.id) / "trajectories")
        round_ = store.request_round(session.id)
        finish_all(worker)
        assert store.round(round_.id).state == "failed"
        assert "files of all picks" in store.round(round_.id).message

    def test_a_damaged_checkpoint_is_set_aside_and_changes_nothing(
        self, store, session, worker, home
    ):
        store.close()
        other = Store.open(shutil.copytree(home, f"{home}-copy"))
        other.request_round(session.id)
        finish_all(Worker(other, "cpu"))

        round_ = store.request_round(session.id)
        work_until(worker, lambda: worker.rounds.active is not None)
        worker.rounds.active.training.step()
        worker.rounds.put_down()
        path = store.checkpoint_path(round_)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1  # one bit: in the weights, where torch notices nothing
        path.write_bytes(content)
        finish_all(worker)
        assert (home / "aside" / path.relative_to(home)).read_bytes() == content
        assert store.round(round_.id).state == "done"
        assert adapter_bytes(store, session) == adapter_bytes(other, session)
        other.close()

    def test_one_wrong_bit_in_a_trajectory_leaves_its_pick_out(self, store, session, worker):
        flip_last_bit(store.trajectory_path(store.picked_pairs(session.id)[0].pair.left))
        round_ = store.request_round(session.id)
        finish_all(worker)
        assert "without 1 of the picks" in store.round(round_.id).message

    def test_an_adapter_with_one_wrong_bit_is_never_drawn_with(self, store, session, worker):
        store.update_settings(session.id, replace(session.settings, pairs_by="newest"))
        store.request_round(session.id)
        work_until(worker, lambda: bool(store.adapters(session.id)))
        [adapter] = store.adapters(session.id)
        discard(store, session.id)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            path = store.adapter_path(adapter) / name
            content = path.read_bytes()
            flip_last_bit(path)
            with pytest.raises(WorkerError, match="missing or damaged"):
                finish_all(worker)
            path.write_bytes(content)
        finish_all(worker)
        assert store.waiting_count(session.id) == 6

    def test_deleting_the_session_ends_its_round(self, store, session, worker, settings):
        training = replace(settings.training, updates_base=500)
        store.update_settings(session.id, replace(settings, training=training))
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.round(round_.id).updates_done > 0)
        store.delete_session(session.id)
        finish_all(worker)
        assert store.round(round_.id).state == "stopped"


@pytest.fixture
def on_starter(store: Store) -> Session:
    """Six picks on the starter model, whose pictures can be told apart from a ruin."""
    settings = SessionSettings(
        prompts=("lion", "owl"),
        sampling=SamplingSettings(steps=6, seed=3),
        training=TrainingSettings(
            updates_base=8, updates_per_pick=0, batch_pairs=4, micro_batch_pairs=4
        ),
        live=False,
        queue_target=6,
    )
    session = store.create_session("Starter", settings)
    store.set_last_session(session.id)
    worker = Worker(store, "cpu")
    work_until(worker, lambda: store.waiting_count(session.id) == 6)
    pick_all(store, session)
    return session


class TestCollapse:
    def test_a_ruined_adapter_is_not_used_and_a_gentle_one_is(self, store, on_starter):
        """A learning rate a hundred times too large, and no reach that would hold it; the round
        after it is as it should be."""
        session, worker = on_starter, Worker(store, "cpu")
        sane = session.settings
        rate = 100 * sane.training.learning_rate
        poison = replace(sane.training, learning_rate=rate, target_shift=None)
        store.update_settings(session.id, replace(sane, training=poison))
        ruined = store.request_round(session.id)
        work_until(worker, lambda: store.round(ruined.id).finished_at_s)
        ruined = store.round(ruined.id)
        assert ruined.state == "held_back"
        assert ruined.message.startswith("Held back, because ")
        assert store.session(session.id).current_adapter_id is None
        [kept] = store.adapters(session.id)
        assert kept.checks["recognised_base"] > kept.checks["recognised"]
        assert len(store.images(session.id, "preview", adapter_id=kept.id)) == 2

        store.update_settings(session.id, sane)
        gentle = store.request_round(session.id)
        work_until(worker, lambda: store.round(gentle.id).finished_at_s)
        assert store.round(gentle.id).state == "done"
        assert store.session(session.id).current_adapter_id == store.adapters(session.id)[1].id

    def test_what_judged_the_round_is_what_the_artist_sees(self, store, session, worker, picked):
        """The picture of a fixed prompt is the one that drawing it again would give."""
        store.request_round(session.id)
        work_until(worker, lambda: store.adapters(session.id))
        [adapter] = store.adapters(session.id)
        assert set(adapter.checks) == {"drift", "diversity", "detail"}
        shown = store.images(session.id, "preview", adapter_id=adapter.id)
        assert {image.prompt for image in shown} == set(PROMPTS)
        for image in shown:
            with PIL.Image.open(store.image_path(image)) as picture:
                pixels = np.asarray(picture).astype(int)
            with worker.renderer.using(adapter.id):
                chains = sampling.sample(
                    worker.renderer.denoiser, [image.prompt], [image.seed], image.sampling
                )
                [again] = sampling.images(worker.renderer.denoiser, chains)
            assert np.abs(np.asarray(again).astype(int) - pixels).max() <= 1

    def test_told_to_end_while_looking_the_round_is_taken_up_again(
        self, store, session, worker, picked, monkeypatch
    ):
        round_ = store.request_round(session.id)
        expand = worker.renderer.expand  # called for each picture that judges the round

        def ended(*arguments):
            worker.stopping.set()
            return expand(*arguments)

        monkeypatch.setattr(worker.renderer, "expand", ended)
        work_until(worker, worker.stopping.is_set)
        worker.rounds.put_down()
        assert store.round(round_.id).state == "queued"
        assert not store.adapters(session.id)
        after = Worker(store, "cpu")
        work_until(after, lambda: store.round(round_.id).state == "done")


class TestOnTheStarter:
    def test_an_exam_and_a_grid_are_drawn_by_the_model_in_the_box(self, store, on_starter):
        session, worker = on_starter, Worker(store, "cpu")
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.round(round_.id).finished_at_s)
        [adapter] = store.adapters(session.id)
        exam = store.add_exam(session.id, adapter.id, 1.0, [("snail", 1), ("anchor", 2)])
        axes = {"prompts": ["snail"], "seeds": [1], "strengths": [0, 1.0]}
        grid = store.add_job(session.id, "grid", {"adapter_ids": [adapter.id], **axes})
        work_until(worker, lambda: store.job(grid.id).state == "done")
        for pair in store.exam(exam.id).pairs:
            two = {
                store.image_path(store.image(image_id)).read_bytes()
                for image_id in (pair.base_image_id, pair.tuned_image_id)
            }
            assert len(two) == 2
        # The grid draws what the exam showed, bit by bit: the same prompt and the same seed.
        first = store.exam(exam.id).pairs[0]
        shown = [first.base_image_id, first.tuned_image_id]
        for one, other in zip(shown, store.job(grid.id).result["image_ids"], strict=True):
            pixels = [store.image_path(store.image(id_)).read_bytes() for id_ in (one, other)]
            assert pixels[0] == pixels[1]


class TestRepeating:
    def test_the_same_picks_make_the_same_adapter(self, store, session, worker, picked):
        for _ in range(2):
            round_ = store.request_round(session.id)
            work_until(worker, lambda r=round_: store.round(r.id).state == "done")
        assert adapter_bytes(store, session, 0) == adapter_bytes(store, session, 1)

    def test_a_pick_taken_back_is_out_of_the_weights(self, store, session, worker, picked):
        """Learning again without a pick is learning as if it had never been made."""
        last = store.picked_pairs(session.id)[-1]
        with_it = store.request_round(session.id)
        assert last.pick.id in with_it.train_pick_ids
        work_until(worker, lambda: store.round(with_it.id).state == "done")
        store.undo_pick("undo", session.id)
        without = store.request_round(session.id)
        work_until(worker, lambda: store.round(without.id).state == "done")
        assert set(with_it.train_pick_ids) - set(without.train_pick_ids) == {last.pick.id}
        assert adapter_bytes(store, session, 0) != adapter_bytes(store, session, 1)

    def test_pairs_come_back_while_the_artist_picks(self, store, session, worker):
        finish_all(worker)
        while store.pick_counts(session.id).total < 10:
            pick_all(store, session)
            finish_all(worker)
        again = [p for p in store.waiting_pairs(session.id, 100) if p.repeat_of]
        assert len(again) == 1
        assert store.image_path(again[0].left).exists()


class TestJobs:
    @pytest.fixture
    def adapter(self, store, session):
        """Of the round in the home."""
        return store.adapters(session.id)[0]

    def do(self, store: Store, worker: Worker, session: Session, kind: str, **payload: object):
        job = store.add_job(session.id, kind, payload)
        assert worker.work()
        return store.job(job.id)

    def test_compare_draws_the_same_seeds_with_both(self, store, session, worker, adapter):
        def compare(strength: float):
            job = self.do(
                store,
                worker,
                session,
                "compare",
                prompts=["a cat", "an owl"],
                seeds=[5, 6],
                adapter_id=adapter.id,
                strength=strength,
            )
            assert (job.state, job.progress) == ("done", 1.0)
            return job.result["cells"]

        def picture(image_id: str) -> bytes:
            return store.image_path(store.image(image_id)).read_bytes()

        full, none = compare(1.0), compare(0.0)
        asked = [("a cat", 5), ("a cat", 6), ("an owl", 5), ("an owl", 6)]
        assert [(cell["prompt"], cell["seed"]) for cell in full] == asked
        for cell in full:
            assert picture(cell["base"]) != picture(cell["tuned"])
        for cell in none:
            assert picture(cell["base"]) == picture(cell["tuned"])
        assert [cell["base"] for cell in full] == [cell["base"] for cell in none]  # drawn once

    def test_a_grid_is_drawn_in_order_and_the_base_once(self, store, session, worker, adapter):
        axes = {"prompts": ["a cat", "an owl"], "seeds": [5], "strengths": [0, 0.5, 1.0]}
        job = self.do(store, worker, session, "grid", adapter_ids=[adapter.id], **axes)
        assert (job.state, job.progress) == ("done", 1.0)
        images = [store.image(image_id) for image_id in job.result["image_ids"]]
        assert [(image.prompt, image.adapter_id, image.strength) for image in images] == [
            (prompt, adapter.id if strength else None, strength or 1.0)
            for prompt in axes["prompts"]
            for strength in axes["strengths"]
        ]
        for three in (images[:3], images[3:]):
            assert len({store.image_path(image).read_bytes() for image in three}) == 3
        before = len(store.images(session.id, "compare"))
        self.do(store, worker, session, "grid", adapter_ids=[adapter.id] * 2, **axes)
        assert len(store.images(session.id, "compare")) == before  # nothing was drawn twice

    def test_the_best_of_many_come_first_and_what_is_drawn_stays_when_it_is_stopped(
        self, store, session, worker, adapter
    ):
        asked = {"prompts": ["a cat"], "adapter_id": adapter.id, "strength": 1.0}
        job = self.do(store, worker, session, "best_of", seeds=[5, 6, 7, 8], **asked)
        assert (job.state, job.progress) == ("done", 1.0)
        images = [store.image(image_id) for image_id in job.result["image_ids"]]
        assert sorted(image.seed for image in images) == [5, 6, 7, 8]
        assert {(one.prompt, one.adapter_id, one.strength) for one in images} == {
            ("a cat", adapter.id, 1.0)
        }
        denoiser = worker.renderer.denoiser
        with worker.renderer.using(adapter.id, 1.0):
            chains = [worker.renderer.drawing(image)[1] for image in images]
            tuned = ranking.scores(denoiser, chains)
        with worker.renderer.using(None):
            rewards = (tuned - ranking.scores(denoiser, chains)).tolist()
        assert rewards == sorted(rewards, reverse=True)
        assert len(set(rewards)) == 4

        before = {one.id for one in store.images(session.id, "compare")}
        job = store.add_job(session.id, "best_of", asked | {"seeds": [5, 9, 10, 11]})
        add, drawn = store.add_image, []

        def add_and_stop(image):  # the artist presses Stop while the second one is new
            drawn.append(image)
            store.cancel_job(job.id)
            return add(image)

        store.add_image = add_and_stop
        worker.jobs.run_next()
        store.add_image = add
        job = store.job(job.id)
        assert job.state == "cancelled"
        assert [image.seed for image in drawn] == [9]  # the first is not drawn twice
        kept = [store.image(image_id).seed for image_id in job.result["image_ids"]]
        assert kept == [5]
        assert {one.id for one in store.images(session.id, "compare")} == before | {drawn[0].id}

    def test_an_exam_is_drawn_pair_by_pair_and_only_once(self, store, session, worker, adapter):
        questions = [("an owl", 5), ("a fox", 6), ("an owl", 7)]
        exam = store.add_exam(session.id, adapter.id, 0.5, questions)
        draw = worker.renderer.draw

        def draw_and_end(wanted):  # the studio is closed while the second pair is drawn
            if wanted.prompt == "a fox":
                worker.stopping.set()
            return draw(wanted)

        worker.renderer.draw = draw_and_end
        worker.jobs.run_next()
        drawn = [pair.is_drawn for pair in store.exam(exam.id).pairs]
        assert drawn == [True, False, False]  # the second is left between two steps
        store.answer_exam("a", exam.pairs[0].id, "left")  # it is asked as soon as it is there
        settings = replace(session.settings.sampling, steps=9)
        store.update_settings(session.id, replace(session.settings, sampling=settings))
        after = Worker(store, "cpu")
        after.jobs.run_next()
        [job] = store.jobs(session.id, "exam")
        assert (job.state, job.progress) == ("done", 1.0)
        for (prompt, seed), pair in zip(questions, store.exam(exam.id).pairs, strict=True):
            base, tuned = store.image(pair.base_image_id), store.image(pair.tuned_image_id)
            for image in (base, tuned):
                assert (image.prompt, image.seed, image.purpose) == (prompt, seed, "exam")
                assert image.sampling == exam.sampling  # as it was begun
            assert (base.adapter_id, tuned.adapter_id) == (None, adapter.id)
            assert tuned.strength == 0.5
            two = {store.image_path(image).read_bytes() for image in (base, tuned)}
            assert len(two) == 2
        assert len(store.images(session.id, "exam")) == 6

    def test_an_exam_on_another_model_is_refused(self, store, session, worker, adapter):
        exam = store.add_exam(session.id, adapter.id, 1.0, [("an owl", 5)])
        worker.renderer.load(session.settings.base).adapters.base_hash = "another"
        worker.jobs.run_next()
        [job] = store.jobs(session.id, "exam")
        assert job.state == "failed"
        assert "another base model" in job.message
        assert not store.exam(exam.id).pairs[0].is_drawn

    def test_what_the_model_has_no_room_for_is_told(self, store, session, worker, settings):
        long = "a cat, " * 100 + "on a mat"
        changed = replace(settings, prompts=("a dog", long))
        session = store.update_settings(session.id, changed)
        job = self.do(store, worker, session, "preview", prompts=["a dog"], adapter_id=None)
        [(prompt, end)] = job.result["unread"].items()
        assert prompt == long
        assert long.endswith(end)
        assert len(long) / 2 < len(end) < len(long)

    def test_the_first_preview_comes_before_the_first_pair(self, store, session, worker):
        discard(store, session.id)
        prompts = ["a cat", "a dog"]
        self.do(store, worker, session, "preview", prompts=prompts, adapter_id=None)
        previews = sorted(one.created_at_s for one in store.images(session.id, "preview"))
        [first, *_] = store.waiting_pairs(session.id)
        assert previews[0] < first.left.created_at_s < previews[1]

    def test_a_cancelled_job_is_left_between_two_pictures(self, store, session, worker):
        job = store.add_job(
            session.id, "preview", {"prompts": ["a cat"] * 3 + ["a dog"], "adapter_id": None}
        )
        draw = worker.renderer.draw

        def draw_and_cancel(image):  # the artist presses Cancel when the first one is there
            drawn = draw(image)
            store.cancel_job(job.id)
            return drawn

        worker.renderer.draw = draw_and_cancel
        worker.jobs.run_next()
        assert store.job(job.id).state == "cancelled"
        assert len(store.images(session.id, "preview")) == 1

    def test_export_writes_files_and_a_row(self, store, session, worker, adapter):
        finish_all(worker)
        job = self.do(
            store,
            worker,
            session,
            "export",
            adapter_id=adapter.id,
            name="My LoRA",
            formats=["kohya"],
            strength=0.8,
            trigger="blue",
        )
        assert job.state == "done", job.message
        [export] = store.exports(session.id)
        assert job.result["export_id"] == export.id
        folder = store.export_path(session.id, export.id)
        assert set(export.files) == {
            "My LoRA.safetensors",
            "My LoRA.json",
            "My LoRA.png",
            "My LoRA-check.png",
        }
        with (
            PIL.Image.open(folder / "My LoRA.png") as drawn,
            PIL.Image.open(folder / "My LoRA-check.png") as from_file,
        ):
            assert "0.0 of 255" in same_picture(folder, from_file, drawn)
        found = export.checks["My LoRA.safetensors: picture"]
        assert found.startswith("loaded by diffusers, it draws what the adapter draws")
        assert all((folder / name).stat().st_size for name in export.files)
        assert len(load_file(folder / "My LoRA.safetensors")) > 0
        beside = json.loads((folder / "My LoRA.json").read_text("utf-8"))
        assert "d3po_studio" not in beside  # no exam was taken

    def test_an_export_goes_to_other_tools_with_its_settings(
        self, store, session, worker, adapter, settings, tmp_path
    ):
        store.update_settings(session.id, replace(settings, prompts=("a [red] {owl}",)))
        job = self.do(
            store,
            worker,
            session,
            "export",
            adapter_id=adapter.id,
            name="Blue",
            formats=["kohya"],
            strength=0.8,
            workflows=True,
        )
        assert job.state == "done", job.message
        [export] = store.exports(session.id)
        folder = store.export_path(session.id, export.id)
        page, nodes, text = (
            (folder / f"Blue-{ending}").read_text("utf-8")
            for ending in ("comfyui.json", "comfyui-api.json", "a1111.txt")
        )
        assert {"Blue-comfyui.json", "Blue-comfyui-api.json", "Blue-a1111.txt"} < set(export.files)
        drawn = settings.sampling
        in_comfyui, in_a1111 = comfyui.read(nodes), infotext.read(text)
        for found in (in_comfyui, in_a1111):
            assert found.loras == (("Blue", 1.0),)
            assert found.seed == preview_seed(drawn.seed, "a [red] {owl}")
            assert (found.steps, found.guidance) == (drawn.steps, drawn.guidance)
            assert (found.width_px, found.height_px) == (drawn.width_px, drawn.height_px)
        assert (in_comfyui.prompt, in_a1111.prompt) == ("a (red:0.9091) owl", "a [red] owl")
        assert (in_a1111.sampler, in_a1111.eta) == ("DDIM", drawn.eta)
        note = export.checks["in ComfyUI and A1111"]
        assert json.loads(page)["nodes"][-1]["widgets_values"] == [note]
        assert "stands for its checkpoint" in note
        assert note.endswith("The picture has strength 1; recommended is 0.8.")
        store.set_lora_folder(str(tmp_path))
        store.send_export(session.id, export.id)
        sent = {path.name for path in tmp_path.iterdir() if path.is_file()}
        assert {name for name in sent if name.startswith("Blue")} == {
            "Blue.safetensors",
            "Blue.json",
            "Blue.png",
        }

    def test_the_picture_of_an_export_leaves_nothing_of_its_prompt_open(
        self, store, session, worker, adapter, settings, monkeypatch
    ):
        store.update_settings(session.id, replace(settings, prompts=("a {red|blue} owl",)))
        sample, drawn = sampling.sample, []

        def sample_and_note(denoiser, texts, *rest, **named):
            drawn.extend(texts)
            return sample(denoiser, texts, *rest, **named)

        monkeypatch.setattr(sampling, "sample", sample_and_note)
        job = self.do(
            store, worker, session, "export", adapter_id=adapter.id, name="x", formats=["kohya"]
        )
        assert job.state == "done", job.message
        assert len(drawn) == 2  # by the adapter and by the file
        assert set(drawn) in ({"a red owl"}, {"a blue owl"})

    def test_an_exam_is_told_in_the_exported_file(self, store, session, worker, adapter):
        for strength, tuned in ((1.0, 3), (0.5, 2)):
            questions = [("an owl", n) for n in range(4)]
            exam = store.add_exam(session.id, adapter.id, strength, questions)
            worker.jobs.run_next()
            for number, pair in enumerate(exam.pairs):
                base_side = "left" if pair.tuned_side == "right" else "right"
                choice = pair.tuned_side if number < tuned else base_side
                store.answer_exam(f"{strength} {number}", pair.id, choice)
        left = store.add_exam(session.id, adapter.id, 2.0, [("an owl", 1)])
        store.leave_exam(left.id)
        wanted = {"adapter_id": adapter.id, "name": "x", "formats": ["kohya", "diffusers"]}
        job = self.do(store, worker, session, "export", strength=1.0, **wanted)
        assert job.state == "done", job.message
        [export] = store.exports(session.id)
        folder = store.export_path(session.id, export.id)
        said = (
            "Chosen blind over the base model: at strength 1 in 3 of 4, 75% (30–95); "
            "at strength 0.5 in 2 of 4, 50% (15–85)."
        )
        beside = json.loads((folder / "x.json").read_text("utf-8"))
        assert said in beside["description"]
        assert beside["d3po_studio"]["exam"] == said
        for name in ("x.safetensors", "x-diffusers.safetensors"):
            with safe_open(folder / name, "pt") as file:
                metadata = file.metadata()
            assert metadata["d3po_studio.exam"] == said
            assert said in metadata["modelspec.description"]
            found = json.loads(metadata["d3po_studio.exams"])
            assert found == beside["d3po_studio"]["exams"]
        assert found[0] == {
            "strength": 0.5,
            "tuned": 2,
            "base": 2,
            "no_difference": 0,
            "low_95": 0.15,
            "high_95": 0.85,
        }

    def test_an_export_for_which_there_is_no_room_is_a_sentence(
        self, store, session, worker, adapter, monkeypatch
    ):
        monkeypatch.setattr("studio.worker.exporting.free_bytes", lambda home: 100_000_000)
        payload = {"adapter_id": adapter.id, "name": "Blue", "formats": ["kohya"]}
        job = store.add_job(session.id, "export", payload)
        worker.jobs.run_next()
        assert store.job(job.id).state == "failed"
        assert "has no room for it" in store.job(job.id).message
        assert store.exports(session.id) == []

    def test_export_of_a_damaged_adapter_is_a_sentence(self, store, session, worker, adapter):
        (store.adapter_path(adapter) / "adapter_model.safetensors").write_bytes(b"broken")
        job = self.do(
            store, worker, session, "export", adapter_id=adapter.id, name="x", formats=["kohya"]
        )
        assert job.state == "failed"
        assert "missing or damaged" in job.message
        assert store.exports(session.id) == []

    def test_inspect(self, store, session, worker, tiny_model, tmp_path):
        found = self.do(store, worker, session, "inspect", path=str(tiny_model))
        assert (found.state, found.result["size_px"]) == ("done", 64)
        known = store.known_model(str(tiny_model))
        assert (known.family, known.size_px, known.base_hash) == ("sd1", 64, "")
        worker.renderer.load((str(tiny_model), None))
        assert store.known_model(str(tiny_model)) == replace(
            known, base_hash=worker.renderer.denoiser.base_hash
        )
        lost = self.do(store, worker, session, "inspect", path=str(tmp_path / "nowhere"))
        assert lost.state == "failed"
        assert "There is no model at" in lost.message

    def test_an_unexpected_failure_names_the_log(self, store, session, worker):
        def fails(wanted):
            raise ZeroDivisionError

        worker.renderer.draw = fails
        job = self.do(store, worker, session, "preview", prompts=["a cat"], adapter_id=None)
        assert job.state == "failed"
        assert "worker.log" in job.message
        assert "Traceback" not in job.message

    def test_what_fails_does_not_keep_the_rest_from_being_done(
        self, store, session, worker, settings, tmp_path, tiny_model
    ):
        missing = replace(settings, base_model=str(tmp_path / "gone"))
        store.update_settings(session.id, missing)
        with pytest.raises(Exception, match="There is no model at"):
            worker.work()
        job = self.do(store, worker, session, "inspect", path=str(tiny_model))
        assert job.state == "done"
        store.update_settings(session.id, settings)
        finish_all(worker)
        assert store.waiting_count(session.id) == 6


def test_a_pick_whose_inversion_is_another_now_is_left_out_of_a_round(
    store, session, worker, settings, tiny_model, tmp_path
):
    model = shutil.copytree(tiny_model, tmp_path / "models" / "tiny")
    folder = tmp_path / "embeddings"
    folder.mkdir()
    save_file({"emb_params": torch.ones(2, 16)}, folder / "mine.safetensors")
    prompts = ("a cat", "a (mine:1.2) cat")
    store.update_settings(
        session.id, replace(settings, base_model=str(model), prompts=prompts, queue_target=4)
    )
    finish_all(worker)
    pairs = store.waiting_pairs(session.id, 10)
    companions = {pair.prompt: pair.left.companions for pair in pairs}
    assert companions["a cat"] == {}
    assert companions[prompts[1]]["TI hashes"].startswith("mine: ")
    pick_all(store, session)
    save_file({"emb_params": torch.zeros(2, 16)}, folder / "mine.safetensors")
    round_ = store.request_round(session.id)
    finish_all(worker)
    done = store.round(round_.id)
    assert done.state in ("done", "held_back")
    assert "Learned without 2 of the picks: their files are missing or changed." in done.message
    (folder / "mine.safetensors").write_bytes(b"broken")
    job = store.add_job(session.id, "preview", {"prompts": [prompts[1]], "adapter_id": None})
    worker.work()
    assert "mine.safetensors" in store.job(job.id).message


def test_what_cannot_be_written_is_tried_again(store, session, worker, picked):
    round_ = store.request_round(session.id)
    work_until(worker, lambda: worker.rounds.active is not None)
    adapters = store.session_path(session.id) / "adapters"
    adapters.write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        finish_all(worker)
    assert store.round(round_.id).state == "queued"
    adapters.unlink()
    finish_all(worker)
    assert store.round(round_.id).state == "done"


def test_a_file_that_draws_another_picture_is_not_ready(tmp_path):
    drawn, other = (PIL.Image.new("RGB", (8, 8), colour) for colour in ("#406080", "#506080"))
    assert "0.0 of 255" in same_picture(tmp_path, drawn, drawn)
    with pytest.raises(LoraError, match="does not draw the same picture"):
        same_picture(tmp_path, drawn, other)


# --- what is not wanted any more ---


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Grows by one with each denoising step; the store is looked at before each of them."""
    monkeypatch.setattr(wanted_module, "POLL_S", 0.0)
    done: list[int] = []
    predict = Denoiser.predict_guided

    def counted(*args, **kwargs):
        done.append(1)
        return predict(*args, **kwargs)

    monkeypatch.setattr(Denoiser, "predict_guided", counted)
    return done


def after_two_steps(monkeypatch, steps: list[int], act: Callable[[], object]) -> None:
    """`act` when two denoising steps have been made."""
    predict = Denoiser.predict_guided

    def acting(*args, **kwargs):
        if len(steps) == 2:
            act()
        return predict(*args, **kwargs)

    monkeypatch.setattr(Denoiser, "predict_guided", acting)


LONG = SamplingSettings(steps=150, width_px=64, height_px=64)


def test_a_pair_of_a_session_that_is_deleted_is_left_between_two_steps(
    worker, store, session, monkeypatch, steps
):
    store.update_settings(session.id, replace(session.settings, sampling=LONG))
    after_two_steps(monkeypatch, steps, lambda: store.delete_session(session.id))
    assert worker.pair_queue.add_pair()
    assert len(steps) <= 4
    assert not list(store.home.rglob("*.png"))


def test_a_worker_that_is_to_end_leaves_a_preview_between_two_steps_and_draws_it_later(
    worker, store, session, monkeypatch, steps
):
    store.update_settings(session.id, replace(session.settings, sampling=LONG))
    with monkeypatch.context() as patch:
        after_two_steps(patch, steps, worker.stopping.set)
        assert worker.pair_queue.draw_base_preview()
    assert len(steps) <= 4
    worker.stopping.clear()
    store.update_settings(session.id, session.settings)
    assert worker.pair_queue.draw_base_preview()
    assert list(store.home.rglob("*.png"))


def test_a_cancelled_job_is_left_between_two_steps(worker, store, session, monkeypatch, steps):
    store.update_settings(session.id, replace(session.settings, sampling=LONG))
    job = store.add_job(session.id, "preview", {"prompts": ["a cat"], "adapter_id": None})
    after_two_steps(monkeypatch, steps, lambda: store.cancel_job(job.id))
    assert worker.jobs.run_next()
    assert len(steps) <= 4
    assert store.job(job.id).state == "cancelled"


@pytest.mark.usefixtures("picked")
class TestRoundsThatAreLeft:
    """A round is left in the middle of whatever it does, and ends as if it had not been."""

    @pytest.fixture
    def expected(self, store, session, home) -> bytes:
        """The adapter of a round that nobody disturbs."""
        copy = Path(f"{home}-copy")
        store.close()
        shutil.copytree(home, copy)
        other = Store.open(copy)
        other.request_round(session.id)
        finish_all(Worker(other, "cpu"))
        adapter = adapter_bytes(other, session)
        other.close()
        return adapter

    @pytest.mark.parametrize(
        ("module", "name", "is_at_end"),
        [
            (training_module, "velocity_shift", True),
            (training_module, "held_out_agreement", False),
            (training_module.optimizers, "step", False),
            (sampling, "sample", True),
            (sampling, "images", True),
        ],
        ids=["measuring", "held-out picks", "an update", "judging", "decoding"],
    )
    def test_it_is_left_between_two_blocks_and_taken_up_again(
        self, store, session, worker, monkeypatch, expected, module, name, is_at_end
    ):
        monkeypatch.setattr(wanted_module, "POLL_S", 0.0)
        round_ = store.request_round(session.id)
        work, passes = getattr(module, name), []

        def disturbed(*args, **kwargs):
            active, checked = worker.rounds.active, worker.rounds.checks.active
            is_now = checked is not None if module is sampling else active is not None
            if is_at_end and active is not None:
                is_now = is_now and active.training.has_learned
            if is_now and not passes:
                passes.append("begun")
                worker.stopping.set()
                block = worker.renderer.denoiser.network.down_blocks[0]
                block.register_forward_hook(lambda *_: passes.append("a block"))
            return work(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, disturbed)
            work_until(worker, lambda: bool(passes))
            worker.rounds.put_down()  # as the worker does when it ends
        assert passes == ["begun"]
        assert store.round(round_.id).state == "queued"
        assert not store.adapters(session.id)
        worker.stopping.clear()
        finish_all(worker)
        assert store.round(round_.id).state == "done"
        assert adapter_bytes(store, session) == expected

    def test_stopped_while_it_is_measured_it_keeps_what_it_learned(
        self, store, session, worker, monkeypatch
    ):
        monkeypatch.setattr(wanted_module, "POLL_S", 0.0)
        round_ = store.request_round(session.id)
        measure, measured = evaluation.velocity_changes, []

        def counted(*args):
            found = measure(*args)
            measured.append(1)
            if len(measured) == 3:
                store.stop_round(round_.id)
            return found

        monkeypatch.setattr(evaluation, "velocity_changes", counted)
        work_until(worker, lambda: store.round(round_.id).finished_at_s)
        assert len(measured) == 3
        stopped = store.round(round_.id)
        assert stopped.state == "done"
        assert "Its strength was set from 3 of 10 pictures." in stopped.message
        assert "after 0 of its 6 test pictures" in stopped.message
        assert store.session(session.id).current_adapter_id == stopped.adapter_id
        assert worker.rounds.active is worker.rounds.checks.active is None

    @pytest.mark.parametrize("more", ["stopped", "paused and stopped"])
    def test_stopped_while_its_pictures_are_drawn_it_keeps_what_it_learned(
        self, store, session, worker, more
    ):
        round_ = store.request_round(session.id)

        def drawn() -> int:
            adapter_id = store.round(round_.id).adapter_id
            return len(store.images(session.id, "preview", adapter_id=adapter_id or "none"))

        counts = []
        work_until(worker, lambda: counts.append(drawn()) or counts[-1] == 2)
        assert set(counts) == {0, 1, 2}  # one by one
        assert store.adapters(session.id) == []  # nobody draws with it before it is judged
        if more == "paused and stopped":
            store.pause_round(round_.id)
            worker.work()
            assert worker.rounds.checks.active is None
        store.stop_round(round_.id)
        work_until(worker, lambda: store.round(round_.id).finished_at_s)
        assert drawn() == 2
        stopped = store.round(round_.id)
        assert stopped.state == "done"
        assert "after 2 of its 6 test pictures" in stopped.message
        [adapter] = store.adapters(session.id)
        assert adapter.checks == {}
        assert store.session(session.id).current_adapter_id == adapter.id
        finish_all(worker)
        assert drawn() == len(PROMPTS)  # the strip is filled later

    def test_another_model_chosen_meanwhile_ends_it_without_putting_it_to_use(
        self, store, session, worker
    ):
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.round(round_.id).adapter_id)
        store.update_settings(session.id, replace(session.settings, base_model="starter"))
        assert store.round(round_.id).state == "stopped"
        worker.rounds.go_on()
        assert worker.rounds.checks.active is None
        assert store.session(session.id).current_adapter_id is None

    def test_taken_up_again_it_knows_what_was_done(self, store, session, worker, monkeypatch):
        monkeypatch.setattr(rounds_module, "SLICE_S", 0.0)
        round_ = store.request_round(session.id)
        seen = []

        def training() -> training_module.Training:
            assert worker.rounds.active is not None
            return worker.rounds.active.training

        worker.rounds.begin()
        for is_there in (
            lambda: training().checks_made == 2,
            lambda: training().has_learned and training().is_scaled,
        ):
            work_until(worker, is_there)
            worker.rounds.put_down()
            assert worker.rounds.begin()
            active = worker.rounds.active
            update = active.training.update
            steps = active.steps.after(update)
            seen.append([one.done for one in steps])
            asked = active.training.checks_made
            measured = steps[1].total if active.training.is_scaled else 0
            assert seen[-1] == [update, measured, asked, 0]
            assert steps[2].total == 6
        assert seen[0] < seen[1]
        work_until(worker, lambda: store.round(round_.id).finished_at_s)

    def test_held_out_picks_whose_files_are_gone_are_not_waited_for(self, store, session, worker):
        round_ = store.request_round(session.id)
        held_out = dict.fromkeys(round_.held_out_pick_ids, True)
        [one] = [one for one in store.picked_pairs(session.id) if one.pick.id in held_out]
        store.trajectory_path(one.chosen).unlink()
        work_until(worker, lambda: worker.rounds.active)
        assert worker.rounds.active.steps.after(0)[2].total == 0
        work_until(worker, lambda: store.round(round_.id).finished_at_s)
        assert store.round(round_.id).state == "done"
        assert "Learned without 1 of the picks" in store.round(round_.id).message

    def test_its_steps_are_told_one_after_the_other(self, store, session, worker, monkeypatch):
        monkeypatch.setattr(rounds_module, "REPORT_S", 0.0)
        said = []
        show = worker.status.show_round
        monkeypatch.setattr(
            worker.status, "show_round", lambda progress: (said.append(progress), show(progress))
        )
        round_ = store.request_round(session.id)
        work_until(worker, lambda: store.round(round_.id).finished_at_s)
        told = [progress for progress in said if progress]
        steps = list(dict.fromkeys(progress.step for progress in told))
        assert steps == [
            *(f"Learning, {n} of 6 updates" for n in range(6)),
            *(f"Measuring, picture {n} of 10" for n in range(1, 11)),
            "Guessing your picks, 1 of them",
            *(f"Drawing test pictures, {n} of 6" for n in range(1, 7)),
            *(f"Drawing base pictures, {n} of 6" for n in range(4, 7)),  # 3 were there before
            "Judging the pictures",
        ]
        assert told[0].left_s is None  # nothing was learned here before
        shares = [progress.share for progress in told if progress.left_s is not None]
        assert 0 < shares[0] < shares[-1] == MOST_SHARE
        assert told[-1].left_s == 0
        assert store.worker_status().round is None
        again = store.request_round(session.id)  # the same picks: now every time is known
        work_until(worker, lambda: store.worker_status().round)
        first = store.worker_status().round
        assert (first.round_id, first.left_s is None) == (again.id, False)


def test_a_large_picture_is_decoded_in_tiles_and_left_between_two_of_them(
    worker, store, session, monkeypatch
):
    monkeypatch.setattr(denoiser_module, "MOST_UNTILED_PX", 128 * 128)
    denoiser = worker.renderer.model_of(session)
    denoiser.vae.tile_latent_min_size, denoiser.vae.tile_sample_min_size = 8, 64
    tiles = []
    denoiser.vae.decoder.register_forward_hook(lambda *_: tiles.append(1))
    small, large = torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 24, 16)
    assert denoiser.decode(small)[0].size == (128, 128)
    assert len(tiles) == 1
    tiles.clear()
    assert denoiser.decode(large)[0].size == (128, 192)
    assert len(tiles) > 4
    tiles.clear()

    def require_wanted() -> None:
        if len(tiles) == 2:
            raise Cancelled

    monkeypatch.setattr(wanted_module, "POLL_S", 0.0)
    with worker.renderer.while_wanted(require_wanted), pytest.raises(Cancelled):
        denoiser.decode(large)
    assert len(tiles) == 2
