"""Parallel runs of a benchmark; each is stored as it ends, and a later call resumes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # the parameters of a run, and its figures


def read(path: Path) -> list[Row]:
    """The stored rows in order; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def gather(
    run: Callable[..., list[Row]], todo: list[tuple], jobs: int, path: Path
) -> Iterator[list[Row]]:
    """Yield the rows of `run(*parameters, threads)` for each of `todo`, as each ends and is stored.

    Each runs in its own process with its share of the processor. A run that raises SystemExit is
    reported and left out.
    """
    if not todo:
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pending = {pool.submit(run, *parameters, threads): parameters for parameters in todo}
        for future in as_completed(pending):
            try:
                rows = future.result()
            except SystemExit as error:
                print(f"{pending[future]}: {error}", flush=True)
                continue
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            yield rows
