"""The studio is closed while the worker is in the middle of something: it ends, and goes on later.

Nothing is timed: the pictures and updates made after the request are counted, and there is at most
one. The workers are slowed down, so that the moment can be met.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from studio import models
from studio.files import ADAPTER_FILE
from studio.models import Denoiser
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store, examine_files
from studio.worker.loop import Worker
from tests.support.processes import wait_for, work_for, worker

PROMPTS = ("a cat", "a dog")
UPDATES = 6
PAUSE_S = 0.03  # before each pass of the network
FOR_EVER_S = 10_000.0


def slowly(home: Path) -> None:
    """A worker on a slow machine."""
    predict = Denoiser.predict

    def pausing(*args, **kwargs):
        time.sleep(PAUSE_S)
        return predict(*args, **kwargs)

    Denoiser.predict = pausing
    work_for(home)


def loading_for_ever(home: Path) -> None:
    """A worker whose disk is as slow as that of a large model seems."""
    models.load = lambda *args, **kwargs: time.sleep(FOR_EVER_S)
    work_for(home)


def writing_for_ever(home: Path) -> None:
    """A worker that hangs in an export, where nothing asks whether it is still wanted."""
    from studio.worker import jobs

    jobs.export_lora = lambda *args, **kwargs: time.sleep(FOR_EVER_S)
    work_for(home)


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight picks, a requested round, and a full queue; to be copied."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    with contextlib.closing(Store.open(home)) as store:
        settings = SessionSettings(
            base_model=str(tiny_model),
            prompts=PROMPTS,
            sampling=SamplingSettings(steps=8, width_px=64, height_px=64),
            training=TrainingSettings(rank=2, updates_base=UPDATES, updates_per_pick=0),
            live=False,
            queue_target=2,
        )
        session = store.create_session("Tiny", settings)
        store.set_last_session(session.id)
        drawing = Worker(store, "cpu")
        for number in range(8):
            while not store.waiting_count(session.id):
                assert drawing.work()
            [pair, *_] = store.waiting_pairs(session.id)
            store.add_answer(f"pick{number}", pair.id, "left" if number % 3 else "right")
        while drawing.work():
            pass
        store.request_round(session.id)
    return home


def finished(home: Path, reached: Callable[[Store, str], object]) -> None:
    """Let a worker that nobody disturbs work on."""
    with contextlib.closing(Store.open(home)) as store, worker(home) as process:
        session_id = store.last_session_id()
        wait_for(lambda: reached(store, session_id), process)


def is_learned(store: Store, session_id: str) -> object:
    return store.rounds(session_id)[0].finished_at_s


def result(home: Path) -> tuple[bytes, dict[tuple[str, str, int], list[bytes]], list[int]]:
    """The adapter, the pictures by what they are of, and the updates that the round has counted."""
    with contextlib.closing(Store.open(home)) as store:
        session_id = store.last_session_id()
        [adapter] = store.adapters(session_id)
        assert not any((examine_files(store).missing, examine_files(store).damaged))
        weights = (store.adapter_path(adapter) / ADAPTER_FILE).read_bytes()
        pictures: dict[tuple[str, str, int], list[bytes]] = {}
        for purpose in ("preview", "compare"):
            for image in store.images(session_id, purpose):
                side = "tuned" if image.adapter_id else "base"
                pictures.setdefault((side, image.prompt, image.seed), []).append(
                    store.image_path(image).read_bytes()
                )
        updates = [one.update for one in store.metrics(adapter.round_id)]
        return weights, pictures, updates


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory):
    home = shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / "home")
    finished(home, is_learned)
    return result(home)


PHASES = {
    "learning": "Learning",
    "measuring": "Measuring, picture 3",
    "guessing": "Guessing your picks",
    "drawing": "Drawing test pictures, 2",
    "drawing the base": "Drawing base pictures",
}


def is_in(store: Store, session_id: str, phase: str) -> bool:
    status = store.worker_status()
    step = status.round.step if status is not None and status.round else ""
    return step.startswith(PHASES[phase]) and store.rounds(session_id)[0].updates_done >= 2


def amounts(store: Store, session_id: str) -> tuple[int, int]:
    """(updates, pictures) made so far."""
    [round_] = store.rounds(session_id)
    pictures = sum(len(store.images(session_id, kind)) for kind in ("preview", "compare", "pair"))
    return round_.updates_done, pictures


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
@pytest.mark.parametrize("phase", list(PHASES))
def test_left_in_any_phase_of_a_round_it_goes_on_where_it_was(
    prepared, undisturbed, tmp_path, phase, ended_by
):
    home = shutil.copytree(prepared, tmp_path / "home")
    with contextlib.closing(Store.open(home)) as store:
        session_id = store.last_session_id()
        with worker(home, slowly) as process:
            wait_for(lambda: is_in(store, session_id, phase), process)
            updates, pictures = amounts(store, session_id)
            os.kill(process.pid, ended_by)
            process.join()
            assert process.exitcode == (0 if ended_by == signal.SIGTERM else -signal.SIGKILL)
        after = amounts(store, session_id)
        assert after[0] - updates + after[1] - pictures <= 1
        [round_] = store.rounds(session_id)
        if ended_by == signal.SIGTERM:
            assert round_.state == "queued"
    finished(home, is_learned)
    weights, drawn, made = result(home)
    assert weights == undisturbed[0]
    assert drawn == undisturbed[1]  # each once, and the same
    assert made == undisturbed[2] == list(range(1, UPDATES + 1))


def test_a_model_that_takes_for_ever_to_load_is_no_reason_to_stay(prepared, undisturbed, tmp_path):
    home = shutil.copytree(prepared, tmp_path / "home")
    with contextlib.closing(Store.open(home)) as store:
        session_id = store.last_session_id()
        for _ in range(4):  # more often than a round may be begun without progress
            with worker(home, loading_for_ever) as process:
                wait_for(lambda: store.rounds(session_id)[0].state == "running", process)
                os.kill(process.pid, signal.SIGTERM)
                process.join()
                assert process.exitcode == 0
            assert store.rounds(session_id)[0].state == "queued"
    finished(home, is_learned)
    assert result(home)[0] == undisturbed[0]


def test_an_export_is_left_and_made_once(prepared, tmp_path):
    home = shutil.copytree(prepared, tmp_path / "home")
    finished(home, is_learned)
    with contextlib.closing(Store.open(home)) as store:
        session_id = store.last_session_id()
        [adapter] = store.adapters(session_id)
        payload = {"adapter_id": adapter.id, "name": "Blue", "formats": ["kohya", "diffusers"]}
        job = store.add_job(session_id, "export", payload)
        for _ in range(3):  # more often than a job may be begun
            with worker(home, writing_for_ever) as process:
                wait_for(lambda: store.job(job.id).state == "running", process)
                os.kill(process.pid, signal.SIGTERM)
                process.join()
                assert process.exitcode == 0
            assert store.job(job.id).state == "queued"
            assert store.exports(session_id) == []
        with worker(home) as process:
            wait_for(lambda: store.job(job.id).finished_at_s, process)
        assert store.job(job.id).state == "done"
        [made] = store.exports(session_id)
        assert {*made.files} >= {"Blue.safetensors"}
        assert not examine_files(store).missing
