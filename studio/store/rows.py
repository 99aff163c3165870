"""What the store hands out: one frozen dataclass a table, plus what is counted or joined."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from studio.settings import Choice, Reason, SamplingSettings, SessionSettings, TrainingSettings

Purpose = Literal["pair", "preview", "compare", "exam"]
RoundState = Literal[
    "queued", "running", "paused", "stopping", "done", "held_back", "stopped", "failed"
]
JobKind = Literal[
    "preview",
    "compare",
    "exam",
    "grid",
    "export",
    "inspect",
    "download",
    "library",
    "fit",
    "give_picks",
    "take_picks",
]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
ExamChoice = Literal["left", "right", "tie"]
WorkerState = Literal["starting", "idle", "sampling", "training", "rendering", "exporting", "error"]

OPEN_ROUND_STATES: tuple[RoundState, ...] = ("queued", "running", "paused", "stopping")
OPEN_JOB_STATES: tuple[JobState, ...] = ("queued", "running")
JOB_KINDS: tuple[JobKind, ...] = get_args(JobKind)
BESIDE_OTHERS: tuple[JobKind, ...] = ("download",)  # which other work does not wait for
EXAM_CHOICES: tuple[ExamChoice, ...] = ("left", "right", "tie")


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
    favourite: bool = False
    picture_sha256: str = ""  # of the lossless picture, in hexadecimal; "": not known
    trajectory_sha256: str = ""  # likewise; "" also where no trajectory is kept
    # What else than the model drew it, in A1111's words: the VAE beside it, textual inversions.
    beside: dict[str, str] = field(default_factory=dict)


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
    note: str = ""  # what the artist wrote about it
    grid_id: str | None = None  # the first pair of the grid that it is one of

    @property
    def question_id(self) -> str:
        """Pairs of the same question are asked at once."""
        return self.grid_id or self.id


@dataclass(frozen=True)
class Question:
    """What the artist is asked at once: a pair; or a grid, which is all pairs of its pictures."""

    pairs: tuple[Pair, ...]

    @property
    def id(self) -> str:
        return self.pairs[0].question_id

    @property
    def images(self) -> tuple[Image, ...]:
        """As they are shown."""
        return tuple({i.id: i for pair in self.pairs for i in (pair.left, pair.right)}.values())


@dataclass(frozen=True)
class Pick:
    """What the artist said about a pair. A choice of None withdraws the pick it supersedes.

    `much_better` and `reason` go with a choice of left or right. They are kept and shown; rounds
    learn from the choice alone.
    """

    id: str
    pair_id: str
    choice: Choice | None
    created_at_s: float
    supersedes: str | None
    much_better: bool = False
    reason: Reason | None = None


@dataclass(frozen=True)
class PickedPair:
    """A pair and a pick of it, in most places the one that holds."""

    pair: Pair
    pick: Pick

    @property
    def chosen(self) -> Image:
        """The better picture, of a pick of left or right."""
        return self.pair.left if self.pick.choice == "left" else self.pair.right


@dataclass(frozen=True)
class Answer:
    """What was said at once: the picks of all pairs of a question."""

    picked: tuple[PickedPair, ...]

    @property
    def id(self) -> str:
        return self.picked[0].pick.id

    @property
    def question(self) -> Question:
        return Question(tuple(one.pair for one in self.picked))

    @property
    def ranking(self) -> tuple[str, ...]:
        """Ids of the pictures that are better than others, the best first. Those it does not name
        are worse than all it names."""
        better = [one for one in self.picked if one.pick.choice in ("left", "right")]
        wins = Counter(one.chosen.id for one in better)
        ranking = tuple(image_id for image_id, _ in wins.most_common())
        names_all_but_one = len(better) == len(self.picked) > 1
        last = [image.id for image in self.question.images if image.id not in wins]
        return ranking + tuple(last) if names_all_but_one else ranking


@dataclass(frozen=True)
class PickCounts:
    """How many answers hold. `total`, `ties`, `both_bad` and `skipped` count questions answered,
    the others pairs: `usable` are left or right, on pairs that were not asked before.

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
    which the same picture was chosen both times. picked, left: all such picks on pairs that stood
    alone, and those of left.
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


CHECK_PICTURE = "-check.png"  # how the name of what a LoRA file was seen to draw ends
USE_WITH = "use together with"  # among the checks of an export that another LoRA belongs to


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
class KnownModel:
    """What the worker found when it looked at a base model."""

    base_model: str  # as it stands in a session's settings
    name: str
    family: str  # "sd1", "sd2" or "sdxl"; "": it cannot be used
    words: str  # the family, as an artist would say it
    size_px: int  # of the pictures that it was made for
    bytes: int  # of its weight files; where these two are others now, it was changed since
    mtime_ns: int
    base_hash: str = ""  # of its weights; "": they were not read yet
    problem: str = ""  # why it cannot be used, in a sentence
    preview: str = ""  # the path of a picture of it, as other tools keep it


@dataclass(frozen=True)
class ExamPair:
    """One prompt and seed, drawn by the base model and by the tuned one."""

    id: str
    exam_id: str
    prompt: str
    seed: int
    tuned_side: Literal["left", "right"]
    base_image_id: str | None  # None: not drawn yet
    tuned_image_id: str | None
    choice: ExamChoice | None  # the answer that holds

    @property
    def is_drawn(self) -> bool:
        return self.base_image_id is not None and self.tuned_image_id is not None

    @property
    def sides(self) -> tuple[str | None, str | None]:
        """The ids of the left and of the right picture."""
        two = (self.tuned_image_id, self.base_image_id)
        return two if self.tuned_side == "left" else two[::-1]


@dataclass(frozen=True)
class Exam:
    """The artist chooses blind between the base model and an adapter at some strength."""

    id: str
    session_id: str
    adapter_id: str
    strength: float
    sampling: SamplingSettings  # how all of its pictures are made
    left_at_s: float | None  # set: not taken to its end, and never counted
    created_at_s: float
    pairs: tuple[ExamPair, ...]  # in the order in which they are asked

    @property
    def answered(self) -> int:
        return sum(pair.choice is not None for pair in self.pairs)

    @property
    def is_finished(self) -> bool:
        return self.answered == len(self.pairs)

    @property
    def is_open(self) -> bool:
        return self.left_at_s is None and not self.is_finished

    @property
    def tuned_wins(self) -> int:
        return sum(pair.choice == pair.tuned_side for pair in self.pairs)

    @property
    def ties(self) -> int:
        return sum(pair.choice == "tie" for pair in self.pairs)

    @property
    def base_wins(self) -> int:
        return self.answered - self.ties - self.tuned_wins


@dataclass(frozen=True)
class WorkerStatus:
    """What the worker last said of itself."""

    pid: int
    state: WorkerState
    message: str
    device: str
    heartbeat_at_s: float
