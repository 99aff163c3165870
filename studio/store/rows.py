"""What the store hands out: one frozen dataclass a table, plus what is counted or joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from studio.settings import Choice, SamplingSettings, SessionSettings, TrainingSettings

Purpose = Literal["pair", "preview", "compare"]
RoundState = Literal[
    "queued", "running", "paused", "stopping", "done", "held_back", "stopped", "failed"
]
JobKind = Literal["preview", "compare", "export", "inspect"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
WorkerState = Literal["starting", "idle", "sampling", "training", "rendering", "exporting", "error"]

OPEN_ROUND_STATES: tuple[RoundState, ...] = ("queued", "running", "paused", "stopping")
OPEN_JOB_STATES: tuple[JobState, ...] = ("queued", "running")
JOB_KINDS: tuple[JobKind, ...] = ("preview", "compare", "export", "inspect")


@dataclass(frozen=True)
class Session:
    """One piece of work: its settings, its picks and its adapters."""

    id: str
    name: str
    settings: SessionSettings
    current_adapter_id: str | None  # None: the base model
    created_at_s: float
    updated_at_s: float


@dataclass(frozen=True)
class Image:
    """One rendered picture; `Store.image_path` and its neighbours say where it lies."""

    id: str
    session_id: str
    purpose: Purpose
    prompt: str
    seed: int
    adapter_id: str | None  # None: the base model
    strength: float
    sampling: SamplingSettings
    base_hash: str
    created_at_s: float
    picture_sha256: str = ""  # of the lossless picture, in hexadecimal; "": not known
    trajectory_sha256: str = ""  # likewise; "" also where no trajectory is kept


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt, as the artist sees them."""

    id: str
    session_id: str
    prompt: str
    left: Image
    right: Image
    adapter_id: str | None
    created_at_s: float
    repeat_of: str | None = None  # the pair that this one asks again, with its sides swapped


@dataclass(frozen=True)
class Pick:
    """What the artist said about a pair. A choice of None withdraws the pick it supersedes."""

    id: str
    pair_id: str
    choice: Choice | None
    created_at_s: float
    supersedes: str | None


@dataclass(frozen=True)
class PickedPair:
    """A pair and the pick that holds for it."""

    pair: Pair
    pick: Pick


@dataclass(frozen=True)
class PickCounts:
    """How many picks hold. `usable` are left or right, on pairs that were not asked before.

    `new` are those that the next round would learn from and the newest one, however it ended, has
    not: when they reach the session's `round_every`, a live session begins a round.
    """

    total: int = 0
    usable: int = 0
    ties: int = 0
    both_bad: int = 0
    skipped: int = 0
    new: int = 0


@dataclass(frozen=True)
class Habits:
    """What the picks say about the picking: both are counts of picks of left or right.

    asked_again: pairs that were shown a second time, sides swapped; same_again: those of them in
    which the same picture was chosen both times. picked, left: all such picks, and those of left.
    """

    asked_again: int
    same_again: int
    picked: int
    left: int


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA; `Store.adapter_path` is its folder."""

    id: str
    session_id: str
    round_id: str
    number: int
    settings: TrainingSettings
    base_hash: str
    picks: int
    sha256: str  # of the weights
    created_at_s: float
    checks: dict[str, Any] = field(default_factory=dict)  # what its pictures showed: see `brake`
    config_sha256: str = ""  # of the file that says how the weights are used; "": not known


@dataclass(frozen=True)
class Round:
    """One training run over the picks there were when it was asked for."""

    id: str
    session_id: str
    number: int
    state: RoundState
    settings: TrainingSettings
    train_pick_ids: tuple[str, ...]
    held_out_pick_ids: tuple[str, ...]
    updates_done: int
    updates_total: int
    adapter_id: str | None
    message: str
    created_at_s: float
    started_at_s: float | None
    finished_at_s: float | None


@dataclass(frozen=True)
class Metric:
    """What one optimiser update of a round measured."""

    round_id: str
    update: int
    values: dict[str, float]


@dataclass(frozen=True)
class Job:
    """Something the web process asks the worker to do."""

    id: str
    session_id: str
    kind: JobKind
    payload: dict[str, Any]
    state: JobState
    progress: float  # 0 to 1
    message: str
    result: dict[str, Any]
    created_at_s: float
    finished_at_s: float | None


@dataclass(frozen=True)
class Export:
    """Files made from an adapter for other programs, and what checking them found."""

    id: str
    session_id: str
    adapter_id: str
    name: str
    files: tuple[str, ...]
    checks: dict[str, Any]
    created_at_s: float


@dataclass(frozen=True)
class WorkerStatus:
    """What the worker last said of itself."""

    pid: int
    state: WorkerState
    message: str
    device: str
    heartbeat_at_s: float
