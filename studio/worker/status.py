"""The worker's status for the artist: its present work, and errors as sentences."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace

from studio import models
from studio.datasets import ExchangeError
from studio.engine import memory
from studio.engine.distributed import ProcessLost
from studio.engine.training import TrainingFailed
from studio.engine.trajectory import MixedSettingsError
from studio.judges import JudgeError
from studio.lora.format import LoraError
from studio.runtime import logs
from studio.settings import SettingsError
from studio.store import Store, StoreError, WorkerStatus
from studio.store.files import full_sentence, is_full
from studio.store.status import RoundProgress, WorkerState
from studio.worker.errors import WorkerError

log = logging.getLogger("studio.worker")

HEARTBEAT_S = 2.0


# Errors whose message is already a sentence for the artist.
SENTENCES = (
    ProcessLost,
    ExchangeError,
    LoraError,
    MixedSettingsError,
    JudgeError,
    SettingsError,
    StoreError,
    TrainingFailed,
    WorkerError,
    models.ModelError,
)


class StatusReporter:
    """Writes the worker's status, which the pages show, to the store."""

    def __init__(self, store: Store, device: str) -> None:
        self._store = store
        self._publishing = threading.Lock()
        self._status = WorkerStatus(os.getpid(), "starting", "Starting.", device, 0.0)

    def report(self, state: WorkerState, message: str) -> None:
        """Publish a new state and message."""
        self._status = replace(self._status, state=state, message=message)
        self._publish()

    def show_round(self, progress: RoundProgress | None) -> None:
        """Publish how far the round is; None: there is none in training."""
        if progress != self._status.round:
            self._status = replace(self._status, round=progress)
            self._publish()

    def show_device(self, words: str) -> None:
        """Set the device's description; the next report publishes it."""
        self._status = replace(self._status, device=words)

    def beat(self, stopping: threading.Event) -> None:
        """Publish again and again until `stopping` is set; the pages distrust a stale status."""
        while not stopping.wait(HEARTBEAT_S):
            self._publish()

    def sentence(self, error: Exception) -> str:
        """The error as a sentence for the artist; the traceback goes to the log."""
        if isinstance(error, SENTENCES):
            sentence = str(error)
        elif is_full(error):
            sentence = full_sentence(self._store.home)
        elif memory.has_run_out(error):
            sentence = (
                "The device ran out of memory. Choose smaller pictures, or close other programs "
                "that use the device."
            )
        else:
            where = logs.log_path(self._store.home, "worker")
            sentence = (
                f"Something went wrong that should not have ({type(error).__name__}). "
                f"The details are in {where}."
            )
        if sentence != self._status.message:  # log a repeated error only once
            log.error("%s", sentence, exc_info=error)
        return sentence

    def _publish(self) -> None:
        with self._publishing:  # so that an older status never overwrites a newer one
            try:
                self._store.set_worker_status(replace(self._status, heartbeat_at_s=time.time()))
            except StoreError as error:
                log.warning("The status could not be written: %s", error)
