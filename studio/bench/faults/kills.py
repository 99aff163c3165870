"""Killed processes: at every system call that writes, and at random moments."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from studio.bench.faults.operations import SHORT, Home, home_for
from studio.bench.faults.trial import (
    Row,
    calls_of,
    copy_of,
    run,
    run_and_kill,
    sample,
    tally,
)

QUICK_CALLS = 8
QUICK_MOMENTS, MOMENTS = 20, 1000
LONGEST_S = 1.5  # of the scripted hour before it is killed


def rows(
    homes: dict[str, Home],
    folder: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    for operation in SHORT if with_strace else ():
        row = Row(f"killed at a system call of {operation}")
        if not wanted(row.fault):
            continue
        home = home_for(operation, homes)
        for call, number in sample(calls_of(home, operation, folder), quick, QUICK_CALLS):
            with copy_of(home, folder) as copy:
                done = run(copy, operation, f"{call}:signal=SIGKILL:when={number}")
                if done.status != -signal.SIGKILL:
                    row.problems.append(f"{call} {number}: it was not killed there")
                tally(row, f"{call} {number}", home, copy, done)
        yield row
    row = Row("killed at random moments of a scripted hour")
    if not wanted(row.fault):
        return
    home, dice = homes["new"], random.Random(0)
    for number in range(QUICK_MOMENTS if quick else MOMENTS):
        after_s = dice.uniform(0.0, LONGEST_S)
        with copy_of(home, folder) as copy:
            done = run_and_kill(copy, "a scripted hour", after_s)
            tally(row, f"moment {number}, {after_s:.3f} s", home, copy, done)
    yield row
