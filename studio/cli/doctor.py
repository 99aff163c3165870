"""`doctor` and `report`: look at everything that is kept, and say what helps others to help."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from studio.cli.arguments import home_folder
from studio.cli.errors import CommandError, print_list, say
from studio.runtime import support_report
from studio.store import (
    Store,
    StoreError,
    StudioLock,
    database_complaints,
    differing_rows,
    examine_files,
    home_warning,
    mend_rows,
    restore,
    snapshots,
)


def doctor(arguments: argparse.Namespace) -> int:
    """A report on the home; 0 when nothing is left to worry about."""
    home = home_folder(arguments)
    database = home / "studio.sqlite"
    if not database.exists() and not (home / "snapshots").exists():
        raise CommandError(f"There is no studio in {home} yet.")
    with StudioLock(home):  # nothing may change meanwhile
        if arguments.restore:
            snapshot = home / "snapshots" / arguments.restore  # a path from elsewhere stays one
            carried = restore(home, snapshot)
            say(f"{snapshot.name} is the database now; the old one is in {home / 'aside'}.")
            say(f"Newer rows that could still be read there, and were carried over: {carried}.")
        complaints = database_complaints(database) if database.exists() else ["it is missing"]
        if sentence := home_warning(home):
            say(sentence)
        say(f"Database: {'DAMAGED' if complaints else 'sound'}")
        print_list(complaints)
        kept = snapshots(home)
        if kept and not complaints:
            complaints = differing_rows(database, kept[0].path)
            if complaints:
                say("Compared with the newest snapshot it is DAMAGED, or the snapshot is:")
                print_list(complaints)
        problems = complaints or _look_at_rows(home) + _look_at_files(home)
        say(f"Snapshots: {len(kept)}")
        for one in kept:
            when = time.strftime("%d %b %Y, %H:%M", time.localtime(one.taken_at_s))
            say(f"  {one.path.name}   {when}, {one.picks} picks")
        if complaints and kept:
            say(f"To put one back: python launch.py doctor --restore {kept[0].path.name}")
        elif complaints:
            say("There is none to put back; the database was left as it is.")
    return 1 if problems else 0


def _look_at_rows(home: Path) -> list[str]:
    """Rows that make no sense are mended, or set aside; gives those that were set aside."""
    Store.open(home).close()  # as this version of the studio keeps them
    found = mend_rows(home)
    say(f"Rows: {found.looked_at}")
    for what, rows in (("mended", found.mended), ("damaged, and set aside", found.set_aside)):
        say(f"  {what}: {len(rows)}")
        print_list(rows, "    ")
    if found.kept_in is not None:
        say(f"  The database as it was before is kept: {found.kept_in.name}")
    return found.set_aside


def _look_at_files(home: Path) -> list[str]:
    with contextlib.closing(Store.open(home)) as store:
        found = examine_files(store)
    say(f"Files: {found.looked_at}; the checksum of {found.without_checksum} is not known")
    for what, paths in (
        ("missing", found.missing),
        ("damaged, and set aside", found.damaged),
        ("without a row, and set aside", found.orphaned),
    ):
        say(f"  {what}: {len(paths)}")
        print_list(paths, "    ")
    if found.missing or found.damaged:
        say("  Pictures are drawn again when they are needed; a round learns without the rest.")
    return found.missing + found.damaged


def report(arguments: argparse.Namespace) -> int:
    """The last errors, versions and the device; no prompts, names or paths."""
    home, device = home_folder(arguments), ""
    with contextlib.suppress(StoreError), contextlib.closing(Store.open(home)) as store:
        status = store.worker_status()
        device = status.device if status is not None else ""
    say(support_report.report(home, device), end="")
    return 0
