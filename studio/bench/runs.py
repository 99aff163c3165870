"""Runs of a benchmark, several at a time, each kept as it ends: a later call goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # what a run is, and its figures


def read(path: Path) -> list[Row]:
    """The rows that are kept, in the order in which they came; none without a file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def gather(
    run: Callable[..., list[Row]], todo: list[tuple], jobs: int, path: Path
) -> Iterator[list[Row]]:
    """The rows of `run(*one, threads)` for each of `todo`, as it ends and is kept.

    Each in a process of its own with its share of the processor. One that cannot be done (it raises
    SystemExit) is said and left out.
    """
    if not todo:
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pending = {pool.submit(run, *one, threads): one for one in todo}
        for future in as_completed(pending):
            try:
                rows = future.result()
            except SystemExit as error:
                print(f"{pending[future]}: {error}", flush=True)
                continue
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            yield rows
