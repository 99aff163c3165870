"""The last steps of a round: its test pictures are drawn one by one, and judged for collapse.

The adapter is stored before, and every picture as soon as it is drawn. So a worker that ends in
between loses none of them, and the pages show each as it comes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import PIL.Image

from studio.engine import collapse, recogniser
from studio.engine.distributed import ProcessLost
from studio.store import Adapter, Image, Round, Session, Store, StoreError
from studio.worker.pair_queue import PairQueue
from studio.worker.progress import RoundSteps
from studio.worker.renderer import Renderer, preview_seed
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled

log = logging.getLogger("studio.worker")

REFERENCE_SEEDS = 2  # pictures of each fixed prompt that a round is judged by


@dataclass(frozen=True)
class Wanted:
    """The rows of the pictures of a fixed prompt, by seed. text: with its alternatives chosen."""

    text: str
    tuned: list[Image]
    base: list[Image]


def wanted_pictures(
    renderer: Renderer, session: Session, adapter_id: str | None
) -> tuple[Wanted, ...]:
    """What a round is judged by: each fixed prompt, drawn with an adapter and by the base model."""

    def of(prompt: str) -> Wanted:
        first = preview_seed(session.settings.sampling.seed, prompt)
        text = renderer.expand(prompt, first)

        def rows(adapter_id: str | None, is_shown: bool) -> list[Image]:
            """The first is the preview that the artist sees."""
            others = [
                renderer.image(session, "compare", text, first + offset, adapter_id)
                for offset in range(REFERENCE_SEEDS)
            ]
            shown = renderer.preview(session, prompt, adapter_id)
            return [shown, *others[1:]] if is_shown else others

        # The base model's preview may be older than the artist's lists of alternatives.
        return Wanted(text, rows(adapter_id, True), rows(None, text == prompt))

    return tuple(of(prompt) for prompt in session.settings.shown_prompts)


def missing_of_base(renderer: Renderer, wanted: tuple[Wanted, ...]) -> int:
    """How many pictures of the base model are not drawn yet: later rounds find them all."""
    return sum(renderer.drawn_before(image) is None for one in wanted for image in one.base)


def judge(
    store: Store, session: Session, texts: list[str], sides: list[list[list[Image]]]
) -> collapse.Checks | None:
    """The comparison of the drawn pictures of the base and of the tuned model, each prompt by
    prompt; None if there is no prompt."""
    if not texts:
        return None
    base, tuned = ([[_read(store, one) for one in row] for row in side] for side in sides)
    recognised = [None, None]
    if session.settings.base_model == "starter":
        recognised = [_share_recognised(texts, side) for side in (base, tuned)]
    return collapse.compare(base, tuned, *recognised)


def _read(store: Store, image: Image) -> PIL.Image.Image:
    with PIL.Image.open(store.image_path(image)) as picture:
        return picture.convert("RGB")


def _share_recognised(texts: list[str], pictures: list[list[PIL.Image.Image]]) -> float | None:
    """Share of the pictures that show the object of their prompt; None if no prompt names one."""
    judging = recogniser.load()
    named = [
        (picture, name)
        for text, row in zip(texts, pictures, strict=True)
        if (name := judging.object_in(text)) is not None
        for picture in row
    ]
    if not named:
        return None
    ranks = judging.object_ranks([picture for picture, _ in named], [name for _, name in named])
    return float((ranks == 0).float().mean())


@dataclass
class CheckedRound:
    """The round whose pictures are being drawn.

    drawn: by the id of the row that was wanted; a picture that was there before has another.
    notes: sentences for the artist.
    """

    round: Round
    session: Session
    adapter: Adapter
    wanted: tuple[Wanted, ...]
    base_missing: int  # when it was taken up
    notes: tuple[str, ...]
    drawn: dict[str, Image] = field(default_factory=dict)

    @property
    def in_order(self) -> list[Image]:
        """Those first that the artist sees: one of every prompt, then the others."""
        return [
            image
            for pictures in ([one.tuned for one in self.wanted], [one.base for one in self.wanted])
            for seed in zip(*pictures, strict=True)
            for image in seed
        ]

    @property
    def missing(self) -> list[Image]:
        return [image for image in self.in_order if image.id not in self.drawn]


class RoundChecks:
    """Draws and judges the pictures of one round at a time, and finishes it."""

    def __init__(
        self,
        store: Store,
        renderer: Renderer,
        pair_queue: PairQueue,
        status: StatusReporter,
        stopping: threading.Event,
    ) -> None:
        self.store, self.renderer, self.pair_queue, self.status, self.stopping = (
            store,
            renderer,
            pair_queue,
            status,
            stopping,
        )
        self.active: CheckedRound | None = None

    def begin(self, round_: Round, notes: tuple[str, ...] = ()) -> None:
        """Take up a round whose adapter is stored."""
        assert round_.adapter_id is not None
        session = self.store.session(round_.session_id)
        adapter = self.store.adapter(round_.adapter_id)
        self.renderer.require_base(session, adapter)
        wanted = wanted_pictures(self.renderer, session, adapter.id)
        base_missing = missing_of_base(self.renderer, wanted)
        self.active = active = CheckedRound(round_, session, adapter, wanted, base_missing, notes)
        for image in active.in_order:
            if before := self.renderer.drawn_before(image):
                active.drawn[image.id] = before
        self._report(active)

    def go_on(self) -> bool:
        """Draw the next picture, or finish the round when all are drawn; False if there is none."""
        active = self.active
        if active is None:
            return False
        round_ = self.store.round(active.round.id)
        match round_.state:
            case "running":
                if round_.message:  # an outdated "Waiting."
                    self.store.update_round(round_.id, message="")
                try:
                    with contextlib.suppress(Cancelled), self._while_wanted(active):
                        self._draw_or_judge(active)
                except (StoreError, ProcessLost):
                    self.put_down()
                    raise
                except Exception as error:
                    sentence = self.status.sentence(error)
                    self.store.update_round(round_.id, state="failed", message=sentence)
                    self.drop()
                self.pair_queue.keep_pairs_ready()
            case "paused":
                self.put_down()
            case "stopping":
                self._finish(active, active.adapter, self._stopped(active))
            case _:
                self.drop()
        return True

    def put_down(self) -> None:
        """Release the round, to be taken up later."""
        if self.active is not None:
            try:
                self.store.release_round(self.active.round.id)
            except StoreError:
                log.warning("A round could not be released", exc_info=True)
            self.drop()

    def drop(self) -> None:
        self.active = None
        self.status.show_round(None)

    def _draw_or_judge(self, active: CheckedRound) -> None:
        self._report(active)
        missing, wanted = active.missing, active.wanted
        if missing:
            active.drawn[missing[0].id] = self.renderer.draw(missing[0])
            return
        sides = [
            [[active.drawn[image.id] for image in row] for row in rows]
            for rows in ([one.base for one in wanted], [one.tuned for one in wanted])
        ]
        checks = judge(self.store, active.session, [one.text for one in wanted], sides)
        adapter = replace(active.adapter, checks=checks.values() if checks else {})
        lost = collapse.failure(checks) if checks else ""
        if lost:
            log.warning("Round %d is held back: %s", active.round.number, checks)
            message = f"Held back, because {lost}. The adapter in use before stays in use."
        else:
            message = "Done."
        self._finish(active, adapter, message, held_back=bool(lost))

    def _finish(
        self, active: CheckedRound, adapter: Adapter, message: str, held_back: bool = False
    ) -> None:
        message = " ".join((message, *_left_out(active.round, adapter), *active.notes))
        self.store.finish_round(active.round.id, adapter, message, held_back=held_back)
        self.drop()

    def _stopped(self, active: CheckedRound) -> str:
        drawn, total = self._count(active, [image for one in active.wanted for image in one.tuned])
        return (
            f"Done. You stopped it after {drawn} of its {total} test pictures, so it was not "
            "checked for damage. Those that you see here are drawn later."
        )

    def _report(self, active: CheckedRound) -> None:
        words = "Judging the pictures"
        for what, side in (
            ("Drawing base pictures", [image for one in active.wanted for image in one.base]),
            ("Drawing test pictures", [image for one in active.wanted for image in one.tuned]),
        ):
            drawn, total = self._count(active, side)
            if drawn < total:
                words = f"{what}, {drawn + 1} of {total}"
        all_of_them = REFERENCE_SEEDS * len(active.wanted) + active.base_missing
        steps = RoundSteps(
            self.renderer.pace,
            active.adapter.base_hash,
            active.session.settings.sampling,
            active.round,
            (all_of_them - len(active.missing), all_of_them),
            len(active.round.held_out_pick_ids),
        )
        progress = steps.progress(words, active.round.updates_total, has_adapter=True)
        self.status.show_round(progress)

    def _count(self, active: CheckedRound, images: list[Image]) -> tuple[int, int]:
        """(drawn, all) of some pictures."""
        return sum(image.id in active.drawn for image in images), len(images)

    @contextlib.contextmanager
    def _while_wanted(self, active: CheckedRound) -> Iterator[None]:
        """Inside, the model raises Cancelled if the worker ends, the round is paused or stopped, or
        its session is deleted."""

        def require_wanted() -> None:
            if self.stopping.is_set() or self.store.round(active.round.id).state != "running":
                raise Cancelled

        with self.renderer.while_wanted(require_wanted):
            yield


def _left_out(round_: Round, adapter: Adapter) -> list[str]:
    """A sentence about picks that could not be read, if there are any."""
    count = len(round_.train_pick_ids + round_.held_out_pick_ids) - adapter.picks
    if count <= 0:
        return []
    return [f"Learned without {count} of the picks: their files are missing or changed."]
