"""Whether a row that comes from elsewhere is one that the studio could have written itself."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import sqlalchemy as sa

from studio.settings import CHOICES, REASONS, SettingsError
from studio.store import rows
from studio.store.errors import StoreError
from studio.store.schema import Settings, Texts, Tuple

LONGEST_TEXT = 100_000
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


def checked_row(table: sa.Table, row: Any, *, stored: bool = False) -> dict[str, Any]:
    """`row` as values to insert: exactly the columns of `table`, each of its type and meaning.

    `stored`: as it is in a database, where JSON is text, and columns may be missing that a later
    migration adds; it is returned as it is. Raises `StoreError`.
    """
    if not isinstance(row, dict):
        raise StoreError(f"A row of {table.name} is not a set of named values.")
    if not set(row) <= set(table.c.keys()) or not (stored or set(row) == set(table.c.keys())):
        odd = ", ".join(sorted(map(str, set(row) ^ set(table.c.keys()))))[:200]
        raise StoreError(f"A row of {table.name} has other columns than it should: {odd}.")
    return {
        name: _checked(table, column, row[name], stored)
        for name, column in table.c.items()
        if name in row
    }


def _checked(table: sa.Table, column: sa.Column[Any], value: Any, stored: bool) -> Any:
    wrong = StoreError(f"A row of {table.name} has a {column.name} that makes no sense.")
    if value is None:
        if column.nullable:
            return None
        raise wrong
    kind = column.type
    try:
        if isinstance(kind, Settings | Tuple | Texts | sa.JSON):
            meant = json.loads(value) if stored else value
            if isinstance(kind, Settings):
                settings = kind.kind.from_dict(meant)
                _require_types(settings, kind.kind())
                return value if stored else settings
            if isinstance(kind, Tuple) and not (
                isinstance(meant, list) and all(isinstance(one, str) for one in meant)
            ):
                raise wrong
            if isinstance(kind, Texts) and not (
                isinstance(meant, dict)
                and all(isinstance(one, str) and _is_text(one) for one in meant.values())
            ):
                raise wrong
            return value
    except (SettingsError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise wrong from error
    if isinstance(kind, sa.Float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and abs(value) < 1e300 and math.isfinite(value)
    elif isinstance(kind, sa.Boolean):
        fits = value in (0, 1) if stored else isinstance(value, bool)
    elif isinstance(kind, sa.Integer):
        fits = type(value) is int and -(2**63) <= value < 2**63
    else:
        fits = isinstance(value, str) and len(value) <= LONGEST_TEXT and _is_text(value)
    allowed = WORDS.get((table.name, column.name))
    if not fits or (allowed is not None and value not in allowed):
        raise wrong
    return value


def _is_text(value: str) -> bool:
    """Half a surrogate pair, which JSON can write, is no text and cannot be stored."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_types(settings: Any, like: Any) -> None:
    """Whether each value is of the kind that the defaults are of, all the way down."""
    for field in dataclasses.fields(settings):
        value, default = getattr(settings, field.name), getattr(like, field.name)
        if dataclasses.is_dataclass(default):
            _require_types(value, default)
        elif isinstance(default, tuple):
            if not (isinstance(value, tuple) and all(isinstance(one, str) for one in value)):
                raise TypeError(field.name)
        elif value is None and default is None:
            continue
        elif isinstance(default, float | None):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value)):
                raise TypeError(field.name)
        elif type(value) is not type(default):
            raise TypeError(field.name)
