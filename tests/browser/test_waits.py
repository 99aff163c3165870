"""The real studio after the last update of a round: it says what it does, and can be stopped."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.settings import SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store
from studio.worker.loop import Worker
from tests.browser.conftest import snap
from tests.browser.steps import RULES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PROMPTS = ("a cat", "a dog", "a fish", "an owl", "a snail", "a fox")
DRAWN_MS = 180_000


@pytest.fixture
def picked(home: Path, tiny_model: Path) -> None:
    """Four picks, and pictures of so many steps that each is seen to come."""
    settings = SessionSettings(
        base_model=str(tiny_model),
        prompts=PROMPTS,
        sampling=SamplingSettings(steps=150, width_px=64, height_px=64),
        training=TrainingSettings(rank=2, updates_base=4, updates_per_pick=0),
        live=False,
        queue_target=2,
    )
    with contextlib.closing(Store.open(home)) as store:
        session = store.create_session("Tiny", settings)
        store.set_last_session(session.id)
        drawing = Worker(store, "cpu")
        for number in range(4):
            while not store.waiting_count(session.id):
                assert drawing.work()
            [pair, *_] = store.waiting_pairs(session.id)
            store.add_answer(f"pick{number}", pair.id, ("left", "right")[number % 2])


def test_after_the_last_update_it_says_what_it_does_fills_the_strip_and_can_be_stopped(
    picked: None,
    studio: tuple[str, subprocess.Popen[str]],
    browse: Callable[..., Page],
    home: Path,
) -> None:
    address, process = studio
    page = browse(address, "train")
    card, status = page.locator("#round-card"), page.locator(".status")
    row = page.locator(".strip-row").nth(1)
    page.get_by_role("button", name="Start a round").click()
    expect(card).to_contain_text("Drawing test pictures, ", timeout=DRAWN_MS)
    expect(card).to_contain_text("Round 1 has learned from")
    expect(card).to_contain_text(re.compile(r"of 12, (about \d+ (s|min)|a few seconds) left"))
    expect(card).to_contain_text("Stop keeps what it learned")
    expect(status).to_contain_text("Drawing test pictures, ")
    expect(row.locator("img").nth(0)).to_be_visible(timeout=DRAWN_MS)
    expect(row).to_contain_text("being checked")
    assert row.locator("img").count() < len(PROMPTS)
    assert row.get_by_role("button").count() == 0
    found = Axe().run(page, context="#tab-train", options=RULES)
    assert not found.response["violations"], found.generate_report()
    snap(page, "waits-drawing-1280")
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    snap(page, "waits-drawing-390-dark")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Stop").click()
    expect(card).to_contain_text(re.compile(r"You stopped it after \d+ of its 12 test pictures"))
    expect(row).to_contain_text("In use")
    snap(page, "waits-stopped")
    expect(row.locator("img")).to_have_count(len(PROMPTS), timeout=DRAWN_MS)  # drawn later
    process.terminate()
    assert process.wait() == 0
    with contextlib.closing(Store.open(home)) as store:
        [round_] = store.rounds(store.last_session_id())
        assert round_.state == "done"
