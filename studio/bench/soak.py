"""Hours of labelling, training and comparing at ten times human speed: what grows, and what not.

    python launch.py bench soak --minutes 12 --json soak.json

A whole studio (pages and worker) runs on a home of its own, with the starter model. An artist who
needs a tenth of the time picks pairs, takes picks back, leafs through them, begins comparisons,
exams and exports, loads the page anew and opens new sessions, all of it by the requests that the
page sends. After every sixteen picks a round learns. Picks wait for the worker where it is slower.

Memory, threads and open files of both processes are read every other second, and the files of the
home are counted. What belongs to pictures grows with the picks; everything else should be as it
was: the table compares the middle third of the time with the last. In the end the home is looked at
as `doctor` does. The command fails when something was lost, a process was started anew, or the
memory of one grew by more than a tenth from the middle third to the last.
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
from studio.bench.served import PROMPTS, Tab, studio, wait_for
from studio.files import TEMPORARY_PREFIX
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store, database_complaints, examine_files

TIMES_AS_FAST = 10.0
LOOK_S = 2.0
POLL_S = 1.0  # the page asks so often, however fast the artist is
PATIENCE_S = 60.0
MOST_GROWTH = 0.10

# Seconds of an artist's time between two of each.
PICK_S, UNDO_S, LEAF_S = 4.0, 90.0, 120.0
COMPARE_S, EXAM_S, EXPORT_S = 600.0, 1200.0, 1500.0
RELOAD_S, SESSION_S = 900.0, 2400.0

DEEDS = ("picks", "undos", "comparisons", "exams", "exports", "loads", "sessions")

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
    """Who works on the open session, as fast as the worker draws."""

    def __init__(self, url: str, store: Store) -> None:
        self.url, self.store, self.tab = url, store, Tab(url)
        self.dice = random.Random(0)
        self.acknowledged: dict[str, str] = {}  # pick -> choice
        self.done = dict.fromkeys(DEEDS, 0)

    @property
    def session_id(self) -> str:
        found = self.store.last_session_id()
        assert found is not None
        return found

    def pick(self) -> None:
        """Or answer in the exam, if one is open: it is asked there first."""
        exam = next((one for one in self.store.exams(self.session_id) if one.is_open), None)
        asked = [one for one in exam.pairs if one.is_drawn and one.choice is None] if exam else []
        if asked:
            choice = self.dice.choice(("left", "right", "tie"))
            about = {"answer_id": uuid.uuid4().hex, "pair_id": asked[0].id, "choice": choice}
            self.tab.call("exam", "answer", **about)
            return
        for pair in self.store.waiting_pairs(self.session_id, 1):
            for side in (pair.left, pair.right):
                self.tab.look_at(f"/images/{side.id}")
            pick_id = uuid.uuid4().hex
            choice = self.dice.choice(("left", "left", "left", "right", "right", "tie", "skip"))
            about = {"pick_id": pick_id, "pair_id": pair.id, "choice": choice}
            self.tab.call("prefer", "pick", **about, much_better=False, reason=None)
            self.acknowledged[pick_id] = choice
            self.done["picks"] += 1

    def undo(self) -> None:
        undo_id = uuid.uuid4().hex
        answer = self.tab.call("prefer", "undo", undo_id=undo_id, session_id=self.session_id)
        if answer["asked"]:
            del self.acknowledged[self.store.undone(undo_id).id]
            self.done["undos"] += 1

    def leaf(self) -> None:
        about = {"session_id": self.session_id, "before": None, "favourites": False}
        found = self.tab.call("prefer", "picked", **about)
        for one in found["picks"][:12]:
            self.tab.look_at(one["asked"]["pictures"][0]["thumbnail"])

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
        if adapter_id and not any(one.is_open for one in self.store.exams(self.session_id)):
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
        self.tab.look_at("/report")
        self.done["loads"] += 1

    def begin(self) -> None:
        self.tab.choose("studio-header", "session", {"act": "new", "name": f"Soak {uuid.uuid4()}"})
        self.store.update_settings(self.session_id, SETTINGS)
        self.done["sessions"] += 1

    def work(self, minutes: float, look: Callable[[], None]) -> None:
        """For so many minutes, at ten times human speed; `look` is called all along."""
        doing = (
            (self.pick, PICK_S),
            (self.undo, UNDO_S),
            (self.leaf, LEAF_S),
            (self.compare, COMPARE_S),
            (self.examine, EXAM_S),
            (self.export, EXPORT_S),
            (self.load, RELOAD_S),
            (self.begin, SESSION_S),
        )
        every_s = [(do, s / TIMES_AS_FAST) for do, s in doing]
        every_s += [(self.poll, POLL_S), (look, LOOK_S)]
        started_s = time.monotonic()
        due_s = [started_s + wait_s for _, wait_s in every_s]
        while (now_s := time.monotonic()) < started_s + 60 * minutes:
            for place, (do, wait_s) in enumerate(every_s):
                if now_s >= due_s[place]:
                    do()
                    # What took longer than it should is not caught up on.
                    due_s[place] = max(due_s[place] + wait_s, now_s)
            time.sleep(max(0.0, min(due_s) - time.monotonic()))

    def poll(self) -> None:
        self.tab.poll()


# --- what is measured ----------------------------------------------------------------------------


def processes() -> dict[str, psutil.Process]:
    """The studio that this process started, and its worker."""

    def worker(web: psutil.Process) -> psutil.Process | None:
        found = [one for one in web.children() if "studio.worker" in one.cmdline()]
        return found[0] if found else None

    [web] = (one for one in psutil.Process().children() if "--no-browser" in one.cmdline())
    return {"web": web, "worker": wait_for(lambda: worker(web), "the worker")}


def reading(running: dict[str, psutil.Process], folder: Path) -> dict[str, float]:
    """Everything at this moment."""
    found: dict[str, float] = {"at_s": time.monotonic()}
    for name, process in running.items():
        found[f"{name}_memory_mb"] = process.memory_info().rss / 1e6
        found[f"{name}_threads"] = process.num_threads()
        found[f"{name}_open_files"] = process.num_fds()
    return found | files(folder)


def files(folder: Path) -> dict[str, float]:
    """What pictures, LoRAs and rows take below `folder`, and what everything else does."""
    kept, other = [], []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a draft has got its name meanwhile
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
    return [statistics.median(one[name] for one in part) for part in parts]


def per_hour(readings: list[dict[str, float]], name: str) -> float:
    """How much a value grows in an hour of the artist's time, over the last two thirds."""
    late = readings[len(readings) // 3 :]
    hours = [TIMES_AS_FAST * one["at_s"] / 3600 for one in late]
    return statistics.linear_regression(hours, [one[name] for one in late]).slope


def summary(readings: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    found = {}
    for name in readings[0]:
        if name == "at_s":
            continue
        first, middle, last = thirds(readings, name)
        found[name] = {
            "first_third": first,
            "middle_third": middle,
            "last_third": last,
            "an_hour": per_hour(readings, name),
        }
    return found


def complaints(
    home: Path, artist: Artist, before: dict[str, int], after: dict[str, int]
) -> Iterator[str]:
    """What should not have been, now that all is over."""
    for name, pid in before.items():
        if after.get(name) != pid:
            yield f"the {name} process was started anew"
    yield from database_complaints(home / "studio.sqlite")
    with closing(Store.open(home)) as store:
        kept = {
            one.pick.id: one.pick.choice
            for session in store.sessions()
            for one in store.picked_pairs(session.id)
        }
        for pick_id, choice in artist.acknowledged.items():
            if kept.get(pick_id) != choice:
                yield f"pick {pick_id} was acknowledged and is not there"
        for session in store.sessions():
            for round_ in store.rounds(session.id):
                if round_.state == "failed":
                    yield f"round {round_.number}: {round_.message}"
            for job in store.jobs(session.id, limit=1000):
                if job.state == "failed":
                    yield f"{job.kind}: {job.message}"
        found = examine_files(store)
        for what in ("missing", "damaged", "orphaned"):
            for path in getattr(found, what):
                yield f"{what}: {path}"


def soak(minutes: float) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="d3po-soak-", ignore_cleanup_errors=True) as folder:
        home, temporary = Path(folder) / "home", Path(folder) / "temporary"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)  # of the studio, so that what it leaves there counts
        readings: list[dict[str, float]] = []
        with closing(Store.open(home)) as store:
            session = store.create_session("Soak", SETTINGS)
            store.set_last_session(session.id)
            with studio(home) as url:
                running = processes()
                wait_for(lambda: store.waiting_count(session.id) or None, "a pair")
                before = {name: one.pid for name, one in running.items()}
                artist = Artist(url, store)
                artist.work(minutes, lambda: readings.append(reading(running, Path(folder))))
                after = {name: one.pid for name, one in processes().items()}
            rounds = sum(len(store.rounds(one.id)) for one in store.sessions())
        found = summary(readings)
        problems = list(complaints(home, artist, before, after))
    for name in before:
        grown = found[f"{name}_memory_mb"]
        if grown["last_third"] > (1 + MOST_GROWTH) * grown["middle_third"]:
            problems.append(f"the memory of the {name} process grows")
    return {
        "minutes": minutes,
        "times_as_fast": TIMES_AS_FAST,
        "done": {**artist.done, "rounds": rounds},
        "values": found,
        "problems": problems,
    }


def table(figures: dict[str, Any]) -> str:
    """As it stands in docs/reliability.md."""
    heads = ("", "first third", "middle third", "last third", "an hour")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for name, value in figures["values"].items():
        numbers = [f"{value[one]:.0f}" for one in ("first_third", "middle_third", "last_third")]
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
    said = itertools.starmap("{1} {0}".format, figures["done"].items())
    hours = arguments.minutes * TIMES_AS_FAST / 60
    print(f"{hours:.1f} hours at {TIMES_AS_FAST:.0f} times human speed: {', '.join(said)}.\n")
    print(table(figures))
    for problem in figures["problems"]:
        print(f"    {problem}")
    timing.write(arguments.json, figures)
    return 1 if figures["problems"] else 0
