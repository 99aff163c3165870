"""Fault injection in the real program: counts of losses, damage and hangs.

    python launch.py bench faults --quick --json faults.json

Each row of the table is a kind of fault with the number of trials. After each trial the store is
opened again and checked completely. `lost`: acknowledged or earlier data that is gone. `torn`:
unnoticed files and rows in neither the old nor the new state. `hung`: trials that exceeded their
time limit. The command fails unless all three are 0. Without `--quick` every system call is tried
instead of a sample.

`strace` kills processes and injects errors at system calls that write. Without it, those rows are
left out, and the command reports that.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from studio.bench.faults import damage, disks, growth, hostile, kills, rounds, tabs
from studio.bench.faults.operations import make_homes
from studio.bench.faults.trial import Row

PARTS = {
    "kills": kills,
    "disks": disks,
    "damage": damage,
    "hostile": hostile,
    "growth": growth,
    "rounds": rounds,
    "tabs": tabs,
}
HOW_TO_GET_STRACE = "Debian and Ubuntu: apt install strace"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a sample of every kind")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--only", metavar="WORD", default="", help="rows whose name contains WORD")
    parser.add_argument(
        "--skip", choices=PARTS, action="append", default=[], help="leave out a part"
    )
    parser.add_argument(
        "--go-on", action="store_true", help="keep the rows that are already in the --json file"
    )
    arguments = parser.parse_args(argv)
    started_s = time.monotonic()
    if sys.platform != "linux":
        print("Faults can be injected only on Linux, which has strace and /proc.", file=sys.stderr)
        return 1
    with_strace = shutil.which("strace") is not None
    if not with_strace:
        print(f"strace is missing, so its rows are left out ({HOW_TO_GET_STRACE}).")
    rows = _rows_of(arguments.json) if arguments.go_on and arguments.json else []
    known = {row.fault for row in rows}

    def wanted(fault: str) -> bool:
        return arguments.only in fault and fault not in known

    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        homes = make_homes(Path(folder))
        for part in (part for name, part in PARTS.items() if name not in arguments.skip):
            for row in part.rows(homes, Path(folder), arguments.quick, with_strace, wanted):
                rows.append(row)
                _write(arguments.json, rows)
                print(line(row), flush=True)
                for problem in row.problems[:5]:
                    print(f"    {problem}", flush=True)
    print(f"\n{table(rows)}\n\n{(time.monotonic() - started_s) / 60:.1f} minutes.")
    return 0 if rows and all(row.is_clean for row in rows) else 1


def _rows_of(path: Path) -> list[Row]:
    """The rows that an earlier run wrote."""
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _write(path: Path | None, rows: list[Row]) -> None:
    """Write the rows after each one, so that an interrupted run keeps its results."""
    if path is not None:
        machine = f"{platform.system()} {platform.machine()}"
        document = {"machine": machine, "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def line(row: Row) -> str:
    return f"{row.fault}: {row.tried} tried, {row.lost} lost, {row.torn} torn, {row.hung} hung"


def table(rows: list[Row]) -> str:
    """The table of docs/reliability.md."""
    heads = ("fault", "tried", "lost", "torn", "hung")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    total = Row("**all**", *(sum(getattr(r, name) for r in rows) for name in heads[1:]))
    for row in [*rows, total]:
        lines.append(f"| {' | '.join(str(getattr(row, name)) for name in heads)} |")
    return "\n".join(lines)
