"""Own finished art, as an artist gives it: with a real worker and a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.settings import OBJECTIVES
from studio.store import Session, Store
from studio.worker.loop import Worker
from tests.browser.conftest import snap
from tests.browser.steps import RULES, open_fold, wait_for
from tests.support.foreign_pictures import drawing
from tests.support.workers import small_session, working

pytestmark = pytest.mark.browser


@pytest.fixture
def session(store: Store, tiny_model: Path) -> Session:
    return small_session(store, tiny_model)


@pytest.fixture
def worker(store: Store, session: Session) -> Iterator[Worker]:
    with working(store) as worker:
        yield worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my art"
    folder.mkdir()
    for number in range(5):
        drawing(number, (256, 192)).save(folder / f"fox{number}.png")
        (folder / f"fox{number}.txt").write_text(f"a fox in the snow at dusk, number {number}")
    drawing(9, (256, 192)).save(folder / "silent.png")
    return folder


def test_own_art_is_given_drawn_beside_taken_back_and_seen_on_prefer(
    open_page: Callable[..., Page], store: Store, session: Session, worker: Worker, folder: Path
) -> None:
    page = open_page("prompt")
    open_fold(page, "Learn from your own art")
    page.locator("#own-path textarea, #own-path input").fill(f'"{folder}"')
    page.locator("#own-read").click()
    about = page.locator("#own-art")
    expect(about).to_contain_text("5 new, 0 known already. Left out: 1.")
    about.locator("summary").click()
    expect(about.locator("details li")).to_contain_text("silent.png: it has no caption")
    expect(about).to_contain_text("5 of 5 pictures of your own chosen over a drawing")

    page.locator("#own-path textarea, #own-path input").fill(str(folder / "silent.png"))
    page.locator("#own-caption textarea, #own-caption input").fill("a quiet fox")
    page.locator("#own-read").click()
    expect(about).to_contain_text("6 of 6 pictures of your own chosen over a drawing")
    expect(about.locator(".own-pairs li")).to_have_count(6)
    expect(about.locator(".own-pairs li").first).to_contain_text("a quiet fox")
    expect(about.locator(".own-pairs li").first.locator("img")).to_have_count(2)
    assert store.pick_counts(session.id).usable == 6

    about.get_by_role("button", name="Take back: a quiet fox").click()
    expect(about.get_by_role("button", name="Choose it: a quiet fox")).to_be_visible()
    expect(about).to_contain_text("5 of 6 pictures of your own chosen")
    assert store.pick_counts(session.id).usable == 5
    training = OBJECTIVES["d3po"]
    store.change_settings(session.id, lambda now: replace(now, training=training))
    expect(about).to_contain_text("D3PO learns from the steps of a drawing, which your own")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width_px in (390, 1280, 2560):
            page.set_viewport_size({"width": width_px, "height": 900})
            page.locator("#own").scroll_into_view_if_needed()
            snap(page, f"own-{scheme}-{width_px}")
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        found = Axe().run(page, context="#own", options=RULES).response["violations"]
        assert not found, found
    page.set_viewport_size({"width": 1280, "height": 900})
    about.get_by_role("button", name="Choose it: a quiet fox").click()
    wait_for(page, lambda: store.pick_counts(session.id).usable == 6)

    # On Prefer it is shown for what it is, and can be changed as any pick.
    page.locator("#tab-prefer-button").click()
    expect(page.locator(".prefer-counts")).to_have_text("6 picks")
    page.keyboard.press("h")
    mine = page.locator("#prefer").get_by_role("button", name="your own art").first
    expect(mine).to_contain_text("yours")
    snap(page, "own-strip")
    mine.click()
    source = "Your own art beside a drawing"
    expect(page.locator(".prefer-source")).to_have_text(source)
    snap(page, "own-reopened")
    page.keyboard.press("ArrowDown")
    wait_for(page, lambda: store.pick_counts(session.id).ties == 1)
    page.keyboard.press("z")
    wait_for(page, lambda: store.pick_counts(session.id).total == 5)

    page.locator("#tab-gallery-button").click()
    mine = page.locator("#gallery img").first
    expect(mine).to_be_visible()
