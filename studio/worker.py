"""The process that owns the device: it takes work from the store and does it.

    python -m studio.worker --home HOME
    accelerate launch -m studio.worker --home HOME      on all GPUs: see `studio.crew`

The main loop is `Worker.run`, and `Worker.work` is the order in which work is urgent. Nothing is
kept here that may not be lost: a worker that is killed, by whatever, is started again and goes on
from rows and files. What goes wrong becomes a sentence for the artist, and a traceback in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import logging
import os
import random
import signal
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageChops
import PIL.ImageStat
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file

from studio import brake, crew, following, logs, memory, models, prompts, sampling, trajectory
from studio.crew import ALONE, Crew, CrewLost
from studio.evidence import Tally, tallies
from studio.export import ExportError, ExportInfo, export_lora
from studio.settings import SamplingSettings, SessionSettings, SettingsError
from studio.starter import recogniser
from studio.store import (
    Adapter,
    Export,
    Image,
    Job,
    PickedPair,
    Round,
    Session,
    Store,
    StoreDamaged,
    StoreError,
    StoreFull,
    WorkerStatus,
    free_bytes,
    take_daily_snapshot,
    write_atomically,
)
from studio.store.files import (
    full_sentence,
    is_full,
    read_sealed,
    require_whole,
    set_aside,
    sha256,
    write_sealed,
)
from studio.store.rows import CHECK_PICTURE, Purpose, WorkerState
from studio.supervisor import when_supervisor_leaves
from studio.training import Training, TrainingFailed
from studio.trajectory import MixedSettingsError, PairBatch, Trajectory

log = logging.getLogger("studio.worker")

IDLE_S = 0.15  # between two looks whether anything has changed
RETRY_S = 5.0  # before what failed is tried again, if nothing changes until then
HEARTBEAT_S = 2.0
SLICE_S = 1.0  # of training, before the worker looks whether something else is more urgent
CHECKPOINT_S = 5.0
SNAPSHOT_LOOK_S = 600.0  # between two looks whether the last snapshot is a day old
READY_PAIRS = 2  # kept waiting for the artist whatever else the worker does
ANCHOR_SEEDS = 2  # pictures of each fixed prompt that a round is judged by
ROOM_MB = 100  # with less room on the disk nothing is begun, so that what was begun can be kept
# Times the adapter that a round writes: itself, and what it goes on from (the weights and two
# moments of each), the new beside the old.
FILES_OF_A_ROUND = 1 + 2 * 3
SAME_PICTURE_LEVELS = 4.0  # of 255, on average: rounding, carried through all the steps of a chain
HANDOVER_S = 30.0  # how long the worker before this one may still take to end


class WorkerError(Exception):
    """Something that cannot be done; the message is a sentence for the artist."""


class Cancelled(Exception):
    """The job is to be left: the artist does not want it any more, or the worker ends."""


@dataclass
class Lesson:
    """The round that is being trained."""

    round: Round
    training: Training
    left_out: int  # picks whose files cannot be read
    saved_at_s: float  # when it was last written down


@dataclass
class Anchors:
    """Pictures of the fixed prompts, prompt by prompt, that rounds are judged by."""

    prompts: tuple[str, ...]
    texts: tuple[str, ...]  # what the prompts say in these pictures
    sampling: SamplingSettings
    base_hash: str
    pictures: list[list[PIL.Image.Image]]


class Worker:
    """Does the work of one store, piece by piece. Only one worker at a time may serve a home."""

    def __init__(self, store: Store, device: str | None = None, crew: Crew = ALONE) -> None:
        self.store = store
        self.crew = crew  # which this one leads
        self.device = device or models.best_device()
        self.stopping = threading.Event()
        self._base_model = ""
        self._denoiser: models.Denoiser | None = None
        self._preset = memory.PRESETS[0]
        self._lesson: Lesson | None = None
        self._anchors: Anchors | None = None
        self._snapshot_due_s = 0.0
        self._saying = threading.Lock()
        self._status = WorkerStatus(os.getpid(), "starting", "Starting.", self.device, 0.0)

    # --- the main loop ---------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stopping` is set, then leave all so that the next worker can go on."""
        try:
            for path in self.store.set_orphans_aside():
                log.warning("Set aside, because no row names it: %s", path)
        except OSError:
            log.warning("Files that no row names could not be set aside", exc_info=True)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        while not self.stopping.is_set():
            version = self.store.version()
            try:
                self._require_room()
                self._keep_snapshot()
                if self.work():
                    continue
                self._say("idle", "Ready.")
            except CrewLost:
                self._put_down_lesson()
                raise
            except Exception as error:
                self._say("error", self._sentence(error))
                version = self.store.version()  # that was no news
            self._wait_for_news(version)
        self._put_down_lesson()

    def _keep_snapshot(self) -> None:
        """Once a day, a copy of the database; that it fails must not keep the artist waiting."""
        if time.monotonic() < self._snapshot_due_s:
            return
        self._snapshot_due_s = time.monotonic() + SNAPSHOT_LOOK_S
        try:
            take_daily_snapshot(self.store.home)
        except (OSError, StoreError):
            log.warning("No snapshot was taken", exc_info=True)

    def work(self) -> bool:
        """Do one piece of the most urgent work; False when there is none.

        What fails does not keep the rest from being done; it is raised when nothing else is left.
        """
        failure: Exception | None = None
        for piece in (
            self.run_job,
            self.continue_round,
            self.draw_tuned_preview,
            self.begin_round,
            self.add_pair,
            self.draw_base_preview,
        ):
            try:
                if piece():
                    return True
            except (StoreError, CrewLost):
                raise  # a full disk, say: nothing else would fare better
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return False

    def _wait_for_news(self, version: int) -> None:
        until_s = time.monotonic() + RETRY_S
        while not self.stopping.wait(IDLE_S):
            if self.store.version() != version or time.monotonic() > until_s:
                return

    def _require_room(self, needed_bytes: int = 0) -> None:
        """Raise StoreFull unless so much can be written, and still be room to end in order."""
        free_mb = free_bytes(self.store.home) // 1_000_000
        needed_mb = ROOM_MB + needed_bytes // 1_000_000
        if free_mb >= needed_mb:
            return
        sentence = (
            f"The disk that holds {self.store.home} is nearly full: {free_mb} MB are free, and "
            f"{needed_mb} MB are needed. It goes on by itself as soon as there is room."
        )
        if self._lesson is not None:
            self.store.update_round(self._lesson.round.id, message=f"Waiting. {sentence}")
        raise StoreFull(sentence)

    # --- pairs and pictures ----------------------------------------------------------------------

    def add_pair(self, fewer_than: int | None = None) -> bool:
        """Draw a pair for the open session, if fewer wait than there should; False if not."""
        session = self._open_session()
        if session is None or not session.settings.prompts:
            return False
        wanted = session.settings.queue_target if fewer_than is None else fewer_than
        if self.store.waiting_count(session.id) >= wanted:
            return False
        if self.store.ask_again(session.id) is not None:
            return True
        settings = session.settings
        prompt, seed = nth_draw(settings, self.store.drawn_count(session.id))
        what = "a pair" if settings.pictures == 2 else f"{settings.pictures} pictures"
        self._say("sampling", f"Drawing {what}: {prompt}")
        denoiser = self._load(settings.base_model)
        adapter_id = session.current_adapter_id
        text = self._expand(prompt, seed)
        with self._using(denoiser, adapter_id):
            [chains] = sampling.sample_groups(
                denoiser, [text], [seed], settings.sampling, settings.pictures
            )
            drawn = sampling.images(denoiser, chains)
        if not _fits(prompt, settings, self.store.session(session.id).settings):
            return True  # the artist has changed what to draw; this is not shown any more
        pictures = [
            self._write(self._image(session, "pair", text, chain.seed, adapter_id), picture, chain)
            for chain, picture in zip(chains, drawn, strict=True)
        ]
        self.store.add_question(session.id, text, pictures, adapter_id)
        return True

    def _keep_pairs_ready(self) -> None:
        """Draw a pair if hardly any wait: an errand, whose failure is not that of the main work."""
        session = self._open_session()
        if session is None or session.settings.base_model != self._base_model:
            return  # the main work needs the model that is loaded
        try:
            self.add_pair(fewer_than=READY_PAIRS)
        except StoreError:
            raise
        except Exception as error:
            log.warning("No pair was drawn: %s", self._sentence(error))

    def draw_tuned_preview(self) -> bool:
        """Draw one of the fixed prompts with the current adapter; False when all are drawn."""
        session = self._open_session()
        if session is None or session.current_adapter_id is None:
            return False
        return self._draw_missing_preview(session, session.current_adapter_id)

    def draw_base_preview(self) -> bool:
        """Draw one of the fixed prompts with the base model; False when all are drawn."""
        session = self._open_session()
        return session is not None and self._draw_missing_preview(session, None)

    def _draw_missing_preview(self, session: Session, adapter_id: str | None) -> bool:
        for prompt in session.settings.shown_prompts:
            wanted = self._preview(session, prompt, adapter_id)
            if not self._drawn_before(wanted):
                self._draw(wanted)
                self._keep_pairs_ready()
                return True
        return False

    def _preview(self, session: Session, prompt: str, adapter_id: str | None) -> Image:
        seed = preview_seed(session.settings.sampling.seed, prompt)
        return self._image(session, "preview", prompt, seed, adapter_id)

    def _open_session(self) -> Session | None:
        session_id = self.store.last_session_id()
        return None if session_id is None else self.store.session(session_id)

    def _image(
        self,
        session: Session,
        purpose: Purpose,
        prompt: str,
        seed: int,
        adapter_id: str | None,
        strength: float = 1.0,
    ) -> Image:
        return Image(
            id=self.store.new_image_id(),
            session_id=session.id,
            purpose=purpose,
            prompt=prompt,
            seed=seed,
            adapter_id=adapter_id,
            strength=strength,
            sampling=session.settings.sampling,
            base_hash=self._load(session.settings.base_model).base_hash,
            created_at_s=time.time(),
        )

    def _expand(self, prompt: str, seed: int) -> str:
        """What a prompt that leaves something open says in the picture of this seed."""
        return prompts.expand(prompt, seed, self.store.wildcards_path)

    def _drawn_before(self, wanted: Image) -> Image | None:
        found = self.store.find_image(wanted)
        return found if found is not None and self.store.image_path(found).exists() else None

    def _draw(self, wanted: Image) -> Image:
        """The picture `wanted` describes: drawn, unless there is one already."""
        found = self._drawn_before(wanted)
        if found is not None:
            return found
        self._say("rendering", f"Drawing: {wanted.prompt}")
        assert self._denoiser is not None
        with self._using(self._denoiser, wanted.adapter_id, wanted.strength):
            picture = self._picture(self._denoiser, wanted)
        return self.store.add_image(self._write(wanted, picture))

    def _picture(self, denoiser: models.Denoiser, wanted: Image) -> PIL.Image.Image:
        """What the network, as it is switched now, draws of `wanted`."""
        text = self._expand(wanted.prompt, wanted.seed)
        chains = sampling.sample(denoiser, [text], [wanted.seed], wanted.sampling)
        [picture] = sampling.images(denoiser, chains)
        return picture

    def _write(
        self, image: Image, picture: PIL.Image.Image, chain: Trajectory | None = None
    ) -> Image:
        """Put the files of an image on the disk; gives the row for the caller to add."""
        master, display = self.store.image_path(image), self.store.display_path(image)
        write_atomically(master, lambda path: picture.save(path, "PNG"))
        if display != master:
            write_atomically(display, lambda path: picture.save(path, "JPEG", quality=92))
        image = replace(image, picture_sha256=sha256(master))
        if chain is None:
            return image
        where = self.store.trajectory_path(image)
        write_atomically(where, lambda path: trajectory.save(path, chain))
        return replace(image, trajectory_sha256=sha256(where))

    # --- the model -------------------------------------------------------------------------------

    def _load(self, base_model: str) -> models.Denoiser:
        """The base model; one is held at a time, and a lesson with another one is put down."""
        if self._denoiser is None or self._base_model != base_model:
            self._put_down_lesson()
            if self._denoiser is not None:
                self._denoiser = None
                gc.collect()  # a model is a web of references; its memory is needed now
            name = "the starter model" if base_model == "starter" else Path(base_model).name
            self._say("starting", f"Loading {name}.")
            self._denoiser = models.load(base_model, self.device)
            self._base_model = base_model
            self._use(memory.preset_for(memory.free_gb(self._denoiser.device)))
        return self._denoiser

    def _use(self, preset: memory.Preset) -> None:
        """Fit into the memory there is, and show by what settings."""
        assert self._denoiser is not None
        self._preset = preset
        self._denoiser.save_memory(preset.parts_away, preset.tiled_vae)
        self._status = replace(self._status, device=f"{self.device}, settings for {preset.gb} GB")

    @contextlib.contextmanager
    def _using(
        self, denoiser: models.Denoiser, adapter_id: str | None, strength: float = 1.0
    ) -> Iterator[None]:
        """Inside, an adapter of the store is applied, or none, whatever is being trained."""
        folder = None if adapter_id is None else self._whole_adapter(adapter_id)
        with denoiser.using(folder, strength):
            yield

    def _whole_adapter(self, adapter_id: str) -> Path:
        """The folder of an adapter, which is what was learned, to the last bit."""
        adapter = self.store.adapter(adapter_id)
        folder = self.store.adapter_path(adapter)
        try:
            require_whole(folder / models.ADAPTER_FILE, adapter.sha256)
            require_whole(folder / models.ADAPTER_CONFIG_FILE, adapter.config_sha256)
        except (OSError, StoreDamaged) as error:
            raise WorkerError(
                f"The files of the LoRA of round {adapter.number} are missing or damaged. Use "
                "another round on the Train tab, or train again; `python launch.py doctor` looks "
                "at all files."
            ) from error
        return folder

    # --- rounds ----------------------------------------------------------------------------------

    def begin_round(self) -> bool:
        """Take up the round that was asked for, was left behind or is due; False if there is none.

        A round that was left behind goes on from where it was last written down.
        """
        if self._lesson is not None:
            return False
        round_ = self.store.claim_round()
        if round_ is None:
            due = self.store.due_session()
            if due is None:
                return False
            self.store.request_round(due)
            return True  # it is claimed next
        if round_.state == "stopping":
            self._end_round(round_, "stopped", _stopped(round_.updates_done, round_.updates_total))
            return True
        self._say("training", "Getting ready to learn.")
        try:
            self._lesson = self._prepare(round_)
        except StoreFull as error:
            self.store.release_round(round_.id)  # waiting for room is no attempt
            self.store.update_round(round_.id, message=f"Waiting. {error}")
            raise
        except CrewLost:
            raise
        except Exception as error:
            self._end_round(round_, "failed", self._sentence(error))
        return True

    def continue_round(self) -> bool:
        """Train the round at hand for a moment; False when there is none."""
        lesson = self._lesson
        if lesson is None:
            return False
        match self.store.round(lesson.round.id).state:
            case "running":
                try:
                    self._train_for_a_moment(lesson)
                except (StoreError, CrewLost):
                    self._put_down_lesson()
                    raise
                except Exception as error:
                    self._end_round(lesson.round, "failed", self._sentence(error))
                self._keep_pairs_ready()
            case "paused":
                self._put_down_lesson()
            case _:
                done, total = lesson.training.update, lesson.training.updates
                self._end_round(lesson.round, "stopped", _stopped(done, total))
        return True

    def _prepare(self, round_: Round) -> Lesson:
        session = self.store.session(round_.session_id)
        denoiser = self._load(session.settings.base_model)
        picked = {one.pick.id: one for one in self.store.picked_pairs(session.id)}
        batches = []
        chains: dict[str, Trajectory] = {}  # a picture of a grid stands in several pairs
        for pick_ids in (round_.train_pick_ids, round_.held_out_pick_ids):
            pairs = [self._chains(picked[id_], chains) for id_ in pick_ids if id_ in picked]
            batches.append([pair for pair in pairs if pair is not None])
        train, held_out = batches
        left_out = len(round_.train_pick_ids + round_.held_out_pick_ids) - len(train + held_out)
        if not train:
            raise WorkerError("The files of all picks of this round are missing.")
        training = Training(
            denoiser,
            PairBatch.of(train),
            round_.settings,
            PairBatch.of(held_out) if held_out else None,
            self._preset,
            self.crew,
        )
        weights = denoiser.adapter_parameters()
        adapter_bytes = sum(one.numel() * one.element_size() for one in weights)
        try:
            self._require_room(adapter_bytes * FILES_OF_A_ROUND)
        except StoreFull:
            denoiser.remove_adapter()
            raise
        self._restore(round_, training)
        following.begin(self.crew, session.settings.base_model, training)
        self.store.update_round(round_.id, updates_total=training.updates)
        return Lesson(round_, training, left_out, time.monotonic())

    def _chains(
        self, picked: PickedPair, read: dict[str, Trajectory]
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
                    read[one.id] = trajectory.load(path)
            chosen, rejected = (read[one.id] for one in sides)
        except (OSError, SafetensorError, ValueError, KeyError, StoreDamaged):
            log.warning(
                "Pick %s is left out: its files cannot be read", picked.pick.id, exc_info=True
            )
            return None
        return chosen, rejected

    def _train_for_a_moment(self, lesson: Lesson) -> None:
        training = lesson.training
        self._say("training", "Learning.")
        if self.store.round(lesson.round.id).message != training.note:  # of waiting, say
            self.store.update_round(lesson.round.id, message=training.note)
        until_s = time.monotonic() + SLICE_S
        while training.update < training.updates:
            started_s = time.monotonic()
            self.crew.told(following.UPDATE)
            metrics = training.step()
            if training.preset != self._preset:
                self._use(training.preset)  # for what comes after the round, too
            values = {**metrics.values(), "seconds": time.monotonic() - started_s}
            self.store.add_metric(lesson.round.id, metrics.update, values)
            if self.stopping.is_set() or time.monotonic() > until_s:
                break
        if training.update == training.updates:
            with contextlib.suppress(Cancelled):
                self._finish_round(lesson)
        elif time.monotonic() - lesson.saved_at_s > CHECKPOINT_S:
            self._save(lesson)

    def _finish_round(self, lesson: Lesson) -> None:
        round_, denoiser = lesson.round, lesson.training.denoiser
        if not all(bool(value.isfinite().all()) for value in denoiser.adapter_state().values()):
            raise WorkerError("The adapter came to hold values that are not numbers.")
        adapter = Adapter(
            id=uuid.uuid4().hex,
            session_id=round_.session_id,
            round_id=round_.id,
            number=round_.number,
            settings=round_.settings,
            base_hash=denoiser.base_hash,
            picks=len(round_.train_pick_ids + round_.held_out_pick_ids) - lesson.left_out,
            sha256="",
            created_at_s=time.time(),
        )
        session = self.store.session(round_.session_id)
        anchors, checks = self._look_at_pictures(session, denoiser)
        folder = self.store.adapter_path(adapter)

        def write(path: Path) -> None:
            path.mkdir()
            denoiser.save_adapter(path)

        write_atomically(folder, write)
        adapter = replace(
            adapter,
            sha256=sha256(folder / models.ADAPTER_FILE),
            config_sha256=sha256(folder / models.ADAPTER_CONFIG_FILE),
            checks=checks.values() if checks else {},
        )
        lost = brake.what_is_lost(checks) if checks else ""
        message = "Done."
        if lost:
            message = f"Held back, because {lost}. What was in use before stays in use."
            log.warning("Round %d is held back: %s", round_.number, checks)
        if lesson.left_out:
            message += f" Learned without {lesson.left_out} of the picks: their files are missing."
        if lesson.training.note:
            message += f" {lesson.training.note}"
        self.store.finish_round(round_.id, adapter, message, held_back=bool(lost))
        self._forget_round(round_)
        for prompt, (first, *_) in zip(anchors.prompts, anchors.pictures, strict=True):
            # What was drawn to judge the round is what the artist sees of it.
            self.store.add_image(self._write(self._preview(session, prompt, adapter.id), first))

    def _look_at_pictures(
        self, session: Session, denoiser: models.Denoiser
    ) -> tuple[Anchors, brake.Checks | None]:
        """The fixed prompts as the trained adapter draws them, and how they compare with the
        base's; no checks when there is no prompt."""
        tuned = self._draw_anchors(session, denoiser)
        if not tuned.prompts:
            return tuned, None
        base = self._anchors
        made = ("texts", "sampling", "base_hash")
        if base is None or any(getattr(base, name) != getattr(tuned, name) for name in made):
            with denoiser.adapter_off():
                base = self._anchors = self._draw_anchors(session, denoiser)
        known = [None, None]
        if session.settings.base_model == "starter":
            known = [_share_recognised(anchors) for anchors in (base, tuned)]
        return tuned, brake.compare(base.pictures, tuned.pictures, *known)

    def _draw_anchors(self, session: Session, denoiser: models.Denoiser) -> Anchors:
        """With the network as it is switched now."""
        settings, shown = session.settings.sampling, session.settings.shown_prompts
        texts, pictures = [], []
        for prompt in shown:
            if self.stopping.is_set():
                raise Cancelled  # the round is taken up again at its end
            self._say("training", "Looking at what it learned.")
            first = preview_seed(settings.seed, prompt)
            seeds = [first + place for place in range(ANCHOR_SEEDS)]
            texts.append(self._expand(prompt, first))
            chains = sampling.sample(denoiser, texts[-1:] * ANCHOR_SEEDS, seeds, settings)
            pictures.append(sampling.images(denoiser, chains))
        return Anchors(shown, tuple(texts), settings, denoiser.base_hash, pictures)

    def _end_round(self, round_: Round, state: str, message: str) -> None:
        """End a round without an adapter; the one from before it stays in use."""
        self.store.update_round(round_.id, state=state, message=message)
        self._forget_round(round_)

    def _forget_round(self, round_: Round) -> None:
        self.store.checkpoint_path(round_).unlink(missing_ok=True)
        self._drop_lesson()

    def _put_down_lesson(self) -> None:
        """Write the lesson down and let go of it; it is taken up again when there is time."""
        lesson = self._lesson
        if lesson is None:
            return
        try:
            self._save(lesson)
            self.store.release_round(lesson.round.id)
        except StoreError:
            log.warning("A round goes on from an earlier checkpoint", exc_info=True)
        self._drop_lesson()

    def _drop_lesson(self) -> None:
        if self._lesson is not None:
            self._lesson.training.denoiser.remove_adapter()
            self._lesson = None

    def _save(self, lesson: Lesson) -> None:
        state = io.BytesIO()
        torch.save(lesson.training.state(), state)
        write_sealed(self.store.checkpoint_path(lesson.round), state.getvalue())
        lesson.saved_at_s = time.monotonic()

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
        except Exception as error:
            raise WorkerError("What this round had learned so far cannot be read.") from error
        log.info("Round %d goes on after update %d", round_.number, training.update)

    # --- jobs ------------------------------------------------------------------------------------

    def run_job(self) -> bool:
        """Do the oldest job; False when there is none."""
        self.store.requeue_running()  # what a worker before this one left undone
        job = self.store.claim_job()
        if job is None:
            return False
        do = {
            "preview": self._do_preview,
            "compare": self._do_compare,
            "exam": self._do_exam,
            "grid": self._do_grid,
            "export": self._do_export,
            "inspect": self._do_inspect,
        }[job.kind]
        try:
            result = do(job, self.store.session(job.session_id))
        except Cancelled:
            return True
        except Exception as error:
            self.store.update_job(job.id, state="failed", message=self._sentence(error))
        else:
            self.store.update_job(
                job.id, state="done", progress=1.0, message="Done.", result=result
            )
        return True

    def _report(self, job: Job, done: int, total: int, result: dict[str, Any]) -> None:
        """Show how far a job is, between two pictures: the moment to leave it, or draw a pair."""
        job = self.store.update_job(
            job.id, progress=done / total, message=f"{done} of {total} drawn.", result=result
        )
        if self.stopping.is_set():
            self.store.update_job(job.id, state="queued")
        if job.state == "cancelled" or self.stopping.is_set():
            raise Cancelled
        self._keep_pairs_ready()

    def _do_preview(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "adapter_id"} → {"image_ids", "unread"}: the fixed prompts as they are drawn
        now, and what of all prompts the model does not read."""
        shown = job.payload["prompts"]
        denoiser = self._load(session.settings.base_model)
        written = (*session.settings.prompts, session.settings.sampling.negative_prompt)
        ends = {prompt: denoiser.unread(prompt) for prompt in written}
        unread = {prompt: end for prompt, end in ends.items() if end}
        result: dict[str, Any] = {"image_ids": [], "unread": unread}
        for done, prompt in enumerate(shown, start=1):
            image = self._draw(self._preview(session, prompt, job.payload["adapter_id"]))
            result["image_ids"].append(image.id)
            self._report(job, done, len(shown), result)
        return result

    def _do_compare(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "seeds", "adapter_id", "strength"} → {"cells"}, each with base and tuned."""
        wanted = [
            (self._expand(prompt, seed), seed)
            for prompt in job.payload["prompts"]
            for seed in job.payload["seeds"]
        ]
        adapter_id, strength = job.payload["adapter_id"], job.payload["strength"]
        result: dict[str, Any] = {"cells": []}
        for done, (prompt, seed) in enumerate(wanted, start=1):
            base = self._draw(self._image(session, "compare", prompt, seed, None))
            tuned = self._draw(self._image(session, "compare", prompt, seed, adapter_id, strength))
            cell = {"prompt": prompt, "seed": seed, "base": base.id, "tuned": tuned.id}
            result["cells"].append(cell)
            self._report(job, done, len(wanted), result)
        return result

    def _do_grid(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "seeds", "adapter_ids", "strengths"} → {"image_ids"}, the last varying first.

        At strength 0 every adapter is the base model, which is drawn once.
        """
        axes = ("prompts", "seeds", "adapter_ids", "strengths")
        wanted = list(itertools.product(*(job.payload[axis] for axis in axes)))
        for adapter_id in job.payload["adapter_ids"]:
            self._require_base(session, self.store.adapter(adapter_id))
        result: dict[str, Any] = {"image_ids": []}
        for done, (prompt, seed, adapter_id, strength) in enumerate(wanted, start=1):
            tuned = (adapter_id, strength) if strength else (None,)
            text = self._expand(prompt, seed)
            image = self._draw(self._image(session, "compare", text, seed, *tuned))
            result["image_ids"].append(image.id)
            self._report(job, done, len(wanted), result)
        return result

    def _do_exam(self, job: Job, session: Session) -> dict[str, Any]:
        """{"exam_id"} → {}: the pictures that it still lacks; a pair is asked once it has both."""
        exam = self.store.exam(job.payload["exam_id"])
        self._require_base(session, self.store.adapter(exam.adapter_id))
        as_begun = replace(session, settings=replace(session.settings, sampling=exam.sampling))
        for done, pair in enumerate(exam.pairs, start=1):
            if not pair.is_drawn:
                asked = (as_begun, "exam", pair.prompt, pair.seed)
                base = self._draw(self._image(*asked, None))
                tuned = self._draw(self._image(*asked, exam.adapter_id, exam.strength))
                self.store.set_exam_pictures(pair.id, base.id, tuned.id)
            self._report(job, done, len(exam.pairs), {})
        return {}

    def _require_base(self, session: Session, adapter: Adapter) -> models.Denoiser:
        """The session's model, if it is the one that the adapter was made with."""
        denoiser = self._load(session.settings.base_model)
        if adapter.base_hash != denoiser.base_hash:
            raise WorkerError(
                "This adapter was made with another base model than the session uses now. "
                "Choose that model again to use it."
            )
        return denoiser

    def _do_export(self, job: Job, session: Session) -> dict[str, Any]:
        """{"adapter_id", "name", "formats", …} → {"export_id"}: LoRA files, checked."""
        self._say("exporting", f"Exporting {job.payload['name']}.")
        adapter = self.store.adapter(job.payload["adapter_id"])
        denoiser = self._require_base(session, adapter)
        settings = session.settings.sampling
        strength = job.payload.get("strength", 1.0)
        found = tallies(self.store.exams(session.id, adapter.id))
        texts = ("trigger", "licence", "author", "notes")
        info = ExportInfo(
            family=_lora_family(denoiser),
            base_model=denoiser.info.name,
            picks=adapter.picks,
            trained_at_s=adapter.created_at_s,
            base_hash=adapter.base_hash,
            prediction_type=denoiser.prediction_type,
            width_px=settings.width_px,
            height_px=settings.height_px,
            strength=strength,
            exam=_exam_words(found, strength),
            exams=tuple(_exam_numbers(at, tally) for at, tally in found.items()),
            **{name: job.payload.get(name, "") for name in texts},
        )
        made = Export(
            id=uuid.uuid4().hex,
            session_id=session.id,
            adapter_id=adapter.id,
            name=job.payload["name"],
            files=(),
            checks={},
            created_at_s=time.time(),
        )
        weights = self._whole_adapter(adapter.id) / models.ADAPTER_FILE
        needed_bytes = weights.stat().st_size * len(job.payload["formats"])
        if needed_bytes + ROOM_MB * 1_000_000 > free_bytes(self.store.home):
            raise StoreFull(
                f"An export of this LoRA takes {needed_bytes // 1_000_000} MB, and the disk that "
                f"holds {self.store.home} has no room for it: make some, and export again."
            )
        state = load_file(weights)
        [prompt, *_] = session.settings.shown_prompts or ("",)
        wanted = self._preview(session, prompt, adapter.id)
        with self._using(denoiser, adapter.id):
            expected = self._picture(denoiser, wanted)
        drawn: dict[str, PIL.Image.Image] = {}

        def look(path: Path, form: str) -> dict[str, str]:
            with denoiser.using_file(path):
                drawn[form] = self._picture(denoiser, wanted)
            return {"picture": same_picture(path, drawn[form], expected)}

        folder = self.store.export_path(session.id, made.id)
        report = export_lora(
            folder,
            made.name,
            state,
            adapter.settings.rank,
            adapter.settings.alpha,
            info,
            tuple(job.payload["formats"]),
            expected,
            precision=job.payload.get("precision", "float32"),
            layers=denoiser.layer_shapes,
            look=look,
        )
        # What the file draws, to be seen beside what the adapter drew: the picture of the export.
        checked = folder / f"{report.name}{CHECK_PICTURE}"
        write_atomically(checked, lambda path: next(iter(drawn.values())).save(path, "PNG"))
        files = (*(path.name for path in report.files), checked.name)
        self.store.add_export(replace(made, files=files, checks=report.checks))
        return {"export_id": made.id, "files": list(files), "checks": report.checks}

    def _do_inspect(self, job: Job, session: Session) -> dict[str, Any]:
        """{"path"} → what kind of model it is, without loading its weights."""
        self._say("starting", "Looking at a model.")
        info = models.inspect(job.payload["path"])
        return {"name": info.name, "family": info.words, "size_px": info.size_px}

    # --- what is said ----------------------------------------------------------------------------

    def _say(self, state: WorkerState, message: str) -> None:
        """Let the artist know what is going on."""
        self._status = replace(self._status, state=state, message=message)
        self._publish()

    def _beat(self) -> None:
        while not self.stopping.wait(HEARTBEAT_S):
            self._publish()

    def _publish(self) -> None:
        with self._saying:  # so that an older status never follows a newer one
            try:
                self.store.set_worker_status(replace(self._status, heartbeat_at_s=time.time()))
            except StoreError as error:
                log.warning("The status could not be written: %s", error)

    def _sentence(self, error: Exception) -> str:
        """What the artist is told; the traceback goes to the log."""
        if isinstance(error, SENTENCES):
            sentence = str(error)
        elif is_full(error):
            sentence = full_sentence(self.store.home)
        elif memory.has_run_out(error):
            sentence = (
                "The device ran out of memory. Smaller pictures need less; so do other programs "
                "that are closed."
            )
        else:
            where = logs.log_path(self.store.home, "worker")
            sentence = (
                f"Something went wrong that should not have ({type(error).__name__}). "
                f"The details are in {where}."
            )
        if sentence != self._status.message:  # what goes wrong again and again is logged once
            log.error("%s", sentence, exc_info=error)
        return sentence


# Errors whose message is a sentence for the artist already.
SENTENCES = (
    CrewLost,
    ExportError,
    MixedSettingsError,
    SettingsError,
    StoreError,
    TrainingFailed,
    WorkerError,
    models.ModelError,
)


def nth_draw(settings: SessionSettings, number: int) -> tuple[str, int]:
    """Prompt and seed of a session's pair: the prompts take turns, shuffled anew for each turn."""
    seed = settings.sampling.seed
    turn, place = divmod(number, len(settings.prompts))
    prompts = random.Random(f"{seed} turn {turn}").sample(settings.prompts, len(settings.prompts))
    return prompts[place], random.Random(f"{seed} pair {number}").getrandbits(31)


def _fits(prompt: str, then: SessionSettings, now: SessionSettings) -> bool:
    """Whether a pair that was begun under other settings is still what the artist wants."""
    names = ("base_model", "sampling", "pictures")
    return prompt in now.prompts and all(getattr(then, n) == getattr(now, n) for n in names)


def preview_seed(seed: int, prompt: str) -> int:
    """The seed a fixed prompt is always drawn with, whatever stands beside it."""
    return random.Random(f"{seed} preview {prompt}").getrandbits(31)


def _share_recognised(anchors: Anchors) -> float | None:
    """How many of the pictures show the object that their prompt names; None if none names one."""
    judge = recogniser.load()
    named = [
        (picture, name)
        for text, pictures in zip(anchors.texts, anchors.pictures, strict=True)
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


def _lora_family(denoiser: models.Denoiser) -> str:
    """By which names other tools know the layers of a LoRA for this model."""
    is_velocity = denoiser.prediction_type == "v_prediction"
    return "sd2_v" if denoiser.info.family == "sd2" and is_velocity else denoiser.info.family


def same_picture(path: Path, found: PIL.Image.Image, expected: PIL.Image.Image) -> str:
    """How near the picture drawn from a LoRA file is to the adapter's own, in words; ExportError
    if it is another one."""
    difference = PIL.ImageChops.difference(found.convert("RGB"), expected.convert("RGB"))
    levels = sum(PIL.ImageStat.Stat(difference).mean) / 3
    if levels > SAME_PICTURE_LEVELS:
        raise ExportError(
            f"The export was not finished: {path.name} was checked, and it draws another picture "
            f"than the adapter does ({levels:.0f} of 255 levels apart)."
        )
    return (
        f"loaded by diffusers, it draws what the adapter draws ({levels:.1f} of 255 levels apart)"
    )


def _exam_words(found: dict[float, Tally], strength: float) -> str:
    """What the file says of its exams: the one at the strength that is recommended comes first."""
    order = sorted(found, key=lambda at: (at != strength, at))
    said = [f"at strength {at:g} in {found[at]}" for at in order]
    return f"Chosen blind over the base model: {'; '.join(said)}." if said else ""


def _exam_numbers(strength: float, tally: Tally) -> dict[str, float]:
    low, high = tally.interval
    return {
        "strength": strength,
        "tuned": tally.tuned,
        "base": tally.base,
        "no_difference": tally.ties,
        "low_95": round(low, 4),
        "high_95": round(high, 4),
    }


def main(argv: list[str] | None = None) -> int:
    """Work for one home until told to end; gives the exit status."""
    parser = argparse.ArgumentParser(prog="studio.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="the folder of the studio")
    parser.add_argument("--device", help="such as cpu, cuda or mps; default: the best there is")
    arguments = parser.parse_args(argv)
    device = crew.device_here(arguments.device or models.best_device())
    try:
        with crew.joined() as all_of_us:
            if all_of_us.leads:
                _lead(arguments.home, device, all_of_us)
            else:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the leader says when to leave
                following.follow(all_of_us, device)
    except (StoreError, Timeout, CrewLost) as error:
        log.error("The worker ends", exc_info=error)
        print(error, file=sys.stderr)
        return 1
    return 0


def _lead(home: Path, device: str, all_of_us: Crew) -> None:
    """The work itself, and the only one of several processes that writes."""
    try:
        store = Store.open(home)
        logs.set_up(store.home, "worker")
        with FileLock(store.home / "worker.lock", timeout=HANDOVER_S), contextlib.closing(store):
            worker = Worker(store, device, all_of_us)
            signal.signal(signal.SIGTERM, lambda *_: worker.stopping.set())
            if stat.S_ISFIFO(os.fstat(0).st_mode):  # a supervisor holds the other end
                when_supervisor_leaves(worker.stopping.set)
            worker.run()
    finally:
        with contextlib.suppress(CrewLost):
            all_of_us.told(following.LEAVE)


if __name__ == "__main__":
    raise SystemExit(main())
