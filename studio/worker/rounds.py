"""Rounds of training: begun, trained slice by slice, checked for collapse, and stored.

An interrupted round resumes from its last checkpoint, and ends in the same adapter.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from studio.engine import collapse
from studio.engine.distributed import ProcessGroup, ProcessLost
from studio.engine.training import Training, TrainingFailed
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, sha256
from studio.store import (
    Adapter,
    Round,
    Store,
    StoreDamaged,
    StoreError,
    StoreFull,
    write_atomically,
)
from studio.store.files import read_sealed, set_aside, write_sealed
from studio.worker import follower
from studio.worker.disk_space import require_disk_space
from studio.worker.errors import WorkerError
from studio.worker.pair_queue import PairQueue
from studio.worker.renderer import Renderer
from studio.worker.round_checks import RoundChecks
from studio.worker.round_pairs import read_pairs
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled

log = logging.getLogger("studio.worker")

SLICE_S = 1.0  # of training, before the worker checks for more urgent work
CHECKPOINT_S = 5.0
# Disk space of a round in adapters: the result, and two checkpoints (old and new), each with the
# weights and two moments.
FILES_OF_A_ROUND = 1 + 2 * 3


@dataclass
class ActiveRound:
    """The round in training."""

    round: Round
    training: Training
    left_out: int  # picks; see `RoundPairs`
    saved_at_s: float  # of its last checkpoint
    is_torn: bool = False  # cancelled after an optimizer step: only its last checkpoint counts


class Rounds:
    """Trains on the artist's picks, one round at a time."""

    def __init__(
        self,
        store: Store,
        renderer: Renderer,
        pair_queue: PairQueue,
        status: StatusReporter,
        processes: ProcessGroup,
        stopping: threading.Event,
    ) -> None:
        self.store, self.renderer, self.pair_queue, self.status = (
            store,
            renderer,
            pair_queue,
            status,
        )
        self.processes = processes
        self.stopping = stopping
        self.active: ActiveRound | None = None
        self._checks = RoundChecks(renderer, status)
        renderer.before_unloading = self.put_down  # a round needs its own model

    def begin(self) -> bool:
        """Begin or resume the round that is requested, interrupted or due; False if there is none.

        An interrupted round resumes from its last checkpoint.
        """
        if self.active is not None:
            return False
        round_ = self.store.claim_round()
        if round_ is None:
            due = self.store.due_session()
            if due is None:
                return False
            self.store.request_round(due)
            return True  # the next call claims it
        if round_.state == "stopping":
            self._end(round_, "stopped", _stopped(round_.updates_done, round_.updates_total))
            return True
        self.status.report("training", "Getting ready to learn.")
        try:
            self.active = self._prepare(round_)
        except StoreFull as error:
            self.store.release_round(
                round_.id
            )  # waiting for disk space does not count as an attempt
            self.store.update_round(round_.id, message=f"Waiting. {error}")
            raise
        except ProcessLost:
            raise
        except Exception as error:
            self._end(round_, "failed", self.status.sentence(error))
        return True

    def go_on(self) -> bool:
        """Train the active round for a slice of time; False if there is none."""
        active = self.active
        if active is None:
            return False
        match self.store.round(active.round.id).state:
            case "running" if active.is_torn:
                self.put_down()
            case "running":
                try:
                    self._train_for_a_moment(active)
                except (StoreError, ProcessLost):
                    self.put_down()
                    raise
                except Exception as error:
                    self._end(active.round, "failed", self.status.sentence(error))
                self.pair_queue.keep_pairs_ready()
            case "paused":
                self.put_down()
            case _:
                done, total = active.training.update, active.training.updates
                self._end(active.round, "stopped", _stopped(done, total))
        if self.active is None:
            del active  # frees its memory
            self.renderer.give_memory_back()
        return True

    def say_why_it_waits(self, sentence: str) -> None:
        """Show a sentence beside the active round, if there is one."""
        if self.active is not None:
            self.store.update_round(self.active.round.id, message=f"Waiting. {sentence}")

    def put_down(self) -> None:
        """Save the active round and release it, to be resumed later."""
        active = self.active
        if active is None:
            return
        try:
            if not active.is_torn:
                self._save(active)
            self.store.release_round(active.round.id)
        except StoreError:
            log.warning("A round goes on from an earlier checkpoint", exc_info=True)
        self._drop()

    def _prepare(self, round_: Round) -> ActiveRound:
        session = self.store.session(round_.session_id)
        denoiser = self.renderer.model_of(session)
        pairs = read_pairs(self.store, denoiser, round_)
        training = Training(
            denoiser,
            pairs.train,
            round_.settings,
            pairs.held_out,
            self.renderer.preset,
            self.processes,
        )
        weights = denoiser.adapters.parameters()
        adapter_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
        try:
            require_disk_space(self.store.home, adapter_bytes * FILES_OF_A_ROUND)
        except StoreFull:
            denoiser.adapters.remove()
            raise
        self._restore(round_, training)
        follower.start_round(self.processes, session.settings.base, training)
        self.store.update_round(round_.id, updates_total=training.updates)
        return ActiveRound(round_, training, pairs.left_out, time.monotonic())

    def _train_for_a_moment(self, active: ActiveRound) -> None:
        training = active.training
        self.status.report("training", "Learning.")
        if self.store.round(active.round.id).message != training.note:  # an outdated "Waiting."
            self.store.update_round(active.round.id, message=training.note)
        until_s = time.monotonic() + SLICE_S
        while training.update < training.updates:
            started_s = time.monotonic()
            done = training.update
            if done == training.updates - 1:
                # The longest update: left while it measures, the round resumes from here.
                self._save(active)
                self.status.report("training", "Learning, and measuring what it learned.")
            self.processes.broadcast(follower.UPDATE)
            try:
                # Other processes would wait forever for one that leaves an update.
                is_alone = self.processes.size == 1
                with self._while_wanted(active) if is_alone else contextlib.nullcontext():
                    metrics = training.step()
            except Cancelled:
                # Before the optimizer's step, the state is still that of the update before.
                active.is_torn = training.update > done
                return
            if training.preset != self.renderer.preset:
                self.renderer.use_preset(training.preset)  # also for the work after the round
            values = {**metrics.values(), "seconds": time.monotonic() - started_s}
            self.store.add_metric(active.round.id, metrics.update, values)
            if self.stopping.is_set() or time.monotonic() > until_s:
                break
        if training.update == training.updates:
            # Once cancelled, the round resumes here, after its last update.
            with contextlib.suppress(Cancelled), self._while_wanted(active):
                self._finish(active)
        elif time.monotonic() - active.saved_at_s > CHECKPOINT_S:
            self._save(active)

    def _finish(self, active: ActiveRound) -> None:
        round_, denoiser = active.round, active.training.denoiser
        if not all(bool(value.isfinite().all()) for value in denoiser.adapters.state().values()):
            raise WorkerError(
                "The round ended with values that are not numbers, and was not kept. Try a gentler "
                "strength or a smaller learning rate."
            )
        adapter = Adapter(
            id=uuid.uuid4().hex,
            session_id=round_.session_id,
            round_id=round_.id,
            number=round_.number,
            settings=round_.settings,
            base_hash=denoiser.base_hash,
            picks=len(round_.train_pick_ids + round_.held_out_pick_ids) - active.left_out,
            sha256="",
            created_at_s=time.time(),
        )
        session = self.store.session(round_.session_id)
        reference_images, checks = self._checks.run(session, denoiser)
        folder = self.store.adapter_path(adapter)

        def write(path: Path) -> None:
            path.mkdir()
            denoiser.adapters.save(path)

        write_atomically(folder, write)
        adapter = replace(
            adapter,
            sha256=sha256(folder / ADAPTER_FILE),
            config_sha256=sha256(folder / ADAPTER_CONFIG_FILE),
            checks=checks.values() if checks else {},
        )
        lost = collapse.failure(checks) if checks else ""
        message = "Done."
        if lost:
            message = f"Held back, because {lost}. The adapter in use before stays in use."
            log.warning("Round %d is held back: %s", round_.number, checks)
        if active.left_out:
            message += (
                f" Learned without {active.left_out} of the picks: their files are missing or "
                "changed."
            )
        if active.training.note:
            message += f" {active.training.note}"
        self.store.finish_round(round_.id, adapter, message, held_back=bool(lost))
        self._forget(round_)
        for prompt, (first, *_) in zip(
            reference_images.prompts, reference_images.pictures, strict=True
        ):
            # The pictures that judged the round are also its previews.
            wanted = self.renderer.preview(session, prompt, adapter.id)
            self.store.add_image(self.renderer.write(wanted, first))

    @contextlib.contextmanager
    def _while_wanted(self, active: ActiveRound) -> Iterator[None]:
        """Inside, the model raises Cancelled if the worker ends, the round is paused or stopped, or
        its session is deleted."""
        round_ = active.round

        def require_wanted() -> None:
            if self.stopping.is_set() or not self.store.has_session(round_.session_id):
                raise Cancelled
            if self.store.round(round_.id).state != "running":
                raise Cancelled

        with self.renderer.while_wanted(require_wanted):
            yield

    def _end(self, round_: Round, state: str, message: str) -> None:
        """End a round without an adapter; the one in use before stays in use."""
        self.store.update_round(round_.id, state=state, message=message)
        self._forget(round_)

    def _forget(self, round_: Round) -> None:
        self.store.checkpoint_path(round_).unlink(missing_ok=True)
        self._drop()

    def _drop(self) -> None:
        if self.active is not None:
            self.active.training.denoiser.adapters.remove()
            self.active = None

    def _save(self, active: ActiveRound) -> None:
        state = io.BytesIO()
        torch.save(active.training.state(), state)
        write_sealed(self.store.checkpoint_path(active.round), state.getvalue())
        active.saved_at_s = time.monotonic()

    def _restore(self, round_: Round, training: Training) -> None:
        path = self.store.checkpoint_path(round_)
        if not path.exists():
            return
        try:
            state = io.BytesIO(read_sealed(path))
            training.load_state(torch.load(state, map_location="cpu", weights_only=True))
        except StoreDamaged:
            # Random numbers depend only on the update: a restarted round ends in the same adapter.
            log.warning("Round %d begins anew: its checkpoint is damaged", round_.number)
            set_aside(self.store.home, path)
            return
        except TrainingFailed:
            raise
        except Exception as error:
            raise WorkerError(
                "This round's checkpoint cannot be read. Begin a new round: your picks are kept."
            ) from error
        log.info("Round %d goes on after update %d", round_.number, training.update)


def _stopped(updates_done: int, updates_total: int) -> str:
    return (
        f"Stopped after {updates_done} of {updates_total} updates. "
        "The adapter in use before stays in use."
    )
