"""Checks of foreign rows: could the studio have written them itself?"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from studio.store import shapes
from studio.store.errors import StoreError
from studio.store.schema import Json


def stored_columns(table: sa.Table) -> dict[str, sa.Column[Any]]:
    """The columns of a table by the names that are stored, in the database and in archives."""
    return {column.name: column for column in table.columns}


def checked_row(table: sa.Table, row: Any, *, stored: bool = False) -> dict[str, Any]:
    """The values of `row`, which must have exactly the columns of `table`, each valid.

    `stored`: the row is as in a database. Its JSON is text, columns that a later migration adds may
    be missing, and it is returned unchanged. Raises `StoreError`.
    """
    if not isinstance(row, dict):
        raise StoreError(f"A row of {table.name} is not a set of named values.")
    columns = stored_columns(table)
    if not set(row) <= set(columns) or not (stored or set(row) == set(columns)):
        odd = ", ".join(sorted(map(str, set(row) ^ set(columns))))[:200]
        raise StoreError(f"A row of {table.name} has other columns than it should: {odd}.")
    if odd := odd_columns(table, row, stored=stored):
        raise StoreError(f"A row of {table.name} has an invalid {odd[0]}.")
    return row if stored else {name: meant(columns[name], row[name]) for name in row}


def odd_columns(table: sa.Table, row: dict[str, Any], *, stored: bool) -> list[str]:
    """The names of the columns of `row` with values that the studio could not have written."""
    columns = stored_columns(table)
    found: list[str] = []
    values: dict[str, Any] = {}
    for name, value in row.items():
        try:
            values[name] = meant(columns[name], value, stored=stored)
        except shapes.Unreadable:
            found.append(name)
    if not found and (odd := shapes.odd_column(table.name, values)):
        found.append(odd)
    return found


def meant(column: sa.Column[Any], value: Any, *, stored: bool = False) -> Any:
    """A column's value as Python uses it. Raises `shapes.Unreadable`."""
    if isinstance(column.type, Json):
        return column.type.read(value) if stored else shapes.require(column.type.shape, value)
    if stored and isinstance(column.type, sa.Boolean) and value in (0, 1):
        value = bool(value)
    return shapes.require(shapes.of(column), value)
