"""Soak test: hours of labelling, training and comparing at ten times human speed.

    python launch.py bench soak --minutes 12 --json soak.json

A complete studio (pages and worker) runs on its own home, with the starter model. A simulated
artist, ten times as fast as a human, picks pairs, undoes picks, browses them, starts comparisons,
exams and exports, reloads the page and opens new sessions, all with the requests that the page
sends. A round trains after every sixteen picks. If the worker is slower, picks wait for it.

Memory, threads and open files of both processes are read every other second, and the files of the
home are counted. The data of pictures grows with the picks; everything else should stay constant:
the table compares the middle third of the time with the last. At the end the home is checked as in
`doctor`. The command fails if something was lost, a process was restarted, or the memory of one
grew by more than a tenth from the middle third to the last.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from studio.bench import timing
from studio.bench.page_client import Tab
from studio.bench.served import PROMPTS, studio, wait_for
from studio.files import TEMPORARY_PREFIX
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store, database_complaints, examine_files

TIMES_AS_FAST = 10.0
READ_S = 2.0
POLL_S = 1.0  # of the page, independent of the artist's speed
MOST_GROWTH = 0.10

# Seconds of an artist's time between two actions of a kind.
PICK_S, UNDO_S, BROWSE_S = 4.0, 90.0, 120.0
COMPARE_S, EXAM_S, EXPORT_S = 600.0, 1200.0, 1500.0
RELOAD_S, SESSION_S = 900.0, 2400.0

ACTIONS = ("picks", "undos", "comparisons", "exams", "exports", "loads", "sessions")

SETTINGS = SessionSettings(
    prompts=PROMPTS,
    preview_prompts=PROMPTS[:2],
    sampling=SamplingSettings(steps=4),
    training=TrainingSettings(
        rank=4, updates_base=8, updates_per_pick=0, batch_pairs=4, micro_batch_pairs=4
    ),
    queue_target=16,
)


class Artist:
    """Works on the open session, at most as fast as the worker draws."""

    def __init__(self, url: str, store: Store) -> None:
        self.url, self.store, self.tab = url, store, Tab(url)
        self.dice = random.Random(0)
        self.acknowledged: dict[str, str] = {}  # pick -> choice
        self.done = dict.fromkeys(ACTIONS, 0)

    @property
    def session_id(self) -> str:
        session_id = self.store.last_session_id()
        assert session_id is not None
        return session_id

    def pick(self) -> None:
        """Pick a pair, or answer in the exam if one is open."""
        exam = next((exam for exam in self.store.exams(self.session_id) if exam.is_open), None)
        open_pairs = [p for p in exam.pairs if p.is_drawn and p.choice is None] if exam else []
        if open_pairs:
            choice = self.dice.choice(("left", "right", "tie"))
            about = {"answer_id": uuid.uuid4().hex, "pair_id": open_pairs[0].id, "choice": choice}
            self.tab.call("exam", "answer", **about)
            return
        for pair in self.store.waiting_pairs(self.session_id, 1):
            for side in (pair.left, pair.right):
                self.tab.get(f"/images/{side.id}")
            pick_id = uuid.uuid4().hex
            choice = self.dice.choice(("left", "left", "left", "right", "right", "tie", "skip"))
            about = {"pick_id": pick_id, "pair_id": pair.id, "choice": choice}
            self.tab.call("prefer", "pick", **about, much_better=False, reason=None, marks={})
            self.acknowledged[pick_id] = choice
            self.done["picks"] += 1

    def undo(self) -> None:
        undo_id = uuid.uuid4().hex
        answer = self.tab.call("prefer", "undo", undo_id=undo_id, session_id=self.session_id)
        if answer["asked"]:
            del self.acknowledged[self.store.answer_before(undo_id).id]
            self.done["undos"] += 1

    def browse(self) -> None:
        about = {"session_id": self.session_id, "before": None, "favourites": False}
        answer = self.tab.call("prefer", "picked", **about)
        for row in answer["picks"][:12]:
            self.tab.get(row["asked"]["pictures"][0]["thumbnail"])

    def compare(self) -> None:
        adapter_id = self.store.session(self.session_id).current_adapter_id
        if adapter_id is not None:
            self.tab.press(
                "compare-draw",
                compare_prompts="a guitar\na red apple",
                compare_seeds=2,
                compare_adapter=adapter_id,
            )
            self.done["comparisons"] += 1

    def examine(self) -> None:
        adapter_id = self.store.session(self.session_id).current_adapter_id
        if adapter_id and not any(exam.is_open for exam in self.store.exams(self.session_id)):
            self.tab.press("exam-begin", exam_adapter=adapter_id, exam_count=6)
            self.done["exams"] += 1

    def export(self) -> None:
        adapter_id = self.store.session(self.session_id).current_adapter_id
        if adapter_id is not None:
            self.tab.press("export-make", export_adapter=adapter_id, export_name="Soak")
            self.done["exports"] += 1

    def load(self) -> None:
        self.tab.close()
        self.tab = Tab(self.url)
        self.tab.get("/report")
        self.done["loads"] += 1

    def begin(self) -> None:
        self.tab.choose("studio-header", "session", {"act": "new", "name": f"Soak {uuid.uuid4()}"})
        self.store.update_settings(self.session_id, SETTINGS)
        self.done["sessions"] += 1

    def work(self, minutes: float, read: Callable[[], None]) -> None:
        """Work at ten times human speed; `read` is called every `READ_S` seconds."""
        actions = (
            (self.pick, PICK_S),
            (self.undo, UNDO_S),
            (self.browse, BROWSE_S),
            (self.compare, COMPARE_S),
            (self.examine, EXAM_S),
            (self.export, EXPORT_S),
            (self.load, RELOAD_S),
            (self.begin, SESSION_S),
        )
        every_s = [(do, s / TIMES_AS_FAST) for do, s in actions]
        every_s += [(self.poll, POLL_S), (read, READ_S)]
        started_s = time.monotonic()
        due_s = [started_s + wait_s for _, wait_s in every_s]
        while (now_s := time.monotonic()) < started_s + 60 * minutes:
            for index, (do, wait_s) in enumerate(every_s):
                if now_s >= due_s[index]:
                    do()
                    # a delay is not caught up
                    due_s[index] = max(due_s[index] + wait_s, now_s)
            time.sleep(max(0.0, min(due_s) - time.monotonic()))

    def poll(self) -> None:
        self.tab.poll()


# --- measurements --------------------------------------------------------------------------------


def processes() -> dict[str, psutil.Process]:
    """The web process, a child of this process, and its worker."""

    def worker(web: psutil.Process) -> psutil.Process | None:
        workers = [child for child in web.children() if "studio.worker" in child.cmdline()]
        return workers[0] if workers else None

    [web] = (child for child in psutil.Process().children() if "--no-browser" in child.cmdline())
    return {"web": web, "worker": wait_for(lambda: worker(web), "the worker")}


def reading(running: dict[str, psutil.Process], folder: Path) -> dict[str, float]:
    """All values at this moment."""
    values: dict[str, float] = {"at_s": time.monotonic()}
    for name, process in running.items():
        values[f"{name}_memory_mb"] = process.memory_info().rss / 1e6
        values[f"{name}_threads"] = process.num_threads()
        values[f"{name}_open_files"] = process.num_fds()
    return values | files(folder)


def files(folder: Path) -> dict[str, float]:
    """Number and size of the files below `folder`: of pictures, LoRAs and rows, and of the rest."""
    kept, other = [], []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a draft was renamed meanwhile
            size = path.stat().st_size
            if path.is_file():
                is_owned = "sessions" in path.parts and "checkpoints" not in path.parts
                is_owned &= not path.name.startswith(TEMPORARY_PREFIX)
                (kept if is_owned or path.suffix == ".sqlite" else other).append(size)
    return {
        "pictures_and_LoRAs_files": len(kept),
        "pictures_and_LoRAs_mb": sum(kept) / 1e6,
        "other_files": len(other),
        "other_files_mb": sum(other) / 1e6,
    }


def thirds(readings: list[dict[str, float]], name: str) -> list[float]:
    """The median of a value in each third of the time."""
    size = max(1, len(readings) // 3)
    parts = (readings[:size], readings[size : 2 * size], readings[2 * size :])
    return [statistics.median(values[name] for values in part) for part in parts]


def per_hour(readings: list[dict[str, float]], name: str) -> float:
    """Growth of a value per hour of the artist's time, over the last two thirds."""
    late = readings[len(readings) // 3 :]
    hours = [TIMES_AS_FAST * values["at_s"] / 3600 for values in late]
    return statistics.linear_regression(hours, [values[name] for values in late]).slope


def summary(readings: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    figures = {}
    for name in readings[0]:
        if name == "at_s":
            continue
        first, middle, last = thirds(readings, name)
        figures[name] = {
            "first_third": first,
            "middle_third": middle,
            "last_third": last,
            "an_hour": per_hour(readings, name),
        }
    return figures


def complaints(
    home: Path, artist: Artist, before: dict[str, int], after: dict[str, int]
) -> Iterator[str]:
    """All failures of the test, found after its end."""
    for name, pid in before.items():
        if after.get(name) != pid:
            yield f"the {name} process was restarted"
    yield from database_complaints(home / "studio.sqlite")
    with closing(Store.open(home)) as store:
        choices = {
            row.pick.id: row.pick.choice
            for session in store.sessions()
            for row in store.picked_pairs(session.id)
        }
        for pick_id, choice in artist.acknowledged.items():
            if choices.get(pick_id) != choice:
                yield f"pick {pick_id} was acknowledged and is lost"
        for session in store.sessions():
            for round_ in store.rounds(session.id):
                if round_.state == "failed":
                    yield f"round {round_.number}: {round_.message}"
            for job in store.jobs(session.id, limit=1000):
                if job.state == "failed":
                    yield f"{job.kind}: {job.message}"
        report = examine_files(store)
        for what in ("missing", "damaged", "orphaned"):
            for path in getattr(report, what):
                yield f"{what}: {path}"


def soak(minutes: float) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="d3po-soak-", ignore_cleanup_errors=True) as folder:
        home, temporary = Path(folder) / "home", Path(folder) / "temporary"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)  # so that the studio's temporary files count
        readings: list[dict[str, float]] = []
        with closing(Store.open(home)) as store:
            session = store.create_session("Soak", SETTINGS)
            store.set_last_session(session.id)
            with studio(home) as url:
                running = processes()
                wait_for(lambda: store.waiting_count(session.id) or None, "a pair")
                before = {name: process.pid for name, process in running.items()}
                artist = Artist(url, store)
                artist.work(minutes, lambda: readings.append(reading(running, Path(folder))))
                after = {name: process.pid for name, process in processes().items()}
            rounds = sum(len(store.rounds(session.id)) for session in store.sessions())
        values = summary(readings)
        problems = list(complaints(home, artist, before, after))
    for name in before:
        grown = values[f"{name}_memory_mb"]
        if grown["last_third"] > (1 + MOST_GROWTH) * grown["middle_third"]:
            problems.append(f"the memory of the {name} process grows")
    return {
        "minutes": minutes,
        "times_as_fast": TIMES_AS_FAST,
        "done": {**artist.done, "rounds": rounds},
        "values": values,
        "problems": problems,
    }


def table(figures: dict[str, Any]) -> str:
    """The table of docs/reliability.md."""
    heads = ("", "first third", "middle third", "last third", "an hour")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for name, value in figures["values"].items():
        numbers = [f"{value[third]:.0f}" for third in ("first_third", "middle_third", "last_third")]
        lines.append(
            f"| {name.replace('_', ' ')} | {' | '.join(numbers)} | {value['an_hour']:+.1f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="of real time; default 12")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    figures = soak(arguments.minutes)
    counts = itertools.starmap("{1} {0}".format, figures["done"].items())
    hours = arguments.minutes * TIMES_AS_FAST / 60
    print(f"{hours:.1f} hours at {TIMES_AS_FAST:.0f} times human speed: {', '.join(counts)}.\n")
    print(table(figures))
    for problem in figures["problems"]:
        print(f"    {problem}")
    timing.write(arguments.json, figures)
    return 1 if figures["problems"] else 0
