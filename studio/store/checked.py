"""Whether a row that comes from elsewhere is one that the studio could have written itself."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from studio.store import shapes
from studio.store.errors import StoreError
from studio.store.schema import Json


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
    if odd := odd_columns(table, row, stored=stored):
        raise StoreError(f"A row of {table.name} has a {odd[0]} that makes no sense.")
    return row if stored else {name: meant(table.c[name], row[name]) for name in row}


def odd_columns(table: sa.Table, row: dict[str, Any], *, stored: bool) -> list[str]:
    """The names of the columns of `row` that the studio could not have written."""
    found: list[str] = []
    values: dict[str, Any] = {}
    for name, value in row.items():
        try:
            values[name] = meant(table.c[name], value, stored=stored)
        except shapes.Unreadable:
            found.append(name)
    if not found and (odd := shapes.odd_column(table.name, values)):
        found.append(odd)
    return found


def meant(column: sa.Column[Any], value: Any, *, stored: bool = False) -> Any:
    """A column's value as Python uses it; raises `shapes.Unreadable`."""
    if isinstance(column.type, Json):
        return column.type.read(value) if stored else shapes.require(column.type.shape, value)
    if stored and isinstance(column.type, sa.Boolean) and value in (0, 1):
        value = bool(value)
    return shapes.require(shapes.of(column), value)
