"""Rounds of training: taken up, gone on with a moment at a time, judged, and kept.

A round that is interrupted, by whatever, is taken up where it was last written down, and ends in
the same adapter.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import PIL.Image
import torch
from safetensors import SafetensorError

from studio import models
from studio.engine import collapse, recogniser, sampling, trajectory
from studio.engine.distributed import ProcessGroup, ProcessLost
from studio.engine.objective import reads_only_final
from studio.engine.training import Training, TrainingFailed
from studio.engine.trajectory import PairBatch, Trajectory
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, sha256
from studio.models import INVERSIONS
from studio.settings import SamplingSettings
from studio.store import (
    Adapter,
    PickedPair,
    Round,
    Session,
    Store,
    StoreDamaged,
    StoreError,
    StoreFull,
    write_atomically,
)
from studio.store.files import read_sealed, require_whole, set_aside, write_sealed
from studio.worker import follower
from studio.worker.disk_space import require_disk_space
from studio.worker.errors import WorkerError
from studio.worker.pair_queue import PairQueue
from studio.worker.renderer import Renderer, preview_seed
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled, now_and_then

log = logging.getLogger("studio.worker")

SLICE_S = 1.0  # of training, before the worker looks whether something else is more urgent
CHECKPOINT_S = 5.0
REFERENCE_SEEDS = 2  # pictures of each fixed prompt that a round is judged by
# Times the adapter that a round writes: itself, and what it goes on from (the weights and two
# moments of each), the new beside the old.
FILES_OF_A_ROUND = 1 + 2 * 3


@dataclass
class ActiveRound:
    """The round that is being trained."""

    round: Round
    training: Training
    left_out: int  # picks whose files cannot be read
    saved_at_s: float  # when it was last written down


@dataclass
class ReferenceImages:
    """Pictures of the fixed prompts, prompt by prompt, that rounds are judged by."""

    prompts: tuple[str, ...]
    texts: tuple[str, ...]  # what the prompts say in these pictures
    sampling: SamplingSettings
    base_hash: str
    pictures: list[list[PIL.Image.Image]]


class Rounds:
    """Trains what the artist has picked, one round at a time."""

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
        self._reference_images: ReferenceImages | None = None  # of the base model
        renderer.before_unloading = self.put_down  # a round is of one model

    def begin(self) -> bool:
        """Take up the round that was asked for, was left behind or is due; False if there is none.

        A round that was left behind goes on from where it was last written down.
        """
        if self.active is not None:
            return False
        round_ = self.store.claim_round()
        if round_ is None:
            due = self.store.due_session()
            if due is None:
                return False
            self.store.request_round(due)
            return True  # it is claimed next
        if round_.state == "stopping":
            self._end(round_, "stopped", _stopped(round_.updates_done, round_.updates_total))
            return True
        self.status.report("training", "Getting ready to learn.")
        try:
            self.active = self._prepare(round_)
        except StoreFull as error:
            self.store.release_round(round_.id)  # waiting for room is no attempt
            self.store.update_round(round_.id, message=f"Waiting. {error}")
            raise
        except ProcessLost:
            raise
        except Exception as error:
            self._end(round_, "failed", self.status.sentence(error))
        return True

    def go_on(self) -> bool:
        """Train the round at hand for a moment; False when there is none."""
        active = self.active
        if active is None:
            return False
        match self.store.round(active.round.id).state:
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
            del active  # what it held is for others now
            self.renderer.give_memory_back()
        return True

    def say_why_it_waits(self, sentence: str) -> None:
        """Beside the round at hand, if there is one."""
        if self.active is not None:
            self.store.update_round(self.active.round.id, message=f"Waiting. {sentence}")

    def put_down(self) -> None:
        """Write the round at hand down and let go of it; it is taken up again in time."""
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
        picked = {one.pick.id: one for one in self.store.picked_pairs(session.id)}
        only_final = reads_only_final(round_.settings)
        batches = []
        chains: dict[str, Trajectory] = {}  # a picture of a grid stands in several pairs
        for pick_ids in (round_.train_pick_ids, round_.held_out_pick_ids):
            found = [picked[id_] for id_ in pick_ids if id_ in picked]
            usable = [one for one in found if _reads_as_then(denoiser, one)]
            pairs = [self._chains(one, chains, only_final) for one in usable]
            batches.append([pair for pair in pairs if pair is not None])
        train, held_out = batches
        left_out = len(round_.train_pick_ids + round_.held_out_pick_ids) - len(train + held_out)
        if not train:
            raise WorkerError("The files of all picks of this round are missing.")
        training = Training(
            denoiser,
            PairBatch.of(train, only_final),
            round_.settings,
            PairBatch.of(held_out, only_final) if held_out else None,
            self.renderer.preset,
            self.processes,
        )
        weights = denoiser.adapters.parameters()
        adapter_bytes = sum(one.numel() * one.element_size() for one in weights)
        try:
            require_disk_space(self.store.home, adapter_bytes * FILES_OF_A_ROUND)
        except StoreFull:
            denoiser.adapters.remove()
            raise
        self._restore(round_, training)
        follower.start_round(self.processes, session.settings.base, training)
        self.store.update_round(round_.id, updates_total=training.updates)
        return ActiveRound(round_, training, left_out, time.monotonic())

    def _chains(
        self, picked: PickedPair, read: dict[str, Trajectory], only_final: bool
    ) -> tuple[Trajectory, Trajectory] | None:
        """The (chosen, rejected) trajectories of a pick, or None when a file is gone or broken.

        Those in `read`, by image id, were read before; what is read here is added.
        """
        sides = [picked.pair.left, picked.pair.right]
        if picked.pick.choice == "right":
            sides.reverse()
        try:
            for one in sides:
                if one.id not in read:
                    path = self.store.trajectory_path(one)
                    require_whole(path, one.trajectory_sha256)
                    read[one.id] = trajectory.load(path, only_final)
            chosen, rejected = (read[one.id] for one in sides)
        except (OSError, SafetensorError, ValueError, KeyError, StoreDamaged):
            log.warning(
                "Pick %s is left out: its files cannot be read", picked.pick.id, exc_info=True
            )
            return None
        return chosen, rejected

    def _train_for_a_moment(self, active: ActiveRound) -> None:
        training = active.training
        self.status.report("training", "Learning.")
        if self.store.round(active.round.id).message != training.note:  # of waiting, say
            self.store.update_round(active.round.id, message=training.note)
        until_s = time.monotonic() + SLICE_S
        while training.update < training.updates:
            started_s = time.monotonic()
            self.processes.broadcast(follower.UPDATE)
            metrics = training.step()
            if training.preset != self.renderer.preset:
                self.renderer.use_preset(training.preset)  # for what comes after the round, too
            values = {**metrics.values(), "seconds": time.monotonic() - started_s}
            self.store.add_metric(active.round.id, metrics.update, values)
            if self.stopping.is_set() or time.monotonic() > until_s:
                break
        if training.update == training.updates:
            with contextlib.suppress(Cancelled):
                self._finish(active)
        elif time.monotonic() - active.saved_at_s > CHECKPOINT_S:
            self._save(active)

    def _finish(self, active: ActiveRound) -> None:
        round_, denoiser = active.round, active.training.denoiser
        if not all(bool(value.isfinite().all()) for value in denoiser.adapters.state().values()):
            raise WorkerError("The adapter came to hold values that are not numbers.")
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
        reference_images, checks = self._look_at_pictures(session, denoiser)
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
            message = f"Held back, because {lost}. What was in use before stays in use."
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
            # What was drawn to judge the round is what the artist sees of it.
            wanted = self.renderer.preview(session, prompt, adapter.id)
            self.store.add_image(self.renderer.write(wanted, first))

    def _look_at_pictures(
        self, session: Session, denoiser: models.Denoiser
    ) -> tuple[ReferenceImages, collapse.Checks | None]:
        """The fixed prompts as the trained adapter draws them, and how they compare with the
        base's; no checks when there is no prompt."""
        tuned = self._draw_reference_images(session, denoiser)
        if not tuned.prompts:
            return tuned, None
        base = self._reference_images
        made = ("texts", "sampling", "base_hash")
        if base is None or any(getattr(base, name) != getattr(tuned, name) for name in made):
            with denoiser.adapters.off():
                base = self._reference_images = self._draw_reference_images(session, denoiser)
        known = [None, None]
        if session.settings.base_model == "starter":
            known = [_share_recognised(reference_images) for reference_images in (base, tuned)]
        return tuned, collapse.compare(base.pictures, tuned.pictures, *known)

    def _draw_reference_images(
        self, session: Session, denoiser: models.Denoiser
    ) -> ReferenceImages:
        """With the network as it is switched now."""
        settings, shown = session.settings.sampling, session.settings.shown_prompts
        texts, pictures = [], []
        for prompt in shown:
            if self.stopping.is_set():
                raise Cancelled  # the round is taken up again at its end
            self.status.report("training", "Looking at what it learned.")
            first = preview_seed(settings.seed, prompt)
            seeds = [first + place for place in range(REFERENCE_SEEDS)]
            texts.append(self.renderer.expand(prompt, first))
            chains = sampling.sample(
                denoiser,
                texts[-1:] * REFERENCE_SEEDS,
                seeds,
                settings,
                require_wanted=now_and_then(lambda: self._require_wanted(session)),
            )
            pictures.append(sampling.images(denoiser, chains))
        return ReferenceImages(shown, tuple(texts), settings, denoiser.base_hash, pictures)

    def _require_wanted(self, session: Session) -> None:
        """Raise Cancelled when the worker ends, the round is paused or stopped, or its session is
        deleted; what goes on takes the round up again at its end."""
        if self.stopping.is_set() or not self.store.has_session(session.id):
            raise Cancelled
        if self.active is not None and self.store.round(self.active.round.id).state != "running":
            raise Cancelled

    def _end(self, round_: Round, state: str, message: str) -> None:
        """End a round without an adapter; the one from before it stays in use."""
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
            # Every draw belongs to its update: from the beginning it comes to the same adapter.
            log.warning("Round %d begins anew: what it had written is damaged", round_.number)
            set_aside(self.store.home, path)
            return
        except TrainingFailed:
            raise
        except Exception as error:
            raise WorkerError("What this round had learned so far cannot be read.") from error
        log.info("Round %d goes on after update %d", round_.number, training.update)


def _share_recognised(reference_images: ReferenceImages) -> float | None:
    """How many of the pictures show the object that their prompt names; None if none names one."""
    judge = recogniser.load()
    named = [
        (picture, name)
        for text, pictures in zip(reference_images.texts, reference_images.pictures, strict=True)
        if (name := judge.object_in(text)) is not None
        for picture in pictures
    ]
    if not named:
        return None
    ranks = judge.object_ranks([picture for picture, _ in named], [name for _, name in named])
    return float((ranks == 0).float().mean())


def _stopped(updates_done: int, updates_total: int) -> str:
    return (
        f"Stopped after {updates_done} of {updates_total} updates. "
        "The adapter from before it stays in use."
    )


def _reads_as_then(denoiser: models.Denoiser, picked: PickedPair) -> bool:
    """Whether the prompts of a pick still name the textual inversions that drew its pictures."""
    for image in (picked.pair.left, picked.pair.right):
        now = denoiser.companions([image.prompt, image.sampling.negative_prompt])
        if now.get(INVERSIONS, "") != image.companions.get(INVERSIONS, ""):
            log.warning("Pick %s is left out: a textual inversion is another", picked.pick.id)
            return False
    return True
