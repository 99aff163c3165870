"""The gallery as an artist uses it: by mouse and by keys, with a few pictures and ten thousand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.store import Session, Store
from studio.store.gallery import PAGE
from studio.store.schema import images
from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES, open_fold, wait_for
from tests.support.factories import make_image

pytestmark = pytest.mark.browser

MOST_NODES = 120  # on this screen, rows around it among them
WIDTHS_PX = (390, 1280, 2560)


def option(page: Page, place: int):
    return page.locator(f"#gallery-{place}")


def expect_count(page: Page, words: str) -> None:
    expect(page.locator(".gallery-count")).to_have_text(words)
    expect(page.locator('.gallery-picture[data-shows=""]')).to_have_count(0)  # all are fetched


def expect_active(page: Page, place: int) -> None:
    listbox = page.get_by_role("listbox", name="Pictures")
    expect(listbox).to_have_attribute("aria-activedescendant", f"gallery-{place}")


def large(page: Page):
    return page.locator("dialog.gallery-large")


def expect_large(page: Page, image_id: str) -> None:
    expect(large(page).locator("img").first).to_have_attribute("src", f"/images/{image_id}")


def newest_first(store: Store, session: Session) -> list[str]:
    with store.reading() as connection:
        query = sa.select(images.c.id).where(images.c.session_id == session.id)
        return list(connection.scalars(query.order_by(images.c.seq.desc())))


@pytest.fixture
def walked(store: Store, labelling: Session) -> Session:
    """A round has been learned: 3 base pictures of the strip, 10 pairs, 3 of its strip, 2 pairs."""
    seed.pick_all(store, labelling)
    adapter = seed.learn(store, labelling)
    seed.add_pairs(store, labelling, 2, adapter.id)
    return labelling


def test_the_walk_with_the_keys_alone(open_page, store, walked):
    ids = newest_first(store, walked)
    page = open_page("gallery", permissions=["clipboard-read", "clipboard-write"])
    expect_count(page, "30 pictures")
    page.get_by_role("listbox", name="Pictures").focus()
    expect_active(page, 0)
    for key, place in (("ArrowRight", 1), ("End", 29), ("Home", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        expect_active(page, place)
    page.keyboard.press("Enter")
    expect_large(page, ids[1])
    expect(large(page)).to_contain_text("2 of 30")
    page.keyboard.press("ArrowRight")
    expect_large(page, ids[2])
    page.keyboard.press("f")
    star = large(page).get_by_role("button", name="Favourite")
    expect(star).to_have_attribute("aria-pressed", "true")
    assert store.image(ids[2]).favourite
    page.keyboard.press("c")
    expect(large(page)).to_contain_text("The settings are copied.")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.startswith(store.image(ids[2]).prompt + " <lora:Blue things round 1:1>\n")
    assert f"Seed: {store.image(ids[2]).seed}" in copied
    page.keyboard.press("Delete")
    expect_large(page, ids[3])
    expect(large(page)).to_contain_text("1 picture deleted. Its picks are kept")
    page.keyboard.press("z")
    expect_large(page, ids[2])
    expect(large(page)).to_contain_text("1 picture is back.")
    snap(page, "gallery-large")
    page.keyboard.press("Escape")
    expect(large(page)).to_be_hidden()
    expect_active(page, 2)
    page.keyboard.press("Space")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect(option(page, 1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("b")
    for side, id_ in enumerate((ids[2], ids[1])):
        shown = large(page).locator("img").nth(side)
        expect(shown).to_have_attribute("src", f"/images/{id_}")
    snap(page, "gallery-compare")
    page.keyboard.press("Escape")
    page.keyboard.press("Delete")
    expect_count(page, "28 pictures")
    page.keyboard.press("Control+z")
    expect_count(page, "30 pictures")
    assert newest_first(store, walked) == ids
    assert store.deleted_count(walked.id) == 0


def test_filters(open_page, store, walked):
    ids = newest_first(store, walked)
    store.set_favourite(ids[0], True)
    page = open_page("gallery")
    expect_count(page, "30 pictures")
    expect(option(page, 0)).to_have_attribute("aria-label", re.compile("favourite"))
    page.get_by_label("Drawn by").select_option(label="Round 1")
    expect_count(page, "7 pictures")
    page.get_by_label("Picks").select_option(label="Undecided")
    expect_count(page, "4 pictures")
    page.get_by_role("button", name="Favourites").click()
    expect_count(page, "1 picture")
    expect(option(page, 0)).to_have_attribute("aria-label", re.compile("Undecided, favourite"))
    page.get_by_label("Prompt", exact=True).select_option(label="a sailboat")
    expect(page.get_by_role("heading", name="No such picture")).to_be_visible()
    page.get_by_role("button", name="Show all pictures").click()
    expect_count(page, "30 pictures")
    page.get_by_label("Picks").select_option(label="Chosen")
    expect_count(page, "10 pictures")
    option(page, 0).click()
    prompt = large(page).locator("b").inner_text()
    large(page).get_by_role("button", name="Only this prompt").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(prompt)
    expect(page.locator(".gallery-count")).to_have_text(re.compile("^[34] pictures"))


def test_deleted_pictures_are_brought_back_or_erased(open_page, store, walked):
    ids = newest_first(store, walked)
    unused, picked = ids[0], ids[-4]  # of a pair that waits, and of one that was answered
    page = open_page("gallery")
    expect_count(page, "30 pictures")
    option(page, 0).locator("[data-select]").click()
    option(page, 26).locator("[data-select]").click()
    page.get_by_role("button", name="Del Delete", exact=True).click()
    expect_count(page, "28 pictures")
    page.get_by_role("button", name="Deleted (2)").click()
    expect_count(page, "2 pictures")
    page.get_by_role("button", name="Erase for good").click()
    question = page.locator("dialog.ask")
    expect(question).to_contain_text("1 picture leaves the disk for good")
    expect(question).to_contain_text("1 stays in here, because a pick needs it.")
    question.get_by_role("button", name="Cancel").click()
    assert store.image_path(store.image(unused)).exists()
    page.get_by_role("button", name="Erase for good").click()
    question.get_by_role("button", name="Erase them").click()
    expect_count(page, "1 picture")
    assert not store.image_path(store.image(unused)).exists()
    assert store.image_path(store.image(picked)).exists()
    option(page, 0).locator("[data-select]").click()
    page.get_by_role("button", name="Bring back").first.click()
    expect(page.get_by_role("heading", name="Nothing is deleted")).to_be_visible()
    page.get_by_role("button", name="Show all pictures").click()
    expect_count(page, "29 pictures")


def test_the_settings_of_a_picture_are_used(open_page, store, walked):
    image = store.image(newest_first(store, walked)[0])
    page = open_page("gallery")
    option(page, 0).click()
    large(page).get_by_role("button", name="Use these settings").click()
    expect(page.locator("#notice-area")).to_contain_text(f"seed {image.seed}")
    expect(page.locator("#tab-prompt-button")).to_have_attribute("aria-selected", "true")
    settings = store.session(walked.id).settings
    assert (settings.prompts[0], settings.sampling.seed) == (image.prompt, image.seed)
    open_fold(page, "How pictures are made")
    expect(page.locator("#seed input")).to_have_value(str(image.seed))


def test_what_is_drawn_meanwhile_comes_to_the_top_and_moves_nothing(open_page, store, walked):
    ids = newest_first(store, walked)
    page = open_page("gallery")
    expect_count(page, "30 pictures")
    seed.add_pairs(store, walked, 1)
    expect_count(page, "32 pictures")
    page.get_by_role("listbox", name="Pictures").focus()
    page.keyboard.press("End")
    seed.add_pairs(store, walked, 1)
    fresh = page.get_by_role("button", name="Show the new pictures")
    expect(fresh).to_be_visible()
    expect_active(page, 31)
    page.keyboard.press("Enter")
    expect_large(page, ids[-1])
    page.keyboard.press("Escape")
    fresh.click()
    expect_count(page, "34 pictures")
    expect(fresh).to_be_hidden()


def test_an_empty_gallery_says_what_comes(open_page, store, session):
    store.set_last_session(session.id)
    page = open_page("gallery")
    expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_use_it_at_any_width(open_page, store, walked, scheme):
    page = open_page("gallery", color_scheme=scheme)
    expect_count(page, "30 pictures")
    option(page, 1).locator("[data-select]").click()
    option(page, 3).locator("[data-select]").click()
    for width_px in WIDTHS_PX:
        page.set_viewport_size({"width": width_px, "height": 900})
        expect(option(page, 0).locator("img")).to_be_visible()
        page.wait_for_function(
            "() => [...document.querySelectorAll('.gallery img')].every((one) => one.complete)"
        )
        snap(page, f"gallery-{scheme}-{width_px}")
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        for opens, name in ((lambda: option(page, 0).click(), "large"), (compare(page), "two")):
            opens()
            expect(large(page)).to_be_visible()
            snap(page, f"gallery-{name}-{scheme}-{width_px}")
            found = Axe().run(page, context=".gallery-large", options=RULES).response["violations"]
            assert not found, found
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
            page.keyboard.press("Escape")
            expect(large(page)).to_be_hidden()
        found = Axe().run(page, context=".gallery", options=RULES).response["violations"]
        assert not found, found


def compare(page: Page) -> Callable[[], None]:
    return lambda: page.get_by_role("button", name="Compare two").click()


# --- ten thousand --------------------------------------------------------------------------------


@pytest.fixture
def ten_thousand(store: Store, labelling: Session) -> Session:
    """Rows of their own, files of a few."""
    files = [store.image_path(store.image(id_)) for id_ in newest_first(store, labelling)[:8]]
    number = 10_000 - len(newest_first(store, labelling))
    made = [
        make_image(store, labelling.id, purpose="compare", prompt=f"thing {n % 7}", seed=n)
        for n in range(number)
    ]
    for n, image in enumerate(made):
        os.link(files[n % len(files)], store.image_path(image))
    with store.writing() as connection:
        connection.execute(sa.insert(images), [vars(image) for image in made])
    return labelling


def test_ten_thousand_pictures_are_a_page_like_any_other(open_page, store, home, ten_thousand):
    calls, thumbnails = [], []

    def hear(request) -> None:
        if "component_server" in request.url:
            calls.append(request.post_data_json)
        elif request.url.endswith("/thumbnail"):
            thumbnails.append(request.url)

    page = open_page("prompt")
    page.on("request", hear)
    page.locator("#tab-gallery-button").click()
    expect_count(page, "10,000 pictures")
    ids = newest_first(store, ten_thousand)
    page.get_by_role("listbox", name="Pictures").focus()
    for key, place in (("PageDown", None), ("End", 9_999), ("PageUp", None), ("Home", 0)):
        page.keyboard.press(key)
        if place is not None:
            expect_active(page, place)
            expect(option(page, place).locator("img")).to_have_attribute(
                "src", f"/images/{ids[place]}/thumbnail"
            )
        assert page.locator(".gallery-picture").count() <= MOST_NODES
    page.locator(".gallery-scroll").evaluate("(all) => { all.scrollTop = all.scrollHeight / 2; }")
    middle = page.locator(".gallery-picture img").first
    wait_for(page, lambda: 4_000 < place_of(middle) < 6_000)
    place = place_of(middle)
    expect(middle).to_have_attribute("src", f"/images/{ids[place]}/thumbnail")
    assert page.locator(".gallery-picture").count() <= MOST_NODES
    # As many requests as screens were looked at, and each for one page.
    assert len(calls) <= 1 + 3 * 6, calls
    assert len(thumbnails) <= 6 * MOST_NODES
    made = list((home / "thumbnails").iterdir())
    assert 0 < len(made) <= 8 + 20  # the pictures share eight files


def place_of(image) -> int:
    return int(image.evaluate("(img) => img.closest('.gallery-picture').dataset.place"))


def test_a_page_is_no_larger_than_it_says(store, ten_thousand):
    assert PAGE <= MOST_NODES


def test_what_is_deleted_twice_or_to_the_last_is_told_and_loses_no_place(open_page, store, walked):
    ids = newest_first(store, walked)
    store.set_favourite(ids[4], True)
    page = open_page("gallery")
    page.get_by_role("button", name="★ Favourites").click()
    expect_count(page, "1 picture")
    page.get_by_role("listbox", name="Pictures").focus()
    page.evaluate(
        """() => { const list = document.activeElement;
        for (const turn of [1, 2]) list.dispatchEvent(new KeyboardEvent("keydown",
          { key: "Delete", code: "Delete", bubbles: true })); }"""
    )
    said = page.locator(".gallery-said").first
    expect(said).to_have_text(re.compile("1 picture deleted"))
    undo = page.locator('[data-act="undo"]')
    expect(undo).to_be_focused()  # the list is gone
    store.restore_images(walked.id, [ids[4]])  # in another window
    page.keyboard.press("Enter")
    expect(said).to_have_text("This is back already, or was erased in another window.")
    expect_count(page, "1 picture")
    store.delete_images(walked.id, [ids[4]])
    page.get_by_role("button", name="Del Delete", exact=True).click()
    expect(said).to_have_text("This was deleted in another window.")
    expect(page.get_by_role("heading", name="No such picture")).to_be_visible()
    assert store.deleted_count(walked.id) == 1
