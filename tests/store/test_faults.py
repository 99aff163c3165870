"""What happens to the store when things go wrong: kills, crowds, full disks, broken files."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.settings import SessionSettings
from studio.store import (
    Store,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreTooNew,
    StudioLock,
    write_atomically,
)
from tests.support import disks
from tests.support.factories import make_pair

SPAWN = multiprocessing.get_context("spawn")

PICKER = """
import sys, uuid
from studio.store import Store
store = Store.open(sys.argv[1])
for pair_id in sys.argv[2:]:
    pick = store.add_answer(uuid.uuid4().hex, pair_id, "left").answer.pick
    print(pick.id, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 2, 3, 7, 20, 33])
def test_a_kill_loses_no_acknowledged_pick(store, session, add_pairs, home, acknowledged):
    pairs = add_pairs(60)
    arguments = [sys.executable, "-c", PICKER, str(home), *(pair.id for pair in pairs)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    seen = [process.stdout.readline().strip() for _ in range(acknowledged)]
    process.kill()
    seen += process.stdout.read().split()
    assert process.wait() == -signal.SIGKILL
    again = Store.open(home)
    kept = [one.pick.id for one in again.picked_pairs(session.id)]
    assert kept[: len(seen)] == seen
    assert len(kept) <= len(seen) + 1  # at most the one that was not acknowledged yet
    again.add_answer("after", pairs[-1].id, "right")
    again.close()


def crowd(home: Path, session_id: str, pair_ids: list[str], name: str) -> None:
    """Pick, undo and read as fast as one process can."""
    store = Store.open(home)
    for number, pair_id in enumerate(random.Random(name).sample(pair_ids, len(pair_ids))):
        store.add_answer(f"{name}{number}", pair_id, "left")
        if number % 5 == 4:
            store.undo_pick(f"{name}undo{number}", session_id)
        store.waiting_pairs(session_id)
        store.pick_counts(session_id)


def test_several_processes_at_once(store, session, add_pairs, home):
    pair_ids = [pair.id for pair in add_pairs(20)]
    before = store.version()
    processes = [
        SPAWN.Process(target=crowd, args=(home, session.id, pair_ids, name)) for name in "abcd"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert store.version() == before + 4 * (20 + 4)
    picked = {one.pair.id for one in store.picked_pairs(session.id)}
    waiting = {pair.id for pair in store.waiting_pairs(session.id, 100)}
    assert picked | waiting == set(pair_ids)
    assert not picked & waiting


def test_several_processes_make_one_store(home):
    processes = [SPAWN.Process(target=Store.open, args=(home,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    Store.open(home).create_session("A", SessionSettings())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    with disks.small_disk(tmp_path / "disk", 1) as place:
        yield place


def fill(disk: Path) -> Path:
    """Leave no byte of room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return ballast


def test_a_full_disk_is_a_sentence_and_loses_nothing(small_disk):
    store = Store.open(small_disk)
    session = store.create_session("A", SessionSettings())
    pairs = [make_pair(store, session.id) for _ in range(3)]
    store.add_answer("kept", pairs[0].id, "left")
    ballast = fill(small_disk)
    with pytest.raises(StoreFull, match=r"full\. Make some room"):
        store.add_answer("lost", pairs[1].id, "right")
    picture = small_disk / "sessions" / "picture.png"
    with pytest.raises(StoreFull):
        write_atomically(picture, lambda path: path.write_bytes(b"x" * 100_000))
    assert not list(small_disk.glob("sessions/*"))
    ballast.unlink()
    assert [one.pick.id for one in store.picked_pairs(session.id)] == ["kept"]
    store.add_answer("after", pairs[2].id, "left")
    store.close()
    again = Store.open(small_disk)
    assert [one.pick.id for one in again.picked_pairs(session.id)] == ["kept", "after"]
    again.close()


def test_a_full_disk_at_the_start_is_a_sentence(small_disk):
    fill(small_disk)
    with pytest.raises(StoreFull, match="is full"):
        Store.open(small_disk / "home")


def test_a_store_from_a_newer_version_is_left_alone(store, home):
    store.close()
    with sqlite3.connect(home / "studio.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = (home / "studio.sqlite").read_bytes()
    with pytest.raises(StoreTooNew, match=r"newer version.*9999.*Update the studio"):
        Store.open(home)
    assert (home / "studio.sqlite").read_bytes() == before


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_damaged_store_is_a_sentence_and_left_alone(store, session, home, where):
    store.close()
    path = home / "studio.sqlite"
    content = bytearray(path.read_bytes())
    start = 0 if where == "start" else len(content) // 4
    content[start : start + 30_000] = b"\xa5" * 30_000
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged and was left as it is"):
        Store.open(home)
    assert path.read_bytes() == content


def test_a_home_that_cannot_be_is_a_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(file)
    (tmp_path / "home" / "studio.sqlite").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open(tmp_path / "home")


class TestFiles:
    def test_a_file_appears_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / "new" / "file.txt"
        write_atomically(path, lambda temporary: temporary.write_text("one"))

        def fail(temporary: Path) -> None:
            temporary.write_text("tw")
            raise ValueError("broken off")

        with pytest.raises(ValueError, match="broken off"):
            write_atomically(path, fail)
        assert path.read_text() == "one"
        assert list(path.parent.iterdir()) == [path]

    def test_it_is_on_the_disk_before_it_has_its_name_and_its_name_before_anything_goes_on(
        self, tmp_path, monkeypatch
    ):
        """A power cut between any two of these leaves the old file or the new one, whole."""
        done = []
        fsync, replace = os.fsync, os.replace

        def named(handle: int) -> str:
            return Path(os.readlink(f"/proc/self/fd/{handle}")).name

        monkeypatch.setattr(os, "fsync", lambda handle: done.append(named(handle)) or fsync(handle))
        monkeypatch.setattr(os, "replace", lambda *paths: done.append("->") or replace(*paths))

        def write(temporary: Path) -> None:
            temporary.mkdir()
            (temporary / "inner").write_text("x")

        if not Path("/proc/self/fd").exists():
            pytest.skip("this system has no /proc to look a file up in")
        write_atomically(tmp_path / "place" / "folder", write)
        inner, draft, renamed, place = done
        assert (inner, renamed, place) == ("inner", "->", "place")
        assert draft.startswith(".writing-")

    def test_a_folder_appears_whole(self, tmp_path):
        def write(temporary: Path) -> None:
            temporary.mkdir()
            (temporary / "a").write_text("a")

        write_atomically(tmp_path / "folder", write)
        assert (tmp_path / "folder" / "a").read_text() == "a"


HOLDER = """
import sys
from studio.store import StudioLock
with StudioLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestLock:
    def test_a_second_studio_is_refused_until_the_first_is_gone(self, home):
        arguments = [sys.executable, "-c", HOLDER, str(home)]
        holder = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=r"already running.*--home"):
            StudioLock(home).acquire()
        holder.kill()  # even a kill leaves no lock behind
        holder.wait()
        with StudioLock(home):
            pass

    def test_a_home_that_cannot_be_locked_is_a_sentence(self, tmp_path):
        file = tmp_path / "file"
        file.write_text("")
        with pytest.raises(StoreError, match="cannot be used"):
            StudioLock(file).acquire()
