"""The SQLite file: connections, transactions, migrations, and its errors as sentences."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects.sqlite import insert

from studio.paths import expanded
from studio.store import schema, shapes
from studio.store.errors import RowDamaged, StoreDamaged, StoreError, StoreFull, StoreTooNew
from studio.store.files import full_sentence, is_full
from studio.store.paths import Home
from studio.store.snapshots import take_snapshot

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 10.0

log = logging.getLogger("studio.store")

Row = TypeVar("Row")


def read(kind: type[Row], row: sa.Row[Any], table: sa.FromClause, **given: Any) -> Row:
    """Make a dataclass of `rows` from the columns of `table` in `row`; `given` fills the rest.

    Raises `RowDamaged` if a column holds a value that the studio could not have written.
    """
    names = (f.name for f in dataclasses.fields(kind) if f.name not in given)  # type: ignore[arg-type]
    values = {name: row._mapping[table.c[name]] for name in names}
    columns = getattr(table, "element", table).c  # of an alias: those of the table itself
    for name, value in values.items():
        if not _fits(columns[name], value):
            raise _damaged(row, table, name)
    if odd := shapes.odd_column(columns[name].table.name, values):
        raise _damaged(row, table, odd)
    return kind(**values, **given)


def _fits(column: sa.Column[Any], value: Any) -> bool:
    if isinstance(column.type, schema.Json):
        return not isinstance(value, shapes.Unreadable)
    try:
        shapes.require(shapes.of(column), value)
    except shapes.Unreadable:
        return False
    return True


def _damaged(row: sa.Row[Any], table: sa.FromClause, column: str) -> RowDamaged:
    name = getattr(table, "element", table).name
    keys = [table.c.id] if "id" in table.c else [table.c[key.name] for key in table.primary_key]
    ids = " ".join(repr(row._mapping[key])[:80].strip("'") for key in keys)
    return RowDamaged(name, ids, column)


def read_all(
    connection: sa.Connection, found: Iterable[sa.Row[Any]], make: Callable[[sa.Row[Any]], Row]
) -> list[Row]:
    """Apply `make` to all rows; damaged ones are left out and remembered."""
    readable = []
    for row in found:
        try:
            readable.append(make(row))
        except RowDamaged as error:
            remember_damage(connection, error)
    return readable


def first_readable(
    connection: sa.Connection, found: Iterable[sa.Row[Any]], make: Callable[[sa.Row[Any]], Row]
) -> Row | None:
    """Apply `make` to the first row that is not damaged; None if there is none."""
    for row in found:
        for made in read_all(connection, (row,), make):
            return made
    return None


def remember_damage(connection: sa.Connection, error: RowDamaged) -> None:
    """Remember a damaged row for `Database.damaged_rows`, and log it once."""
    damaged: set[tuple[str, str]] = connection.get_execution_options()["damaged"]
    if (error.table, error.id) not in damaged:
        damaged.add((error.table, error.id))
        log.error("%s", error)


def get_value(connection: sa.Connection, name: str) -> Any:
    """A single value of the whole store; None if there is none, or if it is damaged."""
    found = connection.scalar(sa.select(schema.state.c.value).where(schema.state.c.name == name))
    if found is None:
        return None
    try:
        return shapes.require(shapes.value_shape(name), found)
    except shapes.Unreadable:
        remember_damage(connection, RowDamaged("state", name, "value"))
        return None


def set_value(connection: sa.Connection, name: str, value: Any) -> None:
    """Set a single value of the whole store."""
    statement = insert(schema.state).values(name=name, value=value)
    connection.execute(statement.on_conflict_do_update(["name"], set_={"value": value}))


class Database(Home):
    """Transactions on the database of one home.

    Any number of threads and processes may use the same home: a transaction that writes takes the
    write lock when it begins, and waits for it up to `BUSY_TIMEOUT_S`.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.path = home / "studio.sqlite"
        self._damaged_rows: set[tuple[str, str]] = set()
        self._engine = sa.create_engine(
            f"sqlite:///{self.path}",
            connect_args={"timeout": BUSY_TIMEOUT_S},
            pool_size=8,
            max_overflow=64,
            execution_options={"damaged": self._damaged_rows},
        )
        sa.event.listen(self._engine, "connect", _prepare)

    @classmethod
    def open(cls, home: Path | str) -> Self:
        """Open the store of `home`; it is created or migrated first if need be.

        Raises `StoreTooNew` if a newer studio wrote it, and `StoreError` if it is damaged or cannot
        be read or written.
        """
        home = expanded(home).absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if is_full(error):
                raise StoreFull(full_sentence(home)) from error
            raise StoreError(f"The folder {home} cannot be used: {error.strerror}.") from error
        store = cls(home)
        try:
            store._check()
            store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close all connections. Using the store again opens new ones."""
        self._engine.dispose()

    def version(self) -> int:
        """A number that differs after any change by any thread or process.

        The exception is a heartbeat without news: it would wake up all who wait for changes every
        few seconds.
        """
        with self.reading() as connection:
            return get_value(connection, "changes")

    def damaged_rows(self) -> list[tuple[str, str]]:
        """(table, id) of the damaged rows that were left out so far."""
        return sorted(self._damaged_rows)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the store."""
        with self._sentences(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def writing(self, *, counts: bool = True) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when it ends, or leaves no trace if it raises.

        `counts`: whether a change also changes `version`.
        """
        with self._sentences(), self._engine.connect() as connection:
            # Taking the write lock first rules out the deadlock of two readers that both want it.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            before = _rows_changed(connection)
            yield connection
            if counts and _rows_changed(connection) != before:
                set_value(connection, "changes", (get_value(connection, "changes") or 0) + 1)
            connection.commit()

    def _check(self) -> None:
        with self.reading() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise StoreDamaged(self._damaged())

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)
        newest = scripts.get_current_head()
        with self.reading() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
        if revision == newest:
            return
        if revision not in {None, *(script.revision for script in scripts.walk_revisions())}:
            raise StoreTooNew(
                f"{self.path} was written by a newer version of D3PO Studio "
                f"(revision {revision}, this one knows up to {newest}). Update the studio, or use "
                "another --home; nothing was changed."
            )
        if revision is not None:
            take_snapshot(self.home, f"before-{newest}")
        with self.writing(counts=False) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            set_value(connection, "changes", (get_value(connection, "changes") or 0) + 1)

    def _damaged(self) -> str:
        return (
            f"{self.path} is damaged and was left as it is. Close the studio and run "
            "`python launch.py doctor`: it lists the daily snapshots, and restores one, with all "
            "rows that can still be read."
        )

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn SQLite's errors into sentences that an artist can act on."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            if "Could not decode to UTF-8" in str(error.orig):
                raise StoreDamaged(self._damaged()) from error
            code = getattr(error.orig, "sqlite_errorcode", None)
            if code is None:
                raise
            match code & 0xFF:
                case sqlite3.SQLITE_FULL:
                    raise StoreFull(full_sentence(self.home)) from error
                case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                    raise StoreDamaged(self._damaged()) from error
                case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                    raise StoreError(f"{self.path} cannot be opened for writing.") from error
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    raise StoreError(f"{self.path} is in use by another program.") from error
                case sqlite3.SQLITE_IOERR:
                    raise StoreError(
                        f"{self.path} could not be read or written: the disk reports an error."
                    ) from error
            raise


def _rows_changed(connection: sa.Connection) -> int:
    """The number of rows that this connection has changed since it was opened."""
    return connection.connection.driver_connection.total_changes  # type: ignore[union-attr]


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin explicitly
    # Several connections can corrupt a WAL before SQLite 3.51.3.
    journal = "WAL" if sqlite3.sqlite_version_info >= (3, 51, 3) else "DELETE"
    for pragma in (
        f"journal_mode = {journal}",
        "synchronous = EXTRA",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def changed(values: Mapping[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """`values` for an update. Raises TypeError if a column is not among the `allowed` ones."""
    unknown = sorted(set(values) - allowed)
    if unknown:
        raise TypeError(f"cannot update {', '.join(unknown)}")
    return dict(values)
