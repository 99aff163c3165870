"""Latency of a pick, from the key or click to the next pair on the screen, during training.

    python launch.py bench clicks-latency --json FILE

A complete studio (pages and worker) runs on its own home. Its worker draws pairs with the starter
model and trains an endless round on their picks. The starter draws at 256 px, so synthetic pairs of
each real size are added to the queue of the same session. The browser is a headless Chromium.

Each time runs from the input event's own timestamp to the second animation frame after the pictures
were swapped, when they have been painted. The floor, measured between the picks, is the same time
for an event of the same kind that only changes a colour.

The server's answer to a pick is measured as well, in a session of many picks against one of few:
see `studio.bench.answer_growth`.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures
from PIL import ImageFilter

from studio.bench import answer_growth, timing
from studio.bench.served import PATIENCE_S, PROMPTS, BenchError, studio, wait_for
from studio.settings import STARTER_SIZE_PX, SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Image, Pair, Session, Store, write_atomically
from studio.store.paths import LOSSLESS_UP_TO_PX

SIZES_PX = (512, 1024)
INPUTS = ("key", "pointer")
PICKS_TO_LEARN_FROM = 8
SPARE_PAIRS = 4
ENDLESS = 100_000  # updates: more than any measurement takes
PICTURES = 6  # distinct pictures of each size; every pair has its own files
CHROMIUM_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")

# Measures one event at a time: the promises resolve to the milliseconds until it was painted.
PROBE = """
() => {
  const painted = (from_ms, done) =>
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - from_ms)));
  const one = (kinds, begin) => new Promise((done) => {
    const over = new AbortController();
    for (const kind of kinds) addEventListener(kind, (event) => {
      if (event.type === "keydown" && event.key === "Shift") return;
      over.abort();
      begin(event.timeStamp, done);
    }, { capture: true, signal: over.signal });
  });
  const frame = document.querySelector(".choice .frame");
  window.latency = {
    pick: (kind) => one([kind], (from_ms, done) => {
      const seen = new MutationObserver(() => { seen.disconnect(); painted(from_ms, done); });
      seen.observe(frame, { childList: true });
    }),
    floor: (kind) => one([kind], (from_ms, done) => {
      const mark = document.querySelector(".brand");
      mark.style.color = mark.style.color ? "" : "red";
      painted(from_ms, done);
    }),
  };
}
"""


ALL_SENT = "() => !document.querySelector('#prefer [data-unsaved]')"
SHOWN_PX = "() => document.querySelector('.choice img').naturalWidth"


# --- the studio and its pictures -----------------------------------------------------------------


def begin_to_learn(store: Store, sizes_px: Sequence[int], number: int) -> str:
    """Start a round on pairs that the worker drew, and queue `number` synthetic pairs of each size;
    gives the round's id."""
    settings = SessionSettings(
        prompts=PROMPTS,
        sampling=SamplingSettings(steps=4),
        # small batches, so that its progress shows
        training=TrainingSettings(updates_base=ENDLESS, batch_pairs=4, micro_batch_pairs=4),
        live=False,
        queue_target=PICKS_TO_LEARN_FROM,
    )
    session = store.create_session("Latency", settings)
    store.set_last_session(session.id)

    def drawn() -> list[Pair] | None:
        waiting = store.waiting_pairs(session.id, PICKS_TO_LEARN_FROM)
        return waiting if len(waiting) == PICKS_TO_LEARN_FROM else None

    for pair in wait_for(drawn, "pairs"):
        store.add_answer(uuid.uuid4().hex, pair.id, random.choice(("left", "right")))
    # A few more than are picked, so that the worker need not draw any.
    for size_px, more in zip(sizes_px, [0] * (len(sizes_px) - 1) + [SPARE_PAIRS], strict=True):
        add_pairs(store, session, size_px, number + more)
    # Pairs that the worker drew meanwhile are not measured.
    for pair in store.waiting_pairs(session.id, limit=number * len(sizes_px)):
        if pair.left.sampling == settings.sampling:
            store.add_answer(uuid.uuid4().hex, pair.id, "skip")
    return store.request_round(session.id).id


def pictures(size_px: int, number: int = PICTURES) -> list[Pictures.Image]:
    """Soft shapes with grain, which compress about as badly as a model's pictures."""
    results = []
    for seed in range(number):
        dice = np.random.default_rng(seed)
        coarse = Pictures.fromarray(dice.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        soft = coarse.resize((size_px, size_px), Pictures.Resampling.BICUBIC)
        soft = soft.filter(ImageFilter.GaussianBlur(size_px / 64))
        grain = dice.normal(0, 6, (size_px, size_px, 3))
        results.append(Pictures.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)))
    return results


def add_pairs(store: Store, session: Session, size_px: int, number: int) -> None:
    """Add pairs of pictures of `size_px`, in the file format that the worker writes for display."""
    sampling = replace(session.settings.sampling, width_px=size_px, height_px=size_px)
    lossless = size_px <= LOSSLESS_UP_TO_PX
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, picture in enumerate(pictures(size_px)):
            files.append(Path(folder) / f"{index}{'.png' if lossless else '.jpg'}")
            picture.save(files[-1], quality=92)

        def image(index: int) -> Image:
            row = Image(
                id=store.new_image_id(),
                session_id=session.id,
                purpose="pair",
                prompt=PROMPTS[0],
                seed=index,
                adapter_id=None,
                strength=1.0,
                sampling=sampling,
                base_hash="synthetic",
                created_at_s=time.time(),
            )
            source = files[index % len(files)]
            write_atomically(store.display_path(row), lambda path: shutil.copy(source, path))
            return row

        for index in range(number):
            store.add_pair(session.id, PROMPTS[0], image(2 * index), image(2 * index + 1), None)


# --- the artist ----------------------------------------------------------------------------------


def pick_and_measure(page: Any, kind: str, number: int, pause_s: float) -> dict[str, list[float]]:
    """Milliseconds of `number` picks and as many floors, alternating, at an artist's pace."""
    times: dict[str, list[float]] = {"pick": [], "floor": []}
    event = {"key": "keydown", "pointer": "click"}[kind]
    for index in range(number):
        for what in ("floor", "pick"):
            page.wait_for_timeout(1000 * pause_s / 2)
            page.locator(".prefer-pair").wait_for(state="visible")
            page.evaluate(f"() => {{ latency.found = latency.{what}('{event}') }}")
            if what == "floor":
                page.keyboard.press("F9") if kind == "key" else page.mouse.click(2, 120)
            elif kind == "key":
                page.keyboard.press(("ArrowLeft", "ArrowRight")[index % 2])
            else:
                page.locator(".choice").nth(index % 2).click()
            times[what].append(page.evaluate("() => latency.found"))
    return times


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Median and 95th percentile of the picks and of the floor."""

    def of(values: list[float], prefix: str) -> dict[str, float]:
        high = statistics.quantiles(values, n=20, method="inclusive")[-1]
        return {f"{prefix}p50_ms": statistics.median(values), f"{prefix}p95_ms": high}

    return {**of(times["pick"], ""), **of(times["floor"], "floor_"), "picks": len(times["pick"])}


def measure(picks: int, sizes_px: list[int], pause_s: float, chromium: str) -> dict[str, Any]:
    """All figures: overall, and for each size and kind of input."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="d3po-latency-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        with closing(Store.open(home)) as store, studio(home) as url:
            round_id = begin_to_learn(store, sizes_px, picks * len(INPUTS))

            def updates() -> int:
                return store.round(round_id).updates_done

            wait_for(lambda: updates() or None, "the round to learn")
            each: dict[str, dict[str, Any]] = {}
            everything: dict[str, list[float]] = {"pick": [], "floor": []}
            began, began_s = updates(), time.monotonic()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=CHROMIUM_OPTIONS
                )
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.set_default_timeout(1000 * PATIENCE_S)
                for size_px in sizes_px:
                    for kind in INPUTS:
                        page.goto(f"{url}/#prefer")
                        page.reload()  # going to the same address loads nothing
                        page.locator(".choice img").first.wait_for()
                        if page.evaluate(SHOWN_PX) != size_px:
                            raise BenchError(f"The pictures on the screen are not of {size_px} px.")
                        page.evaluate(PROBE)
                        times = pick_and_measure(page, kind, picks, pause_s)
                        page.wait_for_function(ALL_SENT)
                        each[f"{kind}_{size_px}_px"] = summary(times)
                        for what, values in times.items():
                            everything[what] += values
                browser.close()
            if store.round(round_id).state != "running":
                raise BenchError("The round ended before the picks did.")
            # also counts an update under way, on a slow machine
            learned = wait_for(lambda: updates() - began or None, "the round to learn")
            learned_s = time.monotonic() - began_s
            counts = store.pick_counts(store.round(round_id).session_id)
            stored = counts.total - counts.skipped - PICKS_TO_LEARN_FROM
            wanted = picks * len(INPUTS) * len(sizes_px)
            if stored != wanted:
                raise BenchError(f"{wanted} picks were made, and the store has {stored}.")
            store.stop_round(round_id)
    return {
        **summary(everything),
        **each,
        "updates_per_s": learned / learned_s,
        "model": f"starter, {STARTER_SIZE_PX} px",
        "pause_s": pause_s,
    }


def report(figures: dict[str, Any]) -> str:
    rows = [("all", figures), *((k, v) for k, v in figures.items() if isinstance(v, dict))]
    lines = [
        "From the input to the painted pair, headless Chromium, while a round learns "
        f"({figures['updates_per_s']:.2g} updates a second), in ms:",
        f"{'':>18} {'picks':>6} {'p50':>7} {'p95':>7}   floor p50, p95",
    ]
    for name, f in rows:
        lines.append(
            f"{name.replace('_', ' '):>18} {f['picks']:>6} {f['p50_ms']:>7.0f} {f['p95_ms']:>7.0f}"
            f"   {f['floor_p50_ms']:.0f}, {f['floor_p95_ms']:.0f}"
        )
    return "\n".join(lines)


def find_chromium() -> str:
    """The system's Chromium, which playwright drives. Raises BenchError without either."""
    if importlib.util.find_spec("playwright") is None:
        raise BenchError(
            "This measurement needs playwright, which comes with the test dependencies: "
            "pip install -e '.[test]'"
        )
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise BenchError("This measurement needs Chromium, which is not installed.")
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench clicks-latency", description=__doc__)
    parser.add_argument("--picks", type=int, default=30, help="by key, and the same by pointer")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES_PX, metavar="PX")
    parser.add_argument("--pause", type=float, default=0.7, metavar="S", help="between two picks")
    parser.add_argument(
        "--history",
        type=int,
        nargs=2,
        default=(50, 5000),
        metavar=("FEW", "MANY"),
        help="picks in the two sessions whose answers are compared",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    figures = measure(arguments.picks, arguments.sizes, arguments.pause, find_chromium())
    print(report(figures))
    few, many = arguments.history
    figures["answer"] = answer_growth.measure(few, many, arguments.picks)
    print(answer_growth.report(figures["answer"]))
    timing.write(arguments.json, figures)
    return 0
