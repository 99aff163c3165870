"""Picking from a folder of pictures, as an artist does: with a real worker and a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.store import Session, Store
from studio.worker.loop import Worker
from tests.browser.conftest import snap
from tests.browser.steps import RULES, open_fold, wait_for
from tests.support.foreign_pictures import drawing, save
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
    folder = tmp_path / "my pictures"
    for seed in range(5):
        save(folder, f"cat{seed}", drawing(seed, (96, 64)))
    save(folder, "cat0 again", drawing(0, (192, 128)), "forge")
    (folder / "torn.png").write_bytes(b"no picture")
    return folder


def to_tab(page: Page, name: str) -> None:
    page.locator(f"#tab-{name}-button").click()


def test_a_folder_is_read_picked_from_and_sorted(
    open_page: Callable[..., Page], store: Store, session: Session, worker: Worker, folder: Path
) -> None:
    page = open_page("prompt")
    open_fold(page, "Pick from a folder of pictures")
    page.locator("#folder-path textarea, #folder-path input").fill(f'"{folder}"')
    page.locator("#folder-read").click()
    about = page.locator("#folder-read-so-far")
    expect(about).to_contain_text("6 pictures to pick from, 6 of them new.")
    expect(about).to_contain_text("Left out: 1.")
    expect(about).to_contain_text("were not made by")
    expect(about).to_contain_text("scaled and cropped to 64 × 64")
    watch = page.get_by_label("Watch this folder")
    watch.check()
    expect(about).to_contain_text("It is watched: nothing new yet.")
    wait_for(page, lambda: store.session(session.id).settings.watch_folder)
    save(folder / "today", "cat9", drawing(9, (96, 64)))
    expect(about).to_contain_text("It is watched: 1 new picture since, at ")
    watch.uncheck()
    wait_for(page, lambda: not store.session(session.id).settings.watch_folder)
    store.delete_images(session.id, [store.folder_pictures(session.id)[-1].id])
    about.locator("summary").click()
    expect(about.locator("li")).to_contain_text("torn.png: it is damaged, or no picture.")
    expect(page.get_by_role("radio", name="Pictures of the folder")).to_be_checked()
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width_px in (390, 1280):
            page.set_viewport_size({"width": width_px, "height": 900})
            page.locator("#folder").scroll_into_view_if_needed()
            snap(page, f"folder-{scheme}-{width_px}")
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    found = Axe().run(page, context="#folder", options=RULES).response["violations"]
    assert not found, found

    about.get_by_role("button", name="Pick in pairs").click()
    expect(page.locator(".prefer-source")).to_have_text("From your folder, by dreamer")
    expect(page.locator(".prefer-prompt")).to_have_text("a cat")
    snap(page, "folder-pair")
    for picks in (1, 2):
        expect(page.locator(".prefer-pair")).to_be_visible()
        page.keyboard.press("ArrowLeft")
        wait_for(page, lambda picks=picks: store.pick_counts(session.id).usable == picks)
    page.keyboard.press("z")
    wait_for(page, lambda: store.pick_counts(session.id).usable == 1)

    to_tab(page, "prompt")
    page.get_by_role("button", name="Good or bad, one by one").click()
    card = page.get_by_role("dialog", name="Good or bad?")
    said = card.get_by_role("status")
    expect(said).to_have_text("1 of 6: 0 good, 0 bad, 0 skipped")
    expect(card.locator(".triage-alike")).to_have_text("Nearly the same as 1 other of the folder.")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width_px in (390, 1280):
            page.set_viewport_size({"width": width_px, "height": 900})
            snap(page, f"triage-{scheme}-{width_px}")
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    found = Axe().run(page, context=".triage-card", options=RULES).response["violations"]
    assert not found, found
    for key in ("ArrowRight", "g", "ArrowLeft", "s", "b"):
        page.keyboard.press(key)
    expect(said).to_have_text("6 of 6: 2 good, 2 bad, 1 skipped")
    page.keyboard.press("z")
    expect(said).to_have_text("5 of 6: 2 good, 1 bad, 1 skipped")
    wait_for(page, lambda: sorted(store.verdicts(session.id).values()) == ["bad", "good", "good"])
    assert store.session(session.id).settings.training.lone_pictures
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Good or bad, one by one").click()
    expect(said).to_have_text("1 of 3: 0 good, 0 bad, 0 skipped")
    for _ in range(3):
        card.get_by_role("button", name="Skip").click()
    expect(card).to_contain_text("You have looked at all of them.")
