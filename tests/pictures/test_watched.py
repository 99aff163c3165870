"""Looking into a folder again and again."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from studio.pictures import watched
from studio.pictures.watched import WatchedFolder, stat_of
from tests.support.work import steps_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    (folder / "today").mkdir(parents=True)
    return folder


def names(watch: WatchedFolder) -> list[str]:
    """What is found by a look, and done."""
    found = watch.look()
    for path, stat in found:
        watch.done(path, stat)
    return [watch.name(path) for path, _ in found]


def settle(folder: Path) -> None:
    """Let all that is in a folder be older than a file system's clock is coarse."""
    then_ns = time.time_ns() - 10 * watched.COARSE_NS
    for place, _, files in os.walk(folder):
        for name in (*(os.path.join(place, file) for file in files), place):
            os.utime(name, ns=(then_ns, then_ns))


def test_a_file_is_found_once_when_it_is_whole(folder):
    watch = WatchedFolder(folder, {})
    path = folder / "today" / "a.png"
    path.write_bytes(b"half")
    assert names(watch) == []
    path.write_bytes(b"half and more")
    assert names(watch) == []
    assert names(watch) == ["today/a.png"]
    assert names(watch) == names(watch) == []
    (folder / "empty.png").touch()  # as some programs begin a file
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"hidden")
    names(watch)
    assert names(watch) == []
    (folder / "empty.png").write_bytes(b"whole")
    names(watch)
    assert names(watch) == ["empty.png"]


def test_a_file_whose_copying_stood_still_is_found_when_it_goes_on(folder):
    watch = WatchedFolder(folder, {})
    path = folder / "a.png"
    path.write_bytes(b"half")
    settle(folder)
    watch.look()
    [(found, stat)] = watch.look()
    watch.refuse(found, stat)
    assert names(watch) == []
    with path.open("ab") as file:  # which changes no folder
        file.write(b" and whole")
    names(watch)
    assert names(watch) == ["a.png"]
    assert names(watch) == []


def test_temporary_files_and_links_are_left_alone(folder, tmp_path):
    watch = WatchedFolder(folder, {})
    (folder / "tmp.png").write_bytes(b"x")
    (tmp_path / "outside.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "linked").symlink_to(tmp_path)
    assert names(watch) == []
    (folder / "tmp.png").rename(folder / "b.png")
    names(watch)
    assert names(watch) == ["b.png"]


def test_what_was_read_before_a_restart_is_known_unless_it_is_written_anew(folder):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"x")
    known = {name: stat_of(folder / name) for name in ("a.png", "b.png")}
    settle(folder)
    watch = WatchedFolder(folder, known | {"a.png": stat_of(folder / "a.png")})
    names(watch)
    assert names(watch) == ["b.png"]  # its time is another one now


def test_new_folders_are_looked_into_and_a_lost_drive_comes_back(folder):
    watch = WatchedFolder(folder, {})
    names(watch)
    settle(folder)
    names(watch)
    (folder / "today" / "deep").mkdir()
    (folder / "today" / "deep" / "c.webp").write_bytes(b"x")
    names(watch)
    assert names(watch) == ["today/deep/c.webp"]
    folder.rename(folder.with_name("away"))
    with pytest.raises(OSError, match="outputs"):
        watch.look()
    folder.with_name("away").rename(folder)
    (folder / "d.png").write_bytes(b"x")
    names(watch)
    assert names(watch) == ["d.png"]
    shutil.rmtree(folder / "today")
    assert names(watch) == []


def test_a_look_into_many_known_pictures_costs_nothing(folder):
    for number in range(300):
        (folder / f"{number}.png").write_bytes(b"x")
    settle(folder)
    known = {path.name: stat_of(path) for path in folder.glob("*.png")}
    watch = WatchedFolder(folder, known)
    first = steps_of(watch.look)
    assert steps_of(watch.look) < first / 50
