"""The store's return values: a frozen dataclass for each table, and for counts and joins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from studio.settings import (
    Choice,
    Reason,
    SamplingSettings,
    SessionSettings,
    TrainingSettings,
)

Purpose = Literal["pair", "preview", "compare", "exam"]
Verdict = Literal["chosen", "passed_over", "undecided"]
RoundState = Literal[
    "queued", "running", "paused", "stopping", "done", "held_back", "stopped", "failed"
]
JobKind = Literal[
    "preview",
    "compare",
    "exam",
    "grid",
    "best_of",
    "export",
    "inspect",
    "download",
    "library",
    "fit",
    "give_picks",
    "take_picks",
    "read_folder",
    "read_own",
    "judge",
]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
ExamChoice = Literal["left", "right", "tie"]

# Keys in the companions of a picture that was read from a folder, and not drawn here: its file, the
# hash of its content, the model that made it, its settings as A1111 would write them, and the hash
# of its looks (`studio.pictures.alike`).
SOURCE, SOURCE_HASH, SOURCE_MODEL = "Source", "Source hash", "Source model"
SOURCE_SETTINGS, SOURCE_LOOK = "Source settings", "Source look"
# The key, in place of the source's hash, of finished art of the artist's own (`own_pictures`); and
# the judge of picks that choose it, because nobody clicked.
OWN_HASH, OWN_ART = "Own art hash", "own art"

OPEN_ROUND_STATES: tuple[RoundState, ...] = ("queued", "running", "paused", "stopping")
OPEN_JOB_STATES: tuple[JobState, ...] = ("queued", "running")
JOB_KINDS: tuple[JobKind, ...] = get_args(JobKind)
BACKGROUND_JOBS: tuple[JobKind, ...] = ("download",)  # they run while other work goes on
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
    """One rendered picture; `Store.image_path` and its neighbours are its files."""

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
    # Files that took part besides the model, in A1111's words: its own VAE, textual inversions.
    companions: dict[str, str] = field(default_factory=dict)
    deleted_at_s: float | None = None  # set: out of the gallery, and can be brought back
    erased_at_s: float | None = None  # set too: its files are gone for good

    @property
    def is_own(self) -> bool:
        """Whether it is the artist's own finished art, given to learn from."""
        return OWN_HASH in self.companions

    @property
    def look(self) -> int:
        """The hash of the looks of a picture from a folder (`studio.pictures.alike`)."""
        try:
            return int(self.companions.get(SOURCE_LOOK, ""), 16) & (1 << 64) - 1
        except ValueError:  # an archive of anybody's may hold any text
            return int.from_bytes(self.id.encode()[:8])  # like no other


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
    note: str = ""  # by the artist
    grid_id: str | None = None  # the first pair of its grid, if it belongs to one

    @property
    def question_id(self) -> str:
        """Equal for pairs that are asked at once."""
        return self.grid_id or self.id


@dataclass(frozen=True)
class Question:
    """A pair, or all pairs of a grid: the artist is asked about them at once."""

    pairs: tuple[Pair, ...]

    @property
    def id(self) -> str:
        return self.pairs[0].question_id

    @property
    def images(self) -> tuple[Image, ...]:
        """Each picture once, in the order on the screen."""
        return tuple({i.id: i for pair in self.pairs for i in (pair.left, pair.right)}.values())


@dataclass(frozen=True)
class Pick:
    """The artist's choice between the pictures of a pair. None withdraws the pick it supersedes.

    `judge` is the name of the function that chose instead of the artist, or `OWN_ART` where their
    own art was chosen because it is theirs; None: the artist clicked.
    `much_better`, `reason` and `marks` go with a choice of left or right; rounds learn from the
    choice, from `much_better` if their settings say so, and at the marked places. `marks`: by side,
    the places that decided as `studio.settings.MARKS_ACROSS` has them.
    """

    id: str
    pair_id: str
    choice: Choice | None
    created_at_s: float
    supersedes: str | None
    much_better: bool = False
    reason: Reason | None = None
    judge: str | None = None
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PickedPair:
    """A pair and one of its picks, usually the one that holds."""

    pair: Pair
    pick: Pick

    @property
    def marks(self) -> dict[str, str]:
        """By the ids of the pictures."""
        return {getattr(self.pair, side).id: marks for side, marks in self.pick.marks.items()}

    @property
    def chosen(self) -> Image:
        """The better picture, if the choice is left or right."""
        return self.pair.left if self.pick.choice == "left" else self.pair.right

    @property
    def rejected(self) -> Image:
        """The other picture, if the choice is left or right."""
        return self.pair.right if self.pick.choice == "left" else self.pair.left

    @property
    def images(self) -> tuple[Image, Image]:
        return self.pair.left, self.pair.right


@dataclass(frozen=True)
class Answer:
    """The answer to a question: a pick for each of its pairs."""

    picked: tuple[PickedPair, ...]

    @property
    def id(self) -> str:
        return self.picked[0].pick.id

    @property
    def pick(self) -> Pick:
        """Of a pair the only pick, of a grid the first."""
        return self.picked[0].pick

    @property
    def question(self) -> Question:
        return Question(tuple(one.pair for one in self.picked))

    @property
    def ranking(self) -> tuple[str, ...]:
        """Ids of the pictures that are better than others, the best first. All other pictures are
        worse than these."""
        better = [one for one in self.picked if one.pick.choice in ("left", "right")]
        wins = Counter(one.chosen.id for one in better)
        ranking = tuple(image_id for image_id, _ in wins.most_common())
        names_all_but_one = len(better) == len(self.picked) > 1
        last = [image.id for image in self.question.images if image.id not in wins]
        return ranking + tuple(last) if names_all_but_one else ranking


@dataclass(frozen=True)
class KeptAnswer:
    """An answer that was added, and the answer it replaced, if one held until then."""

    answer: Answer
    replaced: Answer | None


@dataclass(frozen=True)
class PickCounts:
    """How many answers hold.

    `total`, `ties`, `both_bad` and `skipped` count questions; a question counts as a tie (both bad,
    skipped) if all of its pairs do. `usable` counts picks of left or right, without pairs that are
    asked again. `new` are those that the next round would use and the newest one, in whatever
    state, does not: when they reach the session's `round_every`, a live session starts a round.
    """

    total: int = 0
    usable: int = 0
    ties: int = 0
    both_bad: int = 0
    skipped: int = 0
    new: int = 0


@dataclass(frozen=True)
class Consistency:
    """How consistent the picks of left and right are: test and retest, and a lean to one side.

    repeated: pairs that were shown a second time, sides swapped, and decided both times. agreed:
    those in which the same picture was chosen both times. picked: picks on pairs, without those of
    grids. left: picks of the left picture among them.
    """

    repeated: int
    agreed: int
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
    checks: dict[str, Any] = field(default_factory=dict)  # see `studio.engine.collapse`
    config_sha256: str = ""  # of adapter_config.json; "": not known


@dataclass(frozen=True)
class Round:
    """One training run over the picks at the time of its request.

    train_pick_ids: picks of left and right; of both_bad too, if it learns from lone pictures.
    favourite_ids: ids of the images that it learns from as favourites.
    """

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
    favourite_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """The metrics of one optimizer update."""

    round_id: str
    update: int
    values: dict[str, float]


@dataclass(frozen=True)
class Job:
    """Work that the web process requests from the worker."""

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


CHECK_PICTURE = "-check.png"  # the ending of the picture that a LoRA file was checked with
USE_WITH = "use together with"  # the key, in an export's checks, of a LoRA that it needs
IN_OTHER_TOOLS = "in ComfyUI and A1111"  # the key of what differs there
MIX = "Mix"  # the key of what is mixed, in a picture's companions and in an export's checks


@dataclass(frozen=True)
class Export:
    """Files made from an adapter for other programs, and the results of checking them."""

    id: str
    session_id: str
    adapter_id: str
    name: str
    files: tuple[str, ...]
    checks: dict[str, Any]
    created_at_s: float


@dataclass(frozen=True)
class KnownModel:
    """The facts about a base model that the worker has inspected."""

    base_model: str  # as it stands in a session's settings
    name: str
    family: str  # a key of the table of families; "": it cannot be used
    words: str  # the family, in an artist's words
    size_px: int  # its native picture size
    bytes: int  # of its weight files; if this or mtime_ns differs now, it has changed
    mtime_ns: int
    base_hash: str = ""  # of its weights; "": not read yet
    problem: str = ""  # a sentence: why it cannot be used, or could not be loaded
    preview: str = ""  # the path of its preview picture, as other tools place it
    licence: str = ""  # as its files name it; "": they do not
