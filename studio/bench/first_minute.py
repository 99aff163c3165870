"""The first minutes of a new home: when an artist sees what, from the start to a tuned picture.

    python launch.py bench first-minute --json FILE

The studio starts with the starter model in a new home; a headless Chromium is open already. The
artist leaves the tour, waits for the first picture, goes to Prefer, and picks what is brighter: one
pick in `--pause` seconds, or later where no pair is there. After as many picks as start a round
they look at Train until the first picture by the tuned model is painted.

Machines differ, and share their processors with other work. So each moment is given in seconds and
in two units that are measured in the same run: a picture, as the worker itself has measured it, and
a round, from its beginning to the first tuned picture. Setting up Python's packages, which happens
once for a machine, is no part of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image as Pictures

from studio.bench import artists, timing
from studio.bench.clicks_latency import CHROMIUM_OPTIONS, find_chromium
from studio.bench.served import PATIENCE_S, BenchError, start, wait_for
from studio.store import Store

PAUSE_S = 3.0
POLL_S = 0.05

BUILT = "() => document.querySelector('#studio-header .session-name')?.offsetParent"
# All pictures of a place are there and painted: two frames after they were decoded.
PAINTED = """async (selector) => {
  const seen = [...document.querySelectorAll(selector)].filter((image) => image.offsetParent);
  if (!seen.length || !seen.every((image) => image.complete && image.naturalWidth)) return false;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return true;
}"""
SHOWN = "() => [...document.querySelectorAll('.choice img')].map((one) => one.getAttribute('src'))"
# Moments, in the order in which they come.
NAMES = {
    "opens": "The studio answers",
    "page": "The page is built",
    "picture": "First picture",
    "pair": "First pair to pick from",
    "pick": "First pick kept",
    "picks": "Enough picks for a round",
    "round": "The round begins",
    "learned": "The round has learned",
    "tuned": "First tuned picture",
}


class Artist:
    """Somebody at a page of a new home, whose moments are noted in seconds since the start."""

    def __init__(self, page: Any, store: Store, began_s: float, pause_s: float) -> None:
        self.page, self.store, self.began_s, self.pause_s = page, store, began_s, pause_s
        self.moments: dict[str, float] = {}
        self.waited_s = 0.0  # for pairs, beyond the pause between two picks

    def note(self, name: str) -> None:
        """It happens now, if it has not before; said at once, for a run that is cut off."""
        if name not in self.moments:
            self.moments[name] = time.monotonic() - self.began_s
            print(f"{self.moments[name]:7.1f} s  {NAMES[name]}", flush=True)

    def until(self, name: str, reached: Callable[[], object]) -> None:
        """Wait until something holds in the store, and note when."""
        self._wait(reached, NAMES[name])
        self.note(name)

    def see(self, selector: str) -> None:
        """Wait until all pictures of a place are painted."""
        self._wait(lambda: self.page.evaluate(PAINTED, selector), f"pictures at {selector}")

    def _wait(self, reached: Callable[[], object], what: str) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not reached():
            if time.monotonic() > until_s:
                raise BenchError(f"Waited {PATIENCE_S:.0f} s in vain: {what}.")
            self.page.wait_for_timeout(1000 * POLL_S)

    def pick(self, session_id: str, enough: int) -> None:
        """Pick until so many picks are new, at an artist's pace. A pair that is asked again makes
        none."""
        store = self.store
        while not store.newest_round(session_id) and store.pick_counts(session_id).new < enough:
            kept, looked_s = store.pick_counts(session_id).total, time.monotonic()
            self.see(".choice img")
            self.note("pair")
            if kept:
                self.waited_s += time.monotonic() - looked_s
            self.page.wait_for_timeout(1000 * self.pause_s)
            self.see(".choice img")  # a page that is new may have built them again meanwhile
            self.page.locator(".choice").nth(self._better()).click()
            self.until("pick", lambda kept=kept: store.pick_counts(session_id).total > kept)
        self.note("picks")

    def _better(self) -> int:
        """The place of the picture that the artist likes better."""
        scores = []
        for address in self.page.evaluate(SHOWN):
            image = self.store.image(address.rsplit("/", 1)[1])
            with Pictures.open(self.store.display_path(image)) as picture:
                scores.append(artists.bright(picture, image.prompt))
        return scores.index(max(scores))


def measure(pause_s: float, chromium: str) -> dict[str, Any]:
    """All figures."""
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory(prefix="d3po-first-", ignore_cleanup_errors=True) as folder,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(1000 * PATIENCE_S)
        began_s = time.monotonic()
        process, url = start(Path(folder))
        try:
            with closing(Store.open(Path(folder))) as store:
                artist = Artist(page, store, began_s, pause_s)
                artist.note("opens")
                return first_minutes(artist, url)
        finally:
            process.terminate()
            process.wait()
            browser.close()


def first_minutes(artist: Artist, url: str) -> dict[str, Any]:
    """What the artist does; gives the figures."""
    page, store = artist.page, artist.store
    page.goto(url)
    page.wait_for_function(BUILT)
    artist.note("page")
    page.keyboard.press("Escape")  # leaves the tour
    artist.see("#preview img")
    artist.note("picture")
    page.locator("#tab-prefer-button").click()
    session_id = wait_for(store.last_session_id, "a session")
    picks = store.session(session_id).settings.round_every
    artist.pick(session_id, picks)
    page.locator("#tab-train-button").click()
    artist.until("round", lambda: _state(store, session_id) == "running")
    artist.until("learned", lambda: store.newest_round(session_id).adapter_id)
    artist.see(".strip-row:nth-of-type(3) img")
    artist.note("tuned")
    moments = {name: artist.moments[name] for name in NAMES}
    pictures = {k: s for k, s in store.measured_seconds().items() if k.startswith("picture ")}
    if len(pictures) != 1:
        raise BenchError(f"Pictures of one kind were to be drawn, and there are {list(pictures)}.")
    return {
        "moments_s": moments,
        "picture_s": next(iter(pictures.values())),
        "round_s": moments["tuned"] - moments["round"],
        "updates": store.newest_round(session_id).updates_total,
        "picks": picks,
        "pause_s": artist.pause_s,
        "waited_for_pairs_s": artist.waited_s,
    }


def _state(store: Store, session_id: str) -> str:
    """Of the newest round; "" without one."""
    round_ = store.newest_round(session_id)
    return round_.state if round_ else ""


def report(figures: dict[str, Any]) -> str:
    picture_s, round_s = figures["picture_s"], figures["round_s"]
    lines = [
        f"From the start of a new home. A picture takes {picture_s:.2g} s here; a round of "
        f"{figures['picks']} picks and {figures['updates']} updates takes {round_s:.3g} s up to "
        f"its first tuned picture; one pick in {figures['pause_s']:g} s.",
        f"{'':>28} {'seconds':>8} {'pictures':>9} {'rounds':>7}",
    ]
    for name, at_s in figures["moments_s"].items():
        words = NAMES[name].format(picks=figures["picks"])
        lines.append(f"{words:>28} {at_s:>8.1f} {at_s / picture_s:>9.1f} {at_s / round_s:>7.2f}")
    lines.append(f"The artist waited {figures['waited_for_pairs_s']:.1f} s for further pairs.")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench first-minute", description=__doc__)
    parser.add_argument(
        "--pause", type=float, default=PAUSE_S, metavar="S", help="of looking at a pair"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    figures = measure(arguments.pause, find_chromium())
    print(report(figures))
    timing.write(arguments.json, figures)
    return 0
