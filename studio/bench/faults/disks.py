"""Disks that are full or broken: every write that can fail, fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from studio.bench.faults.operations import SHORT, Home, home_for
from studio.bench.faults.trial import (
    REFUSED,
    Row,
    calls_of,
    copy_of,
    run,
    sample,
    tally,
)

QUICK_PLACES = 3
NOBODY = 65534
CLOSED: dict[str, Callable[[Path], bool]] = {
    "all of it": lambda path: True,
    "its folders": Path.is_dir,
    "its database": lambda path: path.suffix == ".sqlite",
}
SMALL_DISK_MB = 1
# Which calls fail, how, and for how long: a full disk stays full, a write error need not return.
FAILURES = (
    ("the disk is full in", ("write", "pwrite64", "mkdir"), "error=ENOSPC:when={}+"),
    ("the disk fails in", ("fsync", "fdatasync"), "error=EIO:when={}"),
)


def rows(
    homes: dict[str, Home],
    place: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    for operation in SHORT if with_strace else ():
        home = home_for(operation, homes)
        calls = None
        for fault, names, error in FAILURES:
            row = Row(f"{fault} {operation}")
            if not wanted(row.fault):
                continue
            calls = calls or calls_of(home, operation, place)
            places = [one for one in calls if one[0] in names]
            for call, number in sample(places, quick, QUICK_PLACES):
                with copy_of(home, place) as copy:
                    # From the Nth call of this kind on, as a full disk refuses them all.
                    done = run(copy, operation, f"{call}:{error.format(number)}")
                    tally(row, f"{call} {number}", home, copy, done)
            yield row
    row = Row(f"a disk of {SMALL_DISK_MB} MB runs full")
    if wanted(row.fault):
        yield from _small_disk(row, homes["new"], place)
    row = Row("an ordinary user may not write to the home")
    if wanted(row.fault):
        yield from _read_only(row, homes, place)


def _read_only(row: Row, homes: dict[str, Home], place: Path) -> Iterator[Row]:
    """Every operation on a home that has become read-only: all of it, its folders alone, or its
    database alone. Root may write everywhere, so it is done as nobody."""
    user = NOBODY if os.geteuid() == 0 else None
    place.chmod(0o755)
    for operation in SHORT:
        home = home_for(operation, homes)
        for what, is_closed in CLOSED.items():
            with copy_of(home, place) as copy:
                paths = [copy.parent, copy, *copy.rglob("*")]
                for path in paths:
                    if user is not None:
                        os.chown(path, user, user)
                    path.chmod(path.stat().st_mode | 0o200)
                for path in filter(is_closed, paths[1:]):
                    path.chmod(path.stat().st_mode & ~0o222)
                done = run(copy, operation, user=user)
                for path in paths:
                    path.chmod(path.stat().st_mode | 0o200)
                tally(row, f"{operation}, {what}", home, copy, done)
    yield row


def _small_disk(row: Row, home: Home, place: Path) -> Iterator[Row]:
    """A real one; only root can mount it."""
    disk = place / "disk"
    disk.mkdir(exist_ok=True)
    size = sum(path.stat().st_size for path in home.path.rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size // 1024 + SMALL_DISK_MB * 1024}k"]
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = mounted and not subprocess.call(
        [*mount, "tmpfs", str(disk)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        print(f"{row.fault}: left out, as only root can mount one.")
        return
    try:
        shutil.copytree(home.path, disk / "home")
        done = run(disk / "home", "a scripted hour")
        if done.status != REFUSED or "full" not in done.traceback:
            row.problems.append(f"it was not said that the disk is full: {done.traceback[-300:]}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)  # room again
        tally(row, "full", home, disk / "home", done)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    yield row
