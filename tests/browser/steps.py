"""What the browser tests do and wait for, over and over."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser import seed
from tests.browser.conftest import PATIENCE_MS

# of axe-core
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


def addresses(pair) -> list[str]:
    return [f"/images/{pair.left.id}", f"/images/{pair.right.id}"]


def expect_pair(page: Page, pair) -> None:
    for place, address in enumerate(addresses(pair)):
        expect(page.locator(".choice img").nth(place)).to_have_attribute("src", address)


def open_fold(page: Page, name: str) -> None:
    """Open it, and leave it to Gradio for half a second of the page's own time.

    Some frames after a fold opened for the first time, Gradio sets what it holds once more
    (`render_previously_invisible_children`), over what was typed before: a hand is slower.
    """
    page.get_by_role("button", name=name).click()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 500)))")


def wait_for(page: Page, reached: Callable[[], bool]) -> None:
    """Until the store has it: a page that is left at once takes its requests with it."""
    until_s = time.monotonic() + PATIENCE_MS / 1000
    while not reached():
        assert time.monotonic() < until_s, "it was not saved"
        page.wait_for_timeout(50)


def expect_saved(page: Page, store, session, picks: int) -> None:
    """The page shows so many picks, and then the store has them."""
    expect(page.locator(".prefer-counts")).to_have_text(re.compile(rf"^{picks} picks?$"))
    page.wait_for_function("() => !document.querySelector('#prefer [data-unsaved]')")
    assert store.pick_counts(session.id).total == picks


def draw_exam(store, session, pairs=None):
    """Do the exam's job as the worker would, as far as so many pairs."""
    exam = store.exam(store.claim_job().payload["exam_id"])
    for pair in exam.pairs[:pairs]:
        two = [
            store.add_image(seed.image(store, session, "exam", pair.prompt, adapter_id=adapter_id))
            for adapter_id in (None, exam.adapter_id)
        ]
        store.set_exam_pictures(pair.id, two[0].id, two[1].id)
    return store.exam(exam.id)


def expect_asked(page: Page, pair) -> None:
    for place, image_id in enumerate(pair.sides):
        image = page.locator(".exam-choice img").nth(place)
        expect(image).to_have_attribute("src", f"/images/{image_id}")
