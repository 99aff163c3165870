"""Where a home lies: what is said of network drives, synchronised folders, and read-only disks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from studio.settings import SessionSettings
from studio.store import Store, home_warning
from studio.ui import header


def disks(monkeypatch: pytest.MonkeyPatch, *mounted: tuple[Path, str, str]) -> None:
    """The system has these disks, each (where, file system, options), above its root."""
    found = [SimpleNamespace(mountpoint="/", fstype="ext4", opts="rw")]
    found += [
        SimpleNamespace(mountpoint=str(where), fstype=system, opts=options)
        for where, system, options in mounted
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)


@pytest.mark.parametrize("system", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_drive_is_said(tmp_path, monkeypatch, system):
    disks(monkeypatch, (tmp_path / "share", system, "rw"))
    said = home_warning(tmp_path / "share" / "art" / "home")
    assert f"is on a network drive ({system})" in said
    assert "--home" in said
    assert home_warning(tmp_path / "sharehouse") == ""


def test_a_drive_that_windows_calls_remote_is_said(tmp_path, monkeypatch):
    disks(monkeypatch, (tmp_path, "NTFS", "rw,remote"))
    assert "network drive (NTFS)" in home_warning(tmp_path)


def test_a_disk_of_this_machine_within_a_network_drive_is_fine(tmp_path, monkeypatch):
    inner = tmp_path / "share" / "disk"
    disks(monkeypatch, (tmp_path / "share", "nfs", "rw"), (inner, "ext4", "rw"))
    assert home_warning(inner / "home") == ""


def test_the_disks_of_this_machine_are_asked():
    """Whatever they are: the real list can be read."""
    assert psutil.disk_partitions(all=True)
    home_warning(Path.home())


@pytest.mark.parametrize(
    ("folder", "program"),
    [
        ("Dropbox", "Dropbox"),
        ("OneDrive - My Firm", "OneDrive"),
        ("GoogleDrive-me@example.org", "Google Drive"),
        ("Library/Mobile Documents", "iCloud Drive"),
        ("Nextcloud", "Nextcloud"),
    ],
)
def test_a_synchronised_folder_is_known_by_its_name(tmp_path, folder, program):
    home = tmp_path / folder / "art" / "home"
    home.mkdir(parents=True)
    assert f"seems to be synchronised by {program}" in home_warning(home)


@pytest.mark.parametrize(
    ("mark", "program"),
    [(".stfolder", "Syncthing"), (".sync_a1b2.db", "Nextcloud"), (".dropbox.cache", "Dropbox")],
)
def test_a_synchronised_folder_is_known_by_what_lies_in_it(tmp_path, mark, program):
    (tmp_path / "mine" / mark).mkdir(parents=True)
    assert f"by {program}" in home_warning(tmp_path / "mine" / "home")
    assert home_warning(tmp_path / "yours") == ""


def test_a_link_into_a_synchronised_folder_is_followed(tmp_path):
    (tmp_path / "Dropbox").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "Dropbox")
    assert "Dropbox" in home_warning(tmp_path / "home")


@pytest.mark.parametrize("name", ["dropboxes", "onedriver", "art"])
def test_names_that_only_begin_alike_are_fine(tmp_path, name):
    assert home_warning(tmp_path / name / "home") == ""


def test_the_doctor_says_it(tmp_path):
    home = tmp_path / "Dropbox" / "home"
    Store.open(home).close()
    command = [sys.executable, "-m", "studio", "doctor", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "seems to be synchronised by Dropbox" in done.stdout
    assert done.returncode == 0


def test_the_page_shows_it_only_where_there_is_something_to_say():
    assert header.home_sign("") == ""
    shown = header.home_sign("/home/<b>/Dropbox seems …")
    assert "/home/&lt;b&gt;/Dropbox" in shown
    assert "aria-label=" in shown


@pytest.fixture
def read_only_home(tmp_path: Path):
    """A home with a session, on a disk that can only be read."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a disk that cannot be written")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a disk")
    with contextlib.closing(Store.open(disk / "home")) as store:
        store.create_session("Mine", SessionSettings())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield disk / "home"
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("command", [["--no-browser"], ["doctor"], ["sessions", "list"]])
def test_a_home_that_can_only_be_read_is_a_sentence(read_only_home, command):
    whole = [sys.executable, "-m", "studio", "--home", str(read_only_home), *command]
    done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=300)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "should not have" not in said
    if command == ["sessions", "list"]:  # nothing needs to be written for it
        assert "Mine" in said
    else:
        assert done.returncode == 1
        assert str(read_only_home) in said


def test_that_the_tour_was_seen_is_remembered_by_the_home(home):
    with contextlib.closing(Store.open(home)) as store:
        assert not store.tour_seen()
        store.set_tour_seen()
        store.set_tour_seen()
    with contextlib.closing(Store.open(home)) as store:
        assert store.tour_seen()
