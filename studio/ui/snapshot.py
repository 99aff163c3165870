"""The store at one moment, as the pages read it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from studio.settings import SessionSettings
from studio.store import LonePictures, Store
from studio.store.rows import (
    OPEN_ROUND_STATES,
    Adapter,
    Consistency,
    Export,
    Job,
    KnownModel,
    Metric,
    PickCounts,
    Round,
    Session,
)
from studio.store.status import WorkerStatus
from studio.ui import words
from studio.ui.sessions import open_session

FINISHED = ("done", "held_back")  # states of rounds that have learned
ROUNDS_COMPARED = 5  # the last ones


class StoreSnapshot:
    """Reads each thing when it is first asked for, and at most once."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def session(self) -> Session:
        """The open session: the same in every browser tab."""
        return open_session(self.store)

    @property
    def settings(self) -> SessionSettings:
        return self.session.settings

    @cached_property
    def counts(self) -> PickCounts:
        return self.store.pick_counts(self.session.id)

    @cached_property
    def consistency(self) -> Consistency:
        return self.store.consistency(self.session.id)

    @cached_property
    def lone(self) -> LonePictures:
        """Pictures that a round could learn from by themselves; none where that is switched off."""
        if not self.settings.training.lone_pictures:
            return LonePictures()
        return self.store.lone_pictures(self.session.id)

    @cached_property
    def worker(self) -> WorkerStatus | None:
        return self.store.worker_status()

    @cached_property
    def rounds(self) -> list[Round]:
        return sorted(self.store.rounds(self.session.id), key=lambda r: r.number)

    @cached_property
    def newest_round(self) -> Round | None:
        return self.store.newest_round(self.session.id)

    @property
    def open_round(self) -> Round | None:
        newest = self.newest_round
        return newest if newest is not None and newest.state in OPEN_ROUND_STATES else None

    @cached_property
    def metrics(self) -> list[Metric]:
        """Those of the newest round."""
        return list(self.store.metrics(self.newest_round.id)) if self.newest_round else []

    @property
    def agreement(self) -> tuple[int, int] | None:
        """(right, asked): how many held-out picks the newest round predicts, and of how many."""
        return self.newest_round and _agreement(self.newest_round, self.metrics)

    @cached_property
    def agreements(self) -> list[tuple[int, int, int]]:
        """(number, right, asked) of the last finished rounds that were asked, the oldest first."""
        finished = [round_ for round_ in self.rounds if round_.state in FINISHED]
        found = (
            (round_.number, _agreement(round_, self.store.metrics(round_.id)))
            for round_ in finished[-ROUNDS_COMPARED:]
        )
        return [(number, *known) for number, known in found if known is not None]

    @cached_property
    def adapters(self) -> list[Adapter]:
        return sorted(self.store.adapters(self.session.id), key=lambda a: a.number)

    @cached_property
    def current_adapter(self) -> Adapter | None:
        current = self.session.current_adapter_id
        return next((a for a in self.adapters if a.id == current), None)

    @cached_property
    def exports(self) -> list[Export]:
        """Newest first."""
        return list(self.store.exports(self.session.id))

    @cached_property
    def model(self) -> KnownModel | None:
        """The session's base model; None until the worker has inspected it."""
        return self.store.known_model(self.settings.base_model)

    @cached_property
    def worker_line(self) -> tuple[str, str]:
        return words.worker_line(self.worker, self.open_round)

    def newest_job(self, kind: str) -> Job | None:
        jobs = self.store.jobs(self.session.id, kind=kind, limit=1)
        return jobs[0] if jobs else None


def _agreement(round_: Round, metrics: Sequence[Metric]) -> tuple[int, int] | None:
    """(right, asked) of its held-out picks, when they were last asked; None if never."""
    name = "held_out_agreement"
    shares = [metric.values[name] for metric in metrics if name in metric.values]
    asked = len(round_.held_out_pick_ids)
    return (round(shares[-1] * asked), asked) if shares else None
