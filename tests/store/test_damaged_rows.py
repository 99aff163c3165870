"""Rows that the studio could not have written: every column of the schema, in every shape of JSON.

From an archive they are refused. In a store that holds them already the page leaves them out and
says so, the rest of it works, and the doctor mends them or sets them aside.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from studio.__main__ import main
from studio.settings import SessionSettings, TrainingSettings
from studio.store import (
    KnownModel,
    SeenFile,
    Session,
    Store,
    StoreError,
    WorkerStatus,
    database_complaints,
    export_session,
    import_session,
    mend_rows,
    restore,
    schema,
    take_snapshot,
)
from studio.store.archive import TABLES
from studio.store.checked import odd_columns
from studio.ui import app
from studio.ui.page import Page
from tests.support.archives import fill, rewritten
from tests.support.factories import make_pair

SHAPES: list[Any] = [
    *(None, [], {}, "", 0, True, -1, 0.5, 1e308, 10**18, "x", [1], [[]], {"a": {"b": [1]}}),
    "x" * 200_000,
    {"seconds": 1e308, "held_out_agreement": -3.0},
    {"image_ids": ["nowhere"], "cells": [{}]},
]

WRONG: list[Any] = [
    [],
    "x" * 200_000,
    1e308,
    {"a": {"b": [1]}},
]  # one of them for nearly every column


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[tuple[Store, Session, Path]]:
    """A store with something in every table, and its session as an archive."""
    home = tmp_path_factory.mktemp("whole")
    with contextlib.closing(Store.open(home / "home")) as store:
        session = store.create_session(
            "Whole", SessionSettings(prompts=("a red apple", "a lion"), round_every=4)
        )
        fill(store, session)
        [adapter] = store.adapters(session.id)
        exam = store.add_exam(session.id, adapter.id, 1.0, [("a lion", 1), ("a cat", 2)])
        image = store.image(store.waiting_pairs(session.id)[0].left.id)
        store.set_exam_pictures(exam.pairs[0].id, image.id, image.id)
        store.answer_exam("answer", exam.pairs[0].id, "left")
        store.remember_model(KnownModel("a/b", "b", "sd1", "Stable Diffusion 1", 512, 1, 1))
        store.set_worker_status(WorkerStatus(1, "idle", "", "cpu", 1.0))
        store.set_model_folders(["/models"])
        store.add_seen_files(session.id, "/pictures", [SeenFile("a.png", 1, 1, 1.0)])
        store.set_last_session(session.id)
        archive = home / "session.zip"
        export_session(store, session.id, archive)
        yield store, session, archive


@pytest.fixture(scope="module")
def page(whole) -> Page:
    """The whole page, without a server; `page.store` is the store that it looks at."""
    made: list[Page] = []
    with pytest.MonkeyPatch.context() as patch:
        finish = Page.finish
        patch.setattr(Page, "finish", lambda self, demo: (made.append(self), finish(self, demo)))
        app.pages(whole[0])
    return made[0]


def shown(page: Page, store: Store) -> str:
    """All that the page shows of a store; the page says of no part of it that it went wrong."""
    page.store = store
    answer = page.changed("", {})
    said = answer.get(page.notice)
    assert said is None or not said["text"], said
    return repr(list(answer.values()))


def in_database(column: sa.Column[Any], value: Any) -> Any:
    """What a database would hold for it: JSON is text there."""
    if isinstance(column.type, schema.Json) or isinstance(value, list | dict):
        return json.dumps(value)
    return value


def is_odd(column: sa.Column[Any], value: Any) -> bool:
    return bool(odd_columns(column.table, {column.name: value}, stored=True))


# The columns of JSON, which have most ways to be wrong, at every change; the plain ones at night.
COLUMNS = [
    pytest.param(
        column,
        id=f"{table.name}.{column.name}",
        marks=() if isinstance(column.type, schema.Json) else pytest.mark.nightly,
    )
    for table in schema.metadata.sorted_tables
    for column in table.c
    if column.name != "place"
]


def test_every_table_has_rows(whole):
    with contextlib.closing(sqlite3.connect(whole[0].path)) as connection:
        for table in schema.metadata.sorted_tables:
            assert connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0], table


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_from_an_archive_every_shape_is_taken_whole_or_refused(whole, page, table, tmp_path):
    taken = refused = 0
    archive = shutil.copy(whole[2], tmp_path)
    with contextlib.closing(Store.open(tmp_path / "other")) as other:
        for column in table.c:
            for shape in SHAPES if column.name != "place" else ():

                def change(document, files, name=column.name, shape=shape):
                    document["tables"][table.name][0][name] = shape

                before = len(other.sessions())
                try:
                    made = import_session(other, rewritten(Path(archive), change))
                except StoreError:
                    refused += 1
                    assert len(other.sessions()) == before
                    continue
                taken += 1
                other.set_last_session(made.id)
                shown(page, other)
                assert other.damaged_rows() == []
                other.delete_session(made.id)
    assert taken
    assert refused


@pytest.mark.parametrize("column", COLUMNS)
def test_in_a_store_the_page_shows_the_rest(whole, page, column, tmp_path):
    """All rows of the table are damaged alike, with every shape after the other."""
    # A copy: where no session can be read, the page makes one, which would stay damaged.
    (tmp_path / "home").mkdir()
    shutil.copy(whole[0].path, tmp_path / "home")
    session, table, name = whole[1], column.table.name, column.name
    tried = 0
    with (
        contextlib.closing(Store.open(tmp_path / "home")) as store,
        contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as connection,
    ):
        before = connection.execute(f'SELECT rowid, "{name}" FROM {table}').fetchall()
        for shape in [*SHAPES, "{", b"\xff"]:
            bad = (
                shape if shape == "{" else in_database(column, shape) if shape != b"\xff" else shape
            )
            if not is_odd(column, bad):
                continue
            store.set_last_session(session.id)
            try:
                connection.execute(f'UPDATE OR IGNORE {table} SET "{name}" = ?', (bad,))
                shown(page, store)
                store.sessions()
                tried += 1
            except sqlite3.IntegrityError:
                continue
            finally:
                for rowid, value in before:
                    update = f'UPDATE {table} SET "{name}" = ? WHERE rowid = ?'
                    connection.execute(update, (value, rowid))
        store.set_last_session(session.id)
        assert tried
        assert "Whole" in shown(page, store)


@pytest.mark.parametrize("column", COLUMNS)
def test_the_doctor_mends_it_or_sets_it_aside(whole, page, column, tmp_path):
    store, _, _ = whole
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(store.path, home)
    bad = next(
        bad
        for bad in (*(in_database(column, shape) for shape in WRONG), "{")
        if is_odd(column, bad)
    )
    update = f'UPDATE {column.table.name} SET "{column.name}" = ? WHERE rowid = 1'
    with contextlib.closing(sqlite3.connect(home / "studio.sqlite")) as connection, connection:
        done = connection.execute(update, (bad,)).rowcount
        if not done:  # state has no row 1 where it was written anew
            connection.execute(update.replace("rowid = 1", "name = 'worker'"), (bad,))
    found = mend_rows(home)
    assert len(found.mended) + len(found.set_aside) >= 1
    assert found.kept_in.is_file()
    assert database_complaints(home / "studio.sqlite") == []
    again = mend_rows(home)
    assert (again.mended, again.set_aside) == ([], [])
    with contextlib.closing(Store.open(home)) as mended:
        shown(page, mended)
        assert mended.damaged_rows() == []


def test_the_archive_that_locked_the_artist_out(whole, page, tmp_path, capsys):
    """Refused with a sentence; where it was taken in before, it is a sign, and the doctor's."""
    store, session, archive = whole
    archive = Path(shutil.copy(archive, tmp_path))
    hostile = rewritten(archive, lambda d, f: d["tables"]["exports"][0].update(checks=[]))
    with contextlib.closing(Store.open(tmp_path / "home")) as other:
        with pytest.raises(StoreError, match="exports has an invalid checks"):
            import_session(other, hostile)
        made = import_session(other, archive)
        other.set_last_session(made.id)
        assert "damaged-rows" not in shown(page, other)
        with contextlib.closing(sqlite3.connect(other.path)) as connection, connection:
            connection.execute("UPDATE exports SET checks = '[]'")
        found = shown(page, other)
        assert "exports (1)" in found
        assert "Whole" in found
        assert len(other.picked_pairs(made.id)) == len(store.picked_pairs(session.id))
        assert other.exports(made.id) == []
    assert main(["doctor", "--home", str(tmp_path / "home")]) == 0
    assert "repaired: 1" in capsys.readouterr().out
    with contextlib.closing(Store.open(tmp_path / "home")) as other:
        [export] = other.exports(made.id)
        assert export.checks == {}
        assert "damaged-rows" not in shown(page, other)


def test_what_can_be_used_of_a_sessions_settings_is_kept(store, session, home):
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(
            "UPDATE sessions SET settings = json_set(settings, '$.training.updates_base', 1e9, "
            "'$.round_every', 'x', '$.evil', 1)"
        )
    store.close()
    assert len(mend_rows(home).mended) == 1
    settings = store.session(session.id).settings
    assert settings.prompts == session.settings.prompts
    assert settings.round_every == SessionSettings().round_every
    assert settings.training == TrainingSettings()


class TestWhatAnArchiveSaysStartsNothing:
    def archive(self, store: Store, session: Session, path: Path) -> Path:
        for number in range(6):
            store.add_answer(f"p{number}", make_pair(store, session.id).id, "left")
        make_pair(store, session.id)
        store.add_job(session.id, "inspect", {"path": "/x"})
        assert store.due_session() == session.id
        export_session(store, session.id, path)
        return path

    def test_no_round_begins_until_the_artist_picks_there(self, store, session, tmp_path):
        path = self.archive(store, session, tmp_path / "a.zip")
        with contextlib.closing(Store.open(tmp_path / "other")) as other:
            made = import_session(other, path)
            assert other.pick_counts(made.id).new == 6
            assert other.due_session() is None
            [pair] = other.waiting_pairs(made.id)
            other.add_answer("here", pair.id, "right")
            assert other.due_session() == made.id
            assert other.session(made.id).settings == session.settings

    def test_nor_after_a_snapshot_from_before_was_restored(self, store, session, home, tmp_path):
        path = self.archive(store, session, tmp_path / "a.zip")
        store.set_last_session(session.id)
        store.stop_round(store.request_round(session.id).id)
        snapshot = take_snapshot(home)
        made = import_session(store, path)
        store.close()
        restore(home, snapshot)
        with contextlib.closing(Store.open(home)) as again:
            assert again.pick_counts(made.id).new == 6  # carried over
            assert again.due_session() is None
            again.add_answer("here", again.waiting_pairs(made.id)[0].id, "right")
            assert again.due_session() == made.id

    @pytest.mark.parametrize("value", ["'\"x\"'", "'{'", "'-1'", "'null'", "'true'"])
    def test_nor_where_its_mark_is_damaged(self, store, session, home, tmp_path, value):
        path = self.archive(store, session, tmp_path / "a.zip")
        with contextlib.closing(Store.open(tmp_path / "other")) as other:
            made = import_session(other, path)
            with contextlib.closing(sqlite3.connect(other.path)) as connection, connection:
                connection.execute(f"UPDATE state SET value = {value} WHERE name LIKE 'imported %'")
            assert other.due_session() is None
            assert [table for table, _ in other.damaged_rows()] == ["state"]
            report = mend_rows(tmp_path / "other")
            assert (len(report.mended), report.set_aside) == (1, [])
            assert other.due_session() is None
            other.add_answer("here", other.waiting_pairs(made.id)[0].id, "right")
            assert other.due_session() == made.id

    def test_no_job_of_it_is_done(self, store, session, tmp_path):
        path = self.archive(store, session, tmp_path / "a.zip")

        def asks(document: dict[str, Any], files: dict[str, bytes]) -> None:
            job = {
                "id": "j",
                "session_id": document["tables"]["sessions"][0]["id"],
                "kind": "download",
                "payload": {"repo": "some/model"},
                "state": "queued",
                "progress": 0.0,
                "message": "",
                "result": {},
                "attempts": 0,
                "finished_at_s": None,
                "created_at_s": 1.0,
            }
            document["tables"]["jobs"] = [job, {**job, "id": "k", "state": "running"}]

        with contextlib.closing(Store.open(tmp_path / "other")) as other:
            made = import_session(other, rewritten(path, asks))
            assert {job.state for job in other.jobs(made.id)} == {"cancelled"}
            assert other.claim_job() is None
            assert other.open_downloads() == []

    def test_settings_beyond_their_bounds_are_refused(self, store, session, tmp_path):
        path = self.archive(store, session, tmp_path / "a.zip")

        def large(document: dict[str, Any], files: dict[str, bytes]) -> None:
            document["tables"]["sessions"][0]["settings"]["training"]["updates_base"] = 10**9

        with pytest.raises(StoreError, match="invalid settings"):
            import_session(store, rewritten(path, large))


def test_a_damaged_row_does_not_stop_the_worker(store, session, add_pairs):
    """The next job and the next round are claimed, past those that make no sense."""
    first, second = (store.add_job(session.id, "preview", {}) for _ in range(2))
    other = store.create_session("Other", replace(session.settings, live=False))
    for number, pair in enumerate(add_pairs(4)):
        store.add_answer(f"p{number}", pair.id, "left")
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE jobs SET payload = '[]' WHERE id = ?", (first.id,))
        connection.execute("UPDATE sessions SET settings = '7' WHERE id = ?", (other.id,))
    assert store.claim_job().id == second.id
    assert store.due_session() == session.id
    assert store.damaged_rows() == [("jobs", first.id), ("sessions", other.id)]
