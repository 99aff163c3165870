"""Full and broken disks: every write that can fail, fails."""

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

QUICK_CALLS = 3
SMALL_DISK_MB = 1
# (name of the fault, failing system calls, strace's error): a full disk stays full, and a write
# error happens once.
FAILURES = (
    ("the disk is full in", ("write", "pwrite64", "mkdir"), "error=ENOSPC:when={}+"),
    ("the disk fails in", ("fsync", "fdatasync"), "error=EIO:when={}"),
)


def rows(
    homes: dict[str, Home],
    folder: Path,
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
            calls = calls or calls_of(home, operation, folder)
            failing = [call for call in calls if call[0] in names]
            for call, number in sample(failing, quick, QUICK_CALLS):
                with copy_of(home, folder) as copy:
                    done = run(copy, operation, f"{call}:{error.format(number)}")
                    tally(row, f"{call} {number}", home, copy, done)
            yield row
    row = Row(f"a disk of {SMALL_DISK_MB} MB runs full")
    if wanted(row.fault):
        yield from _small_disk(row, homes["new"], folder)


def _small_disk(row: Row, home: Home, folder: Path) -> Iterator[Row]:
    """A real small disk, which only root can mount."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    size = sum(path.stat().st_size for path in home.path.rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size // 1024 + SMALL_DISK_MB * 1024}k"]
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = mounted and not subprocess.call(
        [*mount, "tmpfs", str(disk)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        print(f"{row.fault}: left out, because only root can mount a disk.")
        return
    try:
        shutil.copytree(home.path, disk / "home")
        done = run(disk / "home", "a scripted hour")
        if done.status != REFUSED or "full" not in done.traceback:
            row.problems.append(f"no sentence about the full disk: {done.traceback[-300:]}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)  # room again
        tally(row, "full", home, disk / "home", done)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    yield row
