"""Damaged files and databases: noticed, set aside, put back; nothing is ever deleted."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from studio.__main__ import main
from studio.files import sha256
from studio.store import (
    Store,
    StoreDamaged,
    StoreError,
    examine_files,
    restore,
    snapshots,
    take_daily_snapshot,
    take_snapshot,
)
from studio.store.files import read_sealed, require_whole, write_sealed
from tests.support.factories import make_image, open_at


def picked(store: Store, session_id: str) -> list[str]:
    return [one.pick.id for one in store.picked_pairs(session_id)]


def damage(path: Path, start: int, length: int = 4096) -> bytes:
    content = bytearray(path.read_bytes())
    content[start : start + length] = b"\xa5" * length
    path.write_bytes(content)
    return bytes(content)


class TestChecksums:
    def test_one_bit_is_noticed(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        known = sha256(path)
        require_whole(path, known)
        path.write_bytes(b"abb")
        with pytest.raises(StoreDamaged, match="is damaged"):
            require_whole(path, known)
        require_whole(path, "")  # from before checksums were kept

    @pytest.mark.parametrize("place", [0, 31, 32, 40])
    def test_a_sealed_file_is_what_was_written_or_refused(self, tmp_path, place):
        path = tmp_path / "sealed"
        write_sealed(path, b"x" * 10)
        assert read_sealed(path) == b"x" * 10
        content = bytearray(path.read_bytes())
        content[place] ^= 128
        path.write_bytes(content)
        with pytest.raises(StoreDamaged):
            read_sealed(path)
        path.write_bytes(b"x" * 5)
        with pytest.raises(StoreDamaged):
            read_sealed(path)


def test_a_store_of_0002_is_migrated_with_all_it_holds_and_a_snapshot_before(home, store):
    store.close()
    shutil.rmtree(home)
    open_at(home, "0002")
    with sqlite3.connect(home / "studio.sqlite") as connection:
        connection.execute(
            "INSERT INTO sessions (id, name, settings, updated_at_s, created_at_s) "
            "VALUES ('s', 'Old', '{}', 1, 1)"
        )
        connection.execute(
            "INSERT INTO images (id, session_id, purpose, prompt, seed, strength, sampling, "
            "base_hash, created_at_s) VALUES ('i', 's', 'pair', 'a lion', 1, 1, '{}', 'b', 1)"
        )
    again = Store.open(home)
    image = again.image("i")
    assert (image.prompt, image.picture_sha256, image.trajectory_sha256) == ("a lion", "", "")
    again.add_image(make_image(again, "s", picture_sha256="ab"))
    again.close()
    [before] = (home / "snapshots").iterdir()
    assert before.name.endswith("-before-0017.sqlite")
    with sqlite3.connect(before) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            ("0002",)
        ]


class TestSnapshots:
    def test_one_a_day_and_ten_kept(self, store, home):
        made = []
        for day in range(12, 0, -1):
            path = take_daily_snapshot(home)
            assert take_daily_snapshot(home) is None
            path = path.rename(path.with_name(f"day-{day:02}.sqlite"))
            then_s = time.time() - day * 24 * 3600 - 60
            os.utime(path, (then_s, then_s))
            made.append(path)
        take_snapshot(home, "before-0009")
        assert take_daily_snapshot(home) is not None
        left = sorted(path.name for path in (home / "snapshots").iterdir())
        assert sum(name.startswith("day") for name in left) == 9
        assert sum("before" in name for name in left) == 1
        assert len(left) == 11
        assert not made[0].exists()

    def test_a_clock_that_was_set_back_does_not_end_them(self, store, home):
        future_s = time.time() + 100 * 24 * 3600
        os.utime(take_daily_snapshot(home), (future_s, future_s))
        time.sleep(1.1)  # its name is the second it was taken in
        assert take_daily_snapshot(home) is not None

    def test_a_damaged_database_takes_no_good_snapshots_place(self, store, home):
        good = take_daily_snapshot(home)
        store.close()
        damage(home / "studio.sqlite", 8192, 20_000)
        with pytest.raises(StoreError):
            take_snapshot(home, "bad")
        assert list((home / "snapshots").iterdir()) == [good]


class TestRestore:
    def test_what_is_newer_and_can_be_read_is_carried_over(self, store, session, add_pairs, home):
        first, second = add_pairs(2)
        store.add_answer("before", first.id, "left")
        snapshot = take_daily_snapshot(home)
        store.add_answer("after", second.id, "right")
        store.close()
        database = home / "studio.sqlite"
        # The page that says what tables there are is sound; that of the jobs is not.
        with sqlite3.connect(database) as connection:
            [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'")
            [size] = connection.execute("PRAGMA page_size").fetchone()
        broken = damage(database, (root[0] - 1) * size, size)
        with pytest.raises(StoreDamaged, match=r"launch\.py doctor"):
            Store.open(home)
        assert restore(home, snapshot) == 1
        again = Store.open(home)
        assert picked(again, session.id) == ["before", "after"]
        again.close()
        [kept] = (home / "aside").glob("*.sqlite")
        assert kept.read_bytes() == broken

    def test_a_journal_of_the_old_database_is_not_applied(self, store, session, home):
        snapshot = take_daily_snapshot(home)
        store.close()
        journal = home / "studio.sqlite-journal"
        journal.write_bytes(b"x" * 100)
        restore(home, snapshot)
        assert not journal.exists()
        [kept] = (home / "aside").glob("*-journal")
        assert kept.read_bytes() == b"x" * 100

    def test_a_damaged_snapshot_is_refused(self, store, home):
        snapshot = take_daily_snapshot(home)
        damage(snapshot, 8192, 20_000)
        before = (home / "studio.sqlite").read_bytes()
        with pytest.raises(StoreError, match="choose another one"):
            restore(home, snapshot)
        assert (home / "studio.sqlite").read_bytes() == before
        assert snapshots(home) == []
        with pytest.raises(StoreError, match="no snapshot"):
            restore(home, home / "nowhere")


def with_files(store: Store, session_id: str, number: int) -> list[Path]:
    """Pictures of which the row and the file are there."""
    paths = []
    for _ in range(number):
        image = make_image(store, session_id, purpose="preview")
        path = store.image_path(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.id.encode())
        store.add_image(replace(image, picture_sha256=sha256(path)))
        paths.append(path)
    return paths


def test_files_are_compared_and_the_damaged_set_aside(store, session, home):
    good, damaged, missing = with_files(store, session.id, 3)
    damaged.write_bytes(b"other")
    missing.unlink()
    draft = home / "imports" / ".writing-x"
    draft.mkdir(parents=True)
    found = examine_files(store)
    assert found.looked_at == 3
    assert found.missing == [str(missing.relative_to(home))]
    assert found.damaged == [str(damaged.relative_to(home))]
    assert found.orphaned == ["imports/.writing-x"]
    assert good.exists()
    assert (home / "aside" / damaged.relative_to(home)).read_bytes() == b"other"


class TestCommand:
    def test_a_sound_home(self, store, session, home, capsys):
        take_daily_snapshot(home)
        assert main(["doctor", "--home", str(home)]) == 0
        said = capsys.readouterr().out
        assert "Database: sound" in said
        assert "Snapshots: 1" in said

    def test_from_damage_to_repair(self, store, session, home, capsys):
        [path] = with_files(store, session.id, 1)
        snapshot = take_daily_snapshot(home)
        store.close()
        damage(home / "studio.sqlite", 8192, 20_000)
        assert main(["doctor", "--home", str(home)]) == 1
        said = capsys.readouterr().out
        assert "Database: DAMAGED" in said
        assert f"doctor --restore {snapshot.name}" in said
        assert path.exists()
        assert main(["doctor", "--home", str(home), "--restore", snapshot.name]) == 0
        assert "is the database now" in capsys.readouterr().out
        assert main(["doctor", "--home", str(home)]) == 0

    def test_no_studio_and_one_that_is_open(self, home, store, capsys, tmp_path):
        assert main(["doctor", "--home", str(tmp_path / "nowhere")]) == 1
        assert "There is no studio" in capsys.readouterr().err
        holder = (
            "import sys; from studio.store import StudioLock\n"
            "with StudioLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", holder, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "held\n"
        assert main(["doctor", "--home", str(home)]) == 2
        process.communicate()


@pytest.mark.parametrize("changed", ['"guidanca"', '"guidance": "x", "x"'])
def test_settings_with_another_letter_are_damage(store, session, home, changed):
    """SQLite notices nothing, and it is no setting that the artist could have chosen."""
    with contextlib.closing(sqlite3.connect(home / "studio.sqlite")) as connection, connection:
        before = "UPDATE sessions SET settings = replace(settings, '\"guidance\"', ?)"
        assert connection.execute(before, (changed,)).rowcount == 1
    assert store.sessions() == []
    assert store.damaged_rows() == [("sessions", session.id)]
    with pytest.raises(StoreDamaged, match=r"launch\.py doctor"):
        store.session(session.id)
