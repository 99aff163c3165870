"""`doctor` and `report`: check and repair the home, and describe errors for helpers."""

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
    """Check and repair a home; gives 0 if no problem is left."""
    home = home_folder(arguments)
    database = home / "studio.sqlite"
    if not database.exists() and not (home / "snapshots").exists():
        raise CommandError(f"There is no studio in {home} yet.")
    with StudioLock(home):  # so that nothing changes meanwhile
        if arguments.restore:
            snapshot = home / "snapshots" / arguments.restore  # an absolute path stays as it is
            carried = restore(home, snapshot)
            say(f"{snapshot.name} is the database now; the old one is in {home / 'aside'}.")
            say(f"Newer rows that were still readable there and were carried over: {carried}.")
        complaints = database_complaints(database) if database.exists() else ["it is missing"]
        if sentence := home_warning(home):
            say(sentence)
        say(f"Database: {'DAMAGED' if complaints else 'sound'}")
        print_list(complaints)
        saved = snapshots(home)
        if saved and not complaints:
            complaints = differing_rows(database, saved[0].path)
            if complaints:
                say("It differs from the newest snapshot; one of the two is DAMAGED:")
                print_list(complaints)
        problems = complaints or _check_rows(home) + _check_files(home)
        say(f"Snapshots: {len(saved)}")
        for snapshot in saved:
            when = time.strftime("%d %b %Y, %H:%M", time.localtime(snapshot.taken_at_s))
            say(f"  {snapshot.path.name}   {when}, {snapshot.picks} picks")
        if complaints and saved:
            say(f"To restore one: python launch.py doctor --restore {saved[0].path.name}")
        elif complaints:
            say("There is no snapshot to restore; the database was not changed.")
    return 1 if problems else 0


def _check_rows(home: Path) -> list[str]:
    """Repair invalid rows, or set them aside; gives those that were set aside."""
    Store.open(home).close()  # migrates the rows to this version of the studio
    report = mend_rows(home)
    say(f"Rows: {report.looked_at}")
    for what, rows in (("repaired", report.mended), ("damaged, and set aside", report.set_aside)):
        say(f"  {what}: {len(rows)}")
        print_list(rows, "    ")
    if report.kept_in is not None:
        say(f"  A copy of the database before the repair: {report.kept_in.name}")
    return report.set_aside


def _check_files(home: Path) -> list[str]:
    with contextlib.closing(Store.open(home)) as store:
        report = examine_files(store)
    say(f"Files: {report.looked_at}; {report.without_checksum} of them have no known checksum")
    for what, paths in (
        ("missing", report.missing),
        ("damaged, and set aside", report.damaged),
        ("without a row, and set aside", report.orphaned),
    ):
        say(f"  {what}: {len(paths)}")
        print_list(paths, "    ")
    if report.missing or report.damaged:
        say("  Pictures are drawn again when they are needed; a round learns without the rest.")
    return report.missing + report.damaged


def report(arguments: argparse.Namespace) -> int:
    """The last errors, versions and the device; no prompts, names or paths."""
    home, device = home_folder(arguments), ""
    with contextlib.suppress(StoreError), contextlib.closing(Store.open(home)) as store:
        status = store.worker_status()
        device = status.device if status is not None else ""
    say(support_report.report(home, device), end="")
    return 0
