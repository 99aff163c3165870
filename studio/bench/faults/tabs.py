"""Two open tabs answer the same pairs again and again, and the studio is killed meanwhile."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from studio.bench import served
from studio.bench.faults.operations import Home
from studio.bench.faults.trial import Row, Run, copy_of, tally
from studio.bench.page_client import Tab
from studio.store import Store

QUICK_KILLS, KILLS = 2, 100
LONGEST_S = 2.0  # of answers before it is killed
CHOICES = ("left", "right", "tie", "both_bad")


@dataclass
class Answers:
    """What one tab has answered: by pair, the last answer that was acknowledged."""

    kept: dict[str, str] = field(default_factory=dict)
    sent: tuple[str, str] = ("", "")  # (pair, answer): the last one, acknowledged or not


def rows(
    homes: dict[str, Home],
    folder: Path,
    quick: bool,
    with_strace: bool,
    wanted: Callable[[str], bool],
) -> Iterator[Row]:
    row = Row("two tabs answer the same pairs, and the studio is killed")
    if not wanted(row.fault):
        return
    whole = homes["new"]
    # every pair that was picked is answered anew
    home = replace(whole, things={thing for thing in whole.things if not thing.startswith("pick ")})
    dice = random.Random(0)
    for number in range(QUICK_KILLS if quick else KILLS):
        after_s = dice.uniform(0, LONGEST_S)
        with copy_of(home, folder) as copy:
            both = answer_and_kill(copy, home.session_id, after_s, number)
            what = f"kill {number}, after {after_s:.2f} s"
            tally(row, what, home, copy, Run([], 0))
            lost = replaced_without_a_word(copy, home.session_id, both)
            row.lost += len(lost)
            row.problems += [f"{what}: lost {each}" for each in lost]
    yield row


def answer_and_kill(home: Path, session_id: str, after_s: float, seed: int) -> list[Answers]:
    """`after_s`: from the moment when an answer of each tab was acknowledged."""
    with contextlib.closing(Store.open(home)) as store:
        pairs = [picked.pair.id for picked in store.picked_pairs(session_id)]
    process, url = served.start(home, "--gpus", "0")
    both = [Answers(), Answers()]
    try:
        killed = threading.Event()
        with (
            contextlib.closing(Tab(url)) as one,
            contextlib.closing(Tab(url)) as other,
            ThreadPoolExecutor() as pool,
        ):
            ends = [
                pool.submit(_answer, tab, pairs, answers, killed, random.Random(f"{seed} {name}"))
                for name, (tab, answers) in enumerate(zip((one, other), both, strict=True))
            ]
            while not all(
                answers.kept or end.done() for answers, end in zip(both, ends, strict=True)
            ):
                time.sleep(0.01)
            time.sleep(after_s)
            killed.set()
            process.kill()
            for end in ends:
                end.result()
    finally:
        process.kill()
        process.wait()
    return both


def _answer(
    tab: Tab, pairs: list[str], answers: Answers, killed: threading.Event, dice: random.Random
) -> None:
    try:
        while True:
            pair_id, answer_id = dice.choice(pairs), uuid.uuid4().hex
            answers.sent = pair_id, answer_id
            about = {"pick_id": answer_id, "pair_id": pair_id, "choice": dice.choice(CHOICES)}
            tab.call("prefer", "pick", **about, much_better=False, reason=None, marks={})
            answers.kept[pair_id] = answer_id
    except httpx.HTTPError:
        if not killed.is_set():
            raise


def replaced_without_a_word(home: Path, session_id: str, both: list[Answers]) -> list[str]:
    """Pairs whose answer that counts is neither the last acknowledged one of a tab, nor one that
    was on its way when the studio was killed."""
    with contextlib.closing(Store.open(home)) as store:
        counting = {row.pair.id: row.pick.id for row in store.picked_pairs(session_id)}
    on_their_way = {answers.sent for answers in both}
    return [
        f"an answer to {pair_id}"
        for pair_id in sorted({pair_id for answers in both for pair_id in answers.kept})
        if counting.get(pair_id) not in [answers.kept.get(pair_id) for answers in both]
        and (pair_id, counting.get(pair_id)) not in on_their_way
    ]
