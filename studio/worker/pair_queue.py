"""The queue of pairs and grids for the artist, and the previews of the fixed prompts."""

from __future__ import annotations

import contextlib
import logging
import random
import threading

from studio.durations import with_duration
from studio.engine import sampling
from studio.engine.distributed import SINGLE_PROCESS, ProcessGroup, ProcessLost
from studio.settings import SessionSettings
from studio.store import Image, Session, Store, StoreError
from studio.worker import follower
from studio.worker.folder_pairs import add_folder_pairs
from studio.worker.progress import picture_kind
from studio.worker.renderer import Renderer
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled

log = logging.getLogger("studio.worker")

READY_PAIRS = 2  # kept in the queue even while the worker does other work


class PairQueue:
    """Draws the pairs and previews of the open session."""

    def __init__(
        self,
        store: Store,
        renderer: Renderer,
        status: StatusReporter,
        stopping: threading.Event,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.store, self.renderer, self.status = store, renderer, status
        self.processes = processes  # each of them draws a pair
        self.stopping = stopping

    def add_pair(self, fewer_than: int | None = None) -> bool:
        """Draw a pair for the open session if its queue is short; False if it is not.

        Several processes draw one pair each.
        """
        session = self._open_session()
        if session is None:
            return False
        is_of_folder = session.settings.pairs_of == "folder"
        if not session.settings.prompts and not is_of_folder:
            return False
        wanted = session.settings.queue_target if fewer_than is None else fewer_than
        missing = wanted - self.store.waiting_count(session.id)
        if missing <= 0:
            return False
        if self.store.ask_again(session.id) is not None:
            return True
        if is_of_folder:
            base_hash = self.renderer.model_of(session).base_hash
            return add_folder_pairs(self.store, session, base_hash, missing)
        settings = session.settings
        first = self.store.drawn_count(session.id)
        count = min(missing, self.processes.size)
        draws = [nth_draw(settings, number) for number in range(first, first + count)]
        number = settings.pictures
        what = "Drawing a pair" if number == 2 else f"Drawing {number} pictures"
        denoiser = self.renderer.model_of(session)
        kind = picture_kind(denoiser.base_hash, settings.sampling)
        picture_s = self.renderer.pace.of(kind)
        takes = with_duration(what, picture_s and picture_s * number)
        self.status.report("sampling", f"{takes}: {draws[0][0]}")
        adapter_id = session.current_adapter_id if settings.pairs_by == "newest" else None
        texts = [self.renderer.expand(prompt, seed) for prompt, seed in draws]
        order = follower.SamplePairs(
            base=settings.base,
            base_hash=denoiser.base_hash,
            adapter=self.renderer.read_adapter(adapter_id),
            texts=texts,
            seeds=[seed for _, seed in draws],
            sampling=settings.sampling,
            pictures=settings.pictures,
        )

        def require_wanted() -> None:
            if self.stopping.is_set():
                raise Cancelled
            if not self.store.has_session(session.id):
                raise Cancelled
            now = self.store.session(session.id).settings
            if not all(_fits(prompt, settings, now) for prompt, _ in draws):
                raise Cancelled  # the artist has changed the settings

        try:
            with (
                self.renderer.pace.measured(kind, settings.pictures),  # by each process
                self.renderer.while_wanted(require_wanted),
            ):
                questions = follower.sample_pairs(self.processes, denoiser, order)
                drawn = [sampling.images(denoiser, chains) for chains in questions]
            require_wanted()
        except Cancelled:
            return True
        for text, chains, pictures_drawn in zip(texts, questions, drawn, strict=True):
            pictures = [
                self.renderer.write(
                    self.renderer.image(session, "pair", text, chain.seed, adapter_id),
                    picture,
                    chain,
                )
                for chain, picture in zip(chains, pictures_drawn, strict=True)
            ]
            self.store.add_question(session.id, text, pictures, adapter_id)
        return True

    def keep_pairs_ready(self) -> None:
        """Top up the queue if it is nearly empty. Failures are logged, not raised."""
        session = self._open_session()
        if session is None or session.settings.base != self.renderer.base:
            return  # the main work needs the loaded model
        try:
            self.add_pair(fewer_than=READY_PAIRS)
        except (StoreError, ProcessLost):
            raise
        except Exception as error:
            log.warning("No pair was drawn: %s", self.status.sentence(error))

    def draw_tuned_preview(self) -> bool:
        """Draw one of the fixed prompts with the current adapter; False if all are drawn."""
        session = self._open_session()
        if session is None or session.current_adapter_id is None:
            return False
        return self._draw_missing_preview(session, session.current_adapter_id)

    def draw_base_preview(self) -> bool:
        """Draw one of the fixed prompts with the base model; False if all are drawn."""
        session = self._open_session()
        return session is not None and self._draw_missing_preview(session, None)

    def _draw_missing_preview(self, session: Session, adapter_id: str | None) -> bool:
        for prompt in session.settings.shown_prompts:
            wanted = self.renderer.preview(session, prompt, adapter_id)
            if not self.renderer.drawn_before(wanted):
                with contextlib.suppress(Cancelled):
                    self._draw_while_open(session, wanted)
                    self.keep_pairs_ready()
                return True
        return False

    def _draw_while_open(self, session: Session, wanted: Image) -> None:
        """Draw a preview; raises Cancelled if the worker ends or the session is deleted."""

        def require_wanted() -> None:
            if self.stopping.is_set() or not self.store.has_session(session.id):
                raise Cancelled

        with self.renderer.while_wanted(require_wanted):
            self.renderer.draw(wanted)

    def _open_session(self) -> Session | None:
        session_id = self.store.last_session_id()
        return None if session_id is None else self.store.session(session_id)


def nth_draw(settings: SessionSettings, number: int) -> tuple[str, int]:
    """Prompt and seed of a session's pair: every turn goes through all prompts in a new order."""
    seed = settings.sampling.seed
    turn, index = divmod(number, len(settings.prompts))
    prompts = random.Random(f"{seed} turn {turn}").sample(settings.prompts, len(settings.prompts))
    return prompts[index], random.Random(f"{seed} pair {number}").getrandbits(31)


def _fits(prompt: str, then: SessionSettings, now: SessionSettings) -> bool:
    """Whether a pair that was begun with earlier settings is still wanted."""
    names = ("base", "sampling", "pictures")
    return prompt in now.prompts and all(getattr(then, n) == getattr(now, n) for n in names)
