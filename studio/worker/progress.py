"""How long the steps of a piece of work take: measured on this machine, never guessed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from studio.engine.evaluation import SHIFT_PICTURES
from studio.engine.training import checks_of
from studio.settings import SamplingSettings
from studio.store import Round, Store, StoreError
from studio.store.status import RoundProgress

log = logging.getLogger("studio.worker")

MOST_KINDS = 100  # of work that are remembered, those measured last
NEW_SHARE = 1 / 3  # of a new measurement in the average: machines are busier at times
MOST_TIMES = 4.0  # the average; a longer time counts as this: the machine may have been asleep
MOST_SHARE = 0.99  # that is done of work that goes on


@dataclass(frozen=True)
class Step:
    """`unit_s`: seconds for one of `total`; None if that was never measured."""

    done: int
    total: int
    unit_s: float | None


def left_s(steps: Iterable[Step]) -> float | None:
    """The seconds that all of the steps still take; None if one that remains was never measured."""
    remaining = [(step.total - step.done, step.unit_s) for step in steps if step.done < step.total]
    if any(unit_s is None for _, unit_s in remaining):
        return None
    return sum(count * unit_s for count, unit_s in remaining if unit_s is not None)


def share_done(steps: Iterable[Step]) -> float:
    """0 to `MOST_SHARE`: of the time of all steps, so far as their times are known."""
    known = [(step.done, step.total, step.unit_s) for step in steps if step.unit_s is not None]
    total_s = sum(total * unit_s for _, total, unit_s in known)
    done_s = sum(done * unit_s for done, _, unit_s in known)
    return min(MOST_SHARE, done_s / total_s) if total_s else 0.0


class Pace:
    """Seconds for a unit of each kind of work: averages that are kept from worker to worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seconds = store.measured_seconds()

    def of(self, kind: str) -> float | None:
        """Seconds for one unit; None if none was ever measured."""
        return self._seconds.get(kind)

    def note(self, kind: str, unit_s: float) -> None:
        """Take a new measurement into the average."""
        before = self._seconds.pop(kind, unit_s)
        counted_s = min(unit_s, MOST_TIMES * before)
        self._seconds[kind] = before + NEW_SHARE * (counted_s - before)
        while len(self._seconds) > MOST_KINDS:
            del self._seconds[next(iter(self._seconds))]
        try:
            self._store.set_measured_seconds(self._seconds)
        except StoreError:  # on a full disk, for example: it is known until this worker ends
            log.warning("A measured time could not be kept", exc_info=True)

    @contextlib.contextmanager
    def measured(self, kind: str, units: int = 1) -> Iterator[None]:
        """Time what is done inside, unless it fails."""
        started_s = time.monotonic()
        yield
        self.note(kind, (time.monotonic() - started_s) / units)


# --- a round -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundSteps:
    """The steps of a round, in units of each, with what is done of them."""

    pace: Pace
    base_hash: str
    sampling: SamplingSettings
    round: Round
    drawn: tuple[int, int]  # (done, all) test pictures
    held_out: int  # pairs
    measured: int = 0  # pictures, for how far the adapter moves them
    checked: int = 0  # times that the held-out pairs were asked

    @property
    def update_kind(self) -> str:
        """The kinds of work are the keys of `Pace`."""
        training = self.round.settings
        way = f"{training.objective} {training.optimizer} {training.batch_pairs}"
        return f"update {self._network} {way}"

    @property
    def measuring_kind(self) -> str:
        return f"measuring {self._network}"

    @property
    def asking_kind(self) -> str:
        return f"asking {self._network} {self.round.settings.objective}"

    @property
    def _network(self) -> str:
        return _network_kind(self.base_hash, self.sampling)

    def after(self, updates: int, has_adapter: bool = False) -> list[Step]:
        """All steps when so many updates are made; with an adapter, only drawing is left."""
        round_ = self.round
        pictures = 2 * len(round_.train_pick_ids) + len(round_.favourite_ids)
        measured = min(SHIFT_PICTURES, pictures) if round_.settings.target_shift else 0
        asked = checks_of(round_.updates_total) * self.held_out
        done = (measured, asked)
        if not has_adapter:
            done = (min(self.measured, measured), self.checked * self.held_out)
        picture_s = self.pace.of(picture_kind(self.base_hash, self.sampling))
        measure_s = self.pace.of(self.measuring_kind)
        if measure_s is None and picture_s is not None:  # two passes, tuned and base
            measure_s = 2 * picture_s / self.sampling.steps
        return [
            Step(updates, round_.updates_total, self.pace.of(self.update_kind)),
            Step(done[0], measured, measure_s),
            Step(done[1], asked, self.pace.of(self.asking_kind)),
            Step(*self.drawn, picture_s),
        ]

    def progress(self, words: str, updates: int, has_adapter: bool = False) -> RoundProgress:
        """For the artist: `words` say what is done now."""
        steps = self.after(updates, has_adapter)
        return RoundProgress(self.round.id, words, share_done(steps), left_s(steps))


def picture_kind(base_hash: str, sampling: SamplingSettings) -> str:
    """The kind of work that drawing one picture is."""
    return f"picture {_network_kind(base_hash, sampling)} {sampling.steps}"


def _network_kind(base_hash: str, sampling: SamplingSettings) -> str:
    guided = " guided" if sampling.guidance > 1 else ""
    return f"{base_hash[:12]} {sampling.width_px}x{sampling.height_px}{guided}"
