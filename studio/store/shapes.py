"""The valid values of each column: a pydantic shape for every one.

The same shapes apply everywhere: to an archive's rows, to rows that are read for a page or the
worker, and to rows that the doctor checks or restores. `schema` gives every JSON column its shape;
those of the other columns follow from their types and names here.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NotRequired, get_args

import sqlalchemy as sa
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

# pydantic takes this one before Python 3.12
from typing_extensions import TypedDict

from studio.settings import CHOICES, LARGEST_INTEGER, MARKS_ACROSS, REASONS, MixPart, StartLora
from studio.store import rows
from studio.store.status import WorkerState

LONGEST_TEXT = 100_000
LONGEST_LIST = 100_000
MOST_PARTS = 100  # of a mix
STRICT = ConfigDict(strict=True, extra="forbid")

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]  # pydantic rejects lone surrogates
Texts = dict[Text, Text]
TextList = Annotated[list[Text], Field(max_length=LONGEST_LIST)]
Finite = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
Few = Annotated[int, Field(ge=0, le=1_000_000_000)]
Integer = Annotated[int, Field(ge=-LARGEST_INTEGER - 1, le=LARGEST_INTEGER)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, le=32_503_680_000, allow_inf_nan=False)]  # to the year 3000
Duration = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Unreadable(ValueError):
    """A column holds a value that the studio could not have written."""


# --- JSON columns --------------------------------------------------------------------------------


def _measured(values: dict[str, float]) -> dict[str, float]:
    """A loss may be NaN; values that are calculated with may not."""
    _share.validate_python(values.get("held_out_agreement", 0.0))
    _duration.validate_python(values.get("seconds", 0.0))
    return values


def _other_lora(values: dict[str, Any]) -> dict[str, Any]:
    StartLora.from_dict(values)
    return values


def _mix(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for part in values:
        MixPart.from_dict(part)
    return values


def _marked(bits: str) -> str:
    if not int(bits, 16):
        raise ValueError("nothing is marked")
    return bits


Marked = Annotated[
    str, Field(pattern=rf"^[0-9a-f]{{{MARKS_ACROSS**2 // 4}}}$"), AfterValidator(_marked)
]


class Cell(TypedDict):
    """Part of a comparison: the ids of the pictures by base, tuned and perhaps another LoRA."""

    __pydantic_config__ = STRICT
    prompt: Text
    seed: Count
    base: Text
    tuned: Text
    other: NotRequired[Text]


class Marks(TypedDict, total=False):
    """Where the artist marked the pictures of a pair."""

    __pydantic_config__ = STRICT
    left: Marked
    right: Marked


class Mixed(TypedDict):
    """A mix as it was when it was asked for.

    hash: of the contents of its parts, by `studio.worker.mixing`; "" until it was drawn.
    """

    __pydantic_config__ = STRICT
    name: Text
    parts: Annotated[
        list[dict[str, Any]], Field(min_length=1, max_length=MOST_PARTS), AfterValidator(_mix)
    ]
    hash: Text


class Payload(TypedDict, total=False):
    """The input of a job. The worker's method for its kind documents which keys it has."""

    __pydantic_config__ = STRICT
    prompts: TextList
    seeds: Annotated[list[Count], Field(max_length=LONGEST_LIST)]
    adapter_id: Text | None
    adapter_ids: TextList
    strength: Strength
    strengths: Annotated[list[Strength], Field(max_length=LONGEST_LIST)]
    other: Annotated[dict[str, Any], AfterValidator(_other_lora)] | None
    mix: Annotated[list[dict[str, Any]], Field(max_length=MOST_PARTS), AfterValidator(_mix)]
    mixes: dict[Text, Mixed]
    rank: Count
    exam_id: Text
    name: Text
    formats: TextList
    precision: Text
    workflows: bool
    trigger: Text
    licence: Text
    author: Text
    notes: Text
    form: Text
    judge: Text
    picks: Count
    path: Text
    caption: Text
    repo: Text
    base_model: Text


class Result(TypedDict, total=False):
    """The output of a job so far."""

    __pydantic_config__ = STRICT
    image_ids: TextList
    unread: Texts
    cells: Annotated[list[Cell], Field(max_length=LONGEST_LIST)]
    fit: Text
    mix: Text
    export_id: Text
    files: TextList
    checks: Texts
    folder: Text
    picks: Count
    pictures: Count
    known: Count
    other_model: Count
    other_size: Count
    left_out: Count
    session_id: Text
    name: Text
    base_model: Text
    family: Text
    size_px: Annotated[int, Field(ge=1, le=65_536)]
    note: Text
    words: Text
    models: Count
    others: Count
    problems: TextList
    remarks: TextList  # about files that were left out


class RoundProgress(TypedDict):
    """The worker's report about its round."""

    __pydantic_config__ = STRICT
    round_id: Text
    step: Text
    share: Share
    left_s: Duration | None


class Worker(TypedDict):
    """The worker's report about itself."""

    __pydantic_config__ = STRICT
    pid: Count
    state: WorkerState
    message: Text
    device: Text
    heartbeat_at_s: Moment
    round: NotRequired[RoundProgress | None]


# Keys that the pages need, by kind of job: of its payload, and of its result when it is done.
ASKED = {
    "grid": {"prompts", "seeds", "adapter_ids", "strengths"},
    "best_of": {"prompts", "seeds", "adapter_id"},
    "judge": {"judge", "picks"},
    "fit": {"path"},
}
DONE = {
    "fit": {"name", "words"},
    "inspect": {"name", "family", "size_px"},
    "download": {"name", "family", "size_px"},
    "give_picks": {"folder", "picks", "left_out"},
    "take_picks": {"session_id", "name", "picks", "left_out"},
    "read_folder": {"pictures", "known", "left_out", "other_model", "other_size"},
    "read_own": {"pictures", "known", "left_out"},
}

_share = TypeAdapter(Share, config=STRICT)
_duration = TypeAdapter(Duration, config=STRICT)

NAMES = TypeAdapter(Annotated[TextList, AfterValidator(tuple)], config=STRICT)  # read as a tuple
TEXTS = TypeAdapter(Texts, config=STRICT)
NUMBERS = TypeAdapter(dict[Text, float], config=STRICT)
MARKS = TypeAdapter(Marks)
MIXED: TypeAdapter[Any] = TypeAdapter(Mixed | None)
MEASURED = TypeAdapter(Annotated[dict[Text, float], AfterValidator(_measured)], config=STRICT)
PAYLOAD = TypeAdapter(Payload)
RESULT = TypeAdapter(Result)
ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)  # a single value has a shape by its name
# Single values of the whole store.
VALUES: dict[str, TypeAdapter[Any]] = {
    "changes": TypeAdapter(Count, config=STRICT),
    "last_session_id": TypeAdapter(Text, config=STRICT),
    "lora_folder": TypeAdapter(Text, config=STRICT),
    "model_folders": TypeAdapter(TextList, config=STRICT),
    "seconds": TypeAdapter(dict[Text, Duration], config=STRICT),
    "tour_seen": TypeAdapter(bool, config=STRICT),
    "worker": TypeAdapter(Worker),
}


def settings_of(kind: type) -> TypeAdapter[Any]:
    """The shape of a settings dataclass, stored as its dictionary."""
    return TypeAdapter(
        Annotated[dict[str, Any], AfterValidator(kind.from_dict)],  # type: ignore[attr-defined]
        config=STRICT,
    )


IMPORTED = "imported "  # and a session's id: the `seq` of the last pick from its archive


def value_shape(name: str) -> TypeAdapter[Any]:
    """The shape of a single value of the whole store."""
    return VALUES["changes" if name.startswith(IMPORTED) else name]


def _is_value(name: str, value: Any) -> bool:
    try:
        require(value_shape(name), value)
    except KeyError:  # another version's
        return True
    except Unreadable:
        return False
    return True


def require(shape: TypeAdapter[Any], value: Any) -> Any:
    """The value as Python uses it. Raises `Unreadable` if it does not have the shape."""
    try:
        return shape.validate_python(value)
    except (ValidationError, RecursionError, OverflowError) as error:
        raise Unreadable(str(error)[:500]) from error


# --- the other columns ---------------------------------------------------------------------------

WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("images", "purpose"): get_args(rows.Purpose),
    ("picks", "choice"): CHOICES,
    ("picks", "reason"): REASONS,
    ("exam_pairs", "tuned_side"): ("left", "right"),
    ("exam_answers", "choice"): rows.EXAM_CHOICES,
    ("rounds", "state"): get_args(rows.RoundState),
    ("jobs", "kind"): rows.JOB_KINDS,
    ("jobs", "state"): get_args(rows.JobState),
}
INTEGERS: dict[str, Any] = {
    "seed": Count,
    "number": Few,
    "picks": Few,
    "update": Few,
    "updates_done": Few,
    "updates_total": Few,
    "attempts": Few,
    "size_px": Few,
}
FLOATS: dict[str, Any] = {"progress": Share, "strength": Strength}


@cache
def of(column: sa.Column[Any]) -> TypeAdapter[Any]:
    """The shape of a column that is not JSON."""
    words = WORDS.get((column.table.name, column.name))
    kind: Any
    if words is not None:
        kind = Literal[words]
    elif isinstance(column.type, sa.Boolean):
        kind = bool
    elif isinstance(column.type, sa.Float):
        kind = Moment if column.name.endswith("_at_s") else FLOATS.get(column.name, Finite)
    elif isinstance(column.type, sa.Integer):
        kind = INTEGERS.get(column.name, Integer)
    else:
        kind = Text
    return TypeAdapter(kind | None if column.nullable else kind, config=STRICT)


def odd_column(table: str, values: dict[str, Any]) -> str | None:
    """The name of a column that is valid by itself but does not fit the rest of its row."""
    if table == "state" and {"name", "value"} <= set(values):
        return None if _is_value(values["name"], values["value"]) else "value"
    if table == "images" and {"deleted_at_s", "erased_at_s"} <= set(values):
        is_shown = values["deleted_at_s"] is None
        return "erased_at_s" if is_shown and values["erased_at_s"] is not None else None
    if table != "jobs" or not {"kind", "payload", "state", "result"} <= set(values):
        return None
    kind, is_done = values["kind"], values["state"] == "done"
    if not ASKED.get(kind, set()) <= set(values["payload"]):
        return "payload"
    return "result" if is_done and not DONE.get(kind, set()) <= set(values["result"]) else None
