"""Rounds of training: begun, trained slice by slice, measured, and stored.

Then `round_checks` judges its pictures. An interrupted round resumes from its last checkpoint, and
ends in the same adapter.
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

from studio.engine.distributed import ProcessGroup, ProcessLost
from studio.engine.evaluation import SHIFT_PICTURES
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
from studio.store.rounds import has_learned
from studio.worker import follower, round_start
from studio.worker.disk_space import require_disk_space
from studio.worker.errors import WorkerError
from studio.worker.pair_queue import PairQueue
from studio.worker.progress import RoundSteps
from studio.worker.renderer import Renderer
from studio.worker.round_checks import (
    REFERENCE_SEEDS,
    RoundChecks,
    missing_of_base,
    wanted_pictures,
)
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled

log = logging.getLogger("studio.worker")

REPORT_S = 0.5  # between two reports of progress
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
    steps: RoundSteps
    saved_at_s: float  # of its last checkpoint
    reported_at_s: float = 0.0
    notes: tuple[str, ...] = ()  # sentences for the artist


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
        self.checks = RoundChecks(store, renderer, pair_queue, status, stopping)
        renderer.before_unloading = self.put_down  # a round needs its own model

    def begin(self) -> bool:
        """Begin or resume the round that is requested, interrupted or due; False if there is none.

        An interrupted round resumes from its last checkpoint.
        """
        if self.active is not None or self.checks.active is not None:
            return False
        round_ = self.store.claim_round()
        if round_ is None:
            due = self.store.due_session()
            if due is None:
                return False
            self.store.request_round(due)
            return True  # the next call claims it
        if round_.state == "stopping" and not has_learned(round_):
            self._end(round_, "stopped", _stopped(round_.updates_done, round_.updates_total))
            return True
        self.status.report("training", "Getting ready to learn.")
        try:
            if round_.adapter_id is not None:
                self.checks.begin(round_)
            else:
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
        """Train the active round for a slice of time, or draw one of the pictures that judge it;
        False if there is none."""
        active = self.active
        if active is None:
            return self.checks.go_on()
        try:
            round_ = self.store.round(active.round.id)
            match round_.state:
                case "running":
                    self._train_for_a_moment(active)
                    self.pair_queue.keep_pairs_ready()
                case "paused":
                    self.put_down()
                case "stopping" if has_learned(round_):
                    self._keep_what_there_is(active)
                case _:
                    done, total = active.training.update, active.training.updates
                    self._end(active.round, "stopped", _stopped(done, total))
        except (StoreError, ProcessLost):
            self.put_down()
            raise
        except Exception as error:
            self._end(active.round, "failed", self.status.sentence(error))
        if self.active is None:
            del active  # frees its memory
            self.renderer.give_memory_back()
        return True

    def say_why_it_waits(self, sentence: str) -> None:
        """Show a sentence beside the active round, if there is one."""
        if active := self.active or self.checks.active:
            self.store.update_round(active.round.id, message=f"Waiting. {sentence}")

    def put_down(self) -> None:
        """Save the active round and release it, to be resumed later."""
        self.checks.put_down()
        active = self.active
        if active is None:
            return
        try:
            self._save(active)
            self.store.release_round(active.round.id)
        except StoreError:
            log.warning("A round goes on from an earlier checkpoint", exc_info=True)
        self._drop()

    def _prepare(self, round_: Round) -> ActiveRound:
        session = self.store.session(round_.session_id)
        denoiser = self.renderer.model_of(session)
        started = round_start.start(self.renderer, self.processes, round_)
        training = started.training
        weights = denoiser.adapters.parameters()
        adapter_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
        try:
            require_disk_space(self.store.home, adapter_bytes * FILES_OF_A_ROUND)
        except StoreFull:
            denoiser.adapters.remove()
            raise
        self._restore(round_, training)
        follower.start_round(self.processes, session.settings.base, training)
        round_ = self.store.update_round(round_.id, updates_total=training.updates)
        wanted = wanted_pictures(self.renderer, session, None)
        pictures = REFERENCE_SEEDS * len(wanted) + missing_of_base(self.renderer, wanted)
        held_out = len(training.held_out.batch) if training.held_out else 0
        about = denoiser.base_hash, session.settings.sampling, round_, (0, pictures), held_out
        measured = SHIFT_PICTURES if training.is_scaled else 0
        steps = RoundSteps(self.renderer.pace, *about, measured, training.checks_made)
        saved_at_s, notes = time.monotonic(), started.notes
        return ActiveRound(round_, training, started.left_out, steps, saved_at_s, notes=notes)

    def _train_for_a_moment(self, active: ActiveRound) -> None:
        training = active.training
        self.status.report("training", "Learning.")
        if self.store.round(active.round.id).message != training.note:  # an outdated "Waiting."
            self.store.update_round(active.round.id, message=training.note)
        until_s = time.monotonic() + SLICE_S
        with contextlib.suppress(Cancelled):
            while self.active is active and not self.stopping.is_set():
                if training.is_scaling_due:
                    self._scale(active)
                elif training.is_check_due:
                    self._check(active)
                elif not training.has_learned:
                    self._learn(active)
                else:
                    self._keep(active)
                if time.monotonic() > until_s:
                    break
        if self.active is active and time.monotonic() - active.saved_at_s > CHECKPOINT_S:
            self._save(active)

    def _learn(self, active: ActiveRound, states: tuple[str, ...] = ("running",)) -> None:
        """One update."""
        training, pace, kind = active.training, self.renderer.pace, active.steps.update_kind
        words = f"Learning, {training.update} of {training.updates} updates"
        is_shown = self._report(active, words)
        started_s = time.monotonic()
        self.processes.broadcast(follower.UPDATE)
        # Other processes would wait forever for one that leaves an update.
        is_alone = self.processes.size == 1
        with self._while_wanted(active, states) if is_alone else contextlib.nullcontext():
            metrics = training.learn()
        seconds = time.monotonic() - started_s
        if is_shown:
            pace.note(kind, seconds)
        if training.preset != self.renderer.preset:
            self.renderer.use_preset(training.preset)  # also for the work after the round
        values = {**metrics.values(), "seconds": seconds}
        self.store.add_metric(active.round.id, metrics.update, values)
        if training.has_learned:
            self._save(active)

    def _scale(self, active: ActiveRound) -> None:
        """Measure how far the adapter moves the pictures, and bring it to where it should be.

        If the artist stops it, the pictures measured so far have to do.
        """
        training = active.training
        started_s = time.monotonic()

        def go_on(done: int, total: int) -> bool:
            is_enough = self.store.round(active.round.id).state == "stopping"
            if done and (done == total or is_enough or not active.steps.measured):
                unit_s = (time.monotonic() - started_s) / done
                self.renderer.pace.note(active.steps.measuring_kind, unit_s)
            active.steps = replace(active.steps, measured=done)
            self._report(active, f"Measuring, picture {min(done + 1, total)} of {total}")
            if is_enough and done < total:
                set_from = f"Its strength was set from {done} of {total} pictures."
                active.notes = (*active.notes, set_from)
            return not is_enough

        with self._while_wanted(active, ("running", "stopping")):
            training.scale(go_on)
        active.steps = replace(active.steps, measured=SHIFT_PICTURES)
        self._save(active)

    def _check(self, active: ActiveRound) -> None:
        """Ask the held-out pairs."""
        training, pairs = active.training, active.steps.held_out
        if training.has_learned:
            self._report(active, f"Guessing your picks, {pairs} of them")
        update = training.update
        kind = active.steps.asking_kind
        with self.renderer.pace.measured(kind, pairs), self._while_wanted(active):
            agreement = training.check()
        active.steps = replace(active.steps, checked=training.checks_made)
        known = {one.update: one.values for one in self.store.metrics(active.round.id)}
        values = {**known.get(update, {}), "held_out_agreement": agreement}
        self.store.add_metric(active.round.id, update, values)

    def _keep(self, active: ActiveRound) -> None:
        """Store the adapter. From then on the round needs no training, and `checks` goes on."""
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
        folder = self.store.adapter_path(adapter)

        def write(path: Path) -> None:
            path.mkdir()
            denoiser.adapters.save(path)

        write_atomically(folder, write)
        adapter = replace(
            adapter,
            sha256=sha256(folder / ADAPTER_FILE),
            config_sha256=sha256(folder / ADAPTER_CONFIG_FILE),
        )
        kept = self.store.keep_adapter(round_.id, adapter)
        notes = (*active.notes, active.training.note) if active.training.note else active.notes
        self._forget(round_)
        self.checks.begin(kept, notes)

    def _keep_what_there_is(self, active: ActiveRound) -> None:
        """Store the adapter of a round that the artist has stopped after its last update."""
        with contextlib.suppress(Cancelled):  # the worker ends, and the next one does it
            while not active.training.has_learned:  # killed before the last update was saved
                self._learn(active, ("stopping",))
            if active.training.is_scaling_due:
                self._scale(active)
            self._keep(active)

    def _report(self, active: ActiveRound, words: str) -> bool:
        """Show what is done now; False if it is not shown, as the last is from a moment ago."""
        now_s = time.monotonic()
        is_due = active.training.has_learned or now_s > active.reported_at_s + REPORT_S
        if is_due:
            active.reported_at_s = now_s
            self.status.show_round(active.steps.progress(words, active.training.update))
        return is_due

    @contextlib.contextmanager
    def _while_wanted(
        self, active: ActiveRound, states: tuple[str, ...] = ("running",)
    ) -> Iterator[None]:
        """Inside, the model raises Cancelled if the worker ends, the round is in no such state, or
        its session is deleted."""
        round_ = active.round

        def require_wanted() -> None:
            if self.stopping.is_set() or not self.store.has_session(round_.session_id):
                raise Cancelled
            if self.store.round(round_.id).state not in states:
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
        self.checks.drop()

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
