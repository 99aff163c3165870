"""A real Chromium, and the studio in front of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from studio.settings import SessionSettings
from studio.store import Session, Store
from studio.ui import words
from studio.ui.app import server
from tests.browser import seed

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "test-artefacts"

CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Machines differ: what is waited for is waited for long, and nothing is ever timed.
PATIENCE_MS = 60_000

# Screenshots are for somebody to look at: taken where asked for, and of what has failed.
LOOKS = bool(os.environ.get("D3PO_LOOK"))
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note for the fixtures whether the test has failed."""
    outcome = yield
    if outcome.get_result().failed:
        item.stash[FAILED] = True


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; without one these tests fail in CI, and are skipped elsewhere."""
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("The browser tests need Chromium, and it is not installed.")
        pytest.skip("Chromium is not installed.")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def browse(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Call it with an address for a page in a window of its own; fails on errors in the page."""
    contexts, errors = [], []

    def open_(url: str, tab: str = "prompt", **options: object) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/#{tab}")
        expect(page.locator(f"#tab-{tab}-button")).to_have_attribute("aria-selected", "true")
        expect(page.locator("#studio-header .session-name")).not_to_be_empty()
        return page

    yield open_
    for number, context in enumerate(contexts):
        for page in context.pages:
            if LOOKS or request.node.stash.get(FAILED, False):
                keep(page, f"end-of-{request.node.name}-{number}")
        context.close()
    assert not errors


def snap(page: Page, name: str) -> None:
    """Keep a screenshot among the artefacts where they are asked for."""
    if LOOKS:
        keep(page, name)


def keep(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png")


# --- pages over a store that the test fills itself -----------------------------------------------


@pytest.fixture
def labelling(store: Store) -> Session:
    """The open session, with pictures, and ten pairs that wait for a pick."""
    settings = SessionSettings(prompts=("a red apple", "a lion", "a sailboat"), round_every=8)
    session = store.create_session("Blue things", settings)
    store.set_last_session(session.id)
    seed.add_previews(store, session)
    seed.add_pairs(store, session, 10)
    seed.say(store)
    return session


@pytest.fixture
def tour_seen(home: Path) -> None:
    """Nothing lies over the page but what a test opens."""
    with contextlib.closing(Store.open(home)) as store:
        store.set_tour_seen()


@pytest.fixture
def pages(store: Store, tour_seen: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the real pages over `store`; there is no worker, and none is missed."""
    monkeypatch.setattr(words, "SILENT_AFTER_S", 7200.0)
    serving = server(store, "127.0.0.1", 0)
    thread = threading.Thread(target=serving.run, daemon=True)
    thread.start()
    while not serving.started:
        assert thread.is_alive(), "the server ended"
        time.sleep(0.02)
    port = serving.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    serving.should_exit = True
    thread.join()


@pytest.fixture
def open_page(pages: str, browse: Callable[..., Page]) -> Callable[..., Page]:
    """Call it with the name of a tab. The pages close before the server, which waits for them."""
    return partial(browse, pages)


# --- the whole studio ----------------------------------------------------------------------------


@pytest.fixture
def studio(home: Path, tour_seen: None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process of a whole studio on a new home, worker and all."""
    command = [sys.executable, "-u", "-m", "studio", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if "open at" in line:
            break
    assert said, "the studio ended without a word"
    assert "open at" in said[-1], "".join(said)
    yield said[-1].split()[-1], process
    process.terminate()
    process.wait()
