"""Workers that work in the test's own process, and what they work on."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from studio import models
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, sha256
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Adapter, Session, Store
from studio.worker.loop import Worker
from tests.support.factories import finish, make_pair, pick


def finish_all(worker: Worker) -> None:
    while worker.work():
        pass


@contextmanager
def working(store: Store) -> Iterator[Worker]:
    """Inside, it works in a thread. Nobody else may load a model meanwhile: two who do so at once
    in one process leave accelerate's empty weights behind."""
    worker = Worker(store, "cpu")
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.stopping.set()
    thread.join()


def small_session(store: Store, model: Path, steps: int = 3, **changes: object) -> Session:
    """The open session, of small pictures, in which nothing begins by itself."""
    sampling = SamplingSettings(steps=steps, width_px=64, height_px=64)
    settings = SessionSettings(base_model=str(model), sampling=sampling, live=False, **changes)
    session = store.create_session("Mine", settings)
    store.set_last_session(session.id)
    return session


def learned(
    store: Store, settings: SessionSettings, name: str, training: TrainingSettings
) -> Adapter:
    """The adapter of a round of a new session, with a change that is large enough to be seen."""
    session = store.create_session(name, settings)
    pick(store, [make_pair(store, session.id) for _ in range(4)], prefix=name)
    round_ = store.request_round(session.id)
    store.claim_round()
    denoiser = models.load(settings.base_model, "cpu")
    denoiser.adapters.new(training)
    draw = torch.Generator().manual_seed(training.seed)
    with torch.no_grad():
        for parameter in denoiser.adapters.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
    folder = store.home / "made" / name
    folder.mkdir(parents=True)
    denoiser.adapters.save(folder)
    _, adapter = finish(
        store,
        session.id,
        round_,
        base_hash=denoiser.base_hash,
        sha256=sha256(folder / ADAPTER_FILE),
        config_sha256=sha256(folder / ADAPTER_CONFIG_FILE),
    )
    shutil.copytree(folder, store.adapter_path(adapter), dirs_exist_ok=True)
    return adapter
