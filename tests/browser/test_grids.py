"""Prefer with more than two pictures at a time: the best one, or an order of them."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.store import Question, Store
from tests.browser import seed
from tests.browser.steps import RULES, addresses, expect_pair, expect_saved, wait_for

pytestmark = pytest.mark.browser


def expect_grid(page: Page, asked: Question) -> None:
    expect(page.locator(".choice img")).to_have_count(len(asked.images))
    for place, image in enumerate(asked.images, start=1):
        picture = page.locator(f"[data-side='{place}'] img")
        expect(picture).to_have_attribute("src", f"/images/{image.id}")


def places(store: Store, session, asked: Question) -> list[int]:
    """The order that holds for a grid, as numbers of its pictures."""
    [answer] = [one for one in store.recent_answers(session.id) if one.question.id == asked.id]
    ids = [image.id for image in asked.images]
    return [1 + ids.index(image_id) for image_id in answer.ranking]


def ranks(page: Page) -> list[str]:
    return page.locator(".side .rank").all_inner_texts()


def test_the_best_of_four_by_key_and_pointer_and_undo(open_page, store, labelling):
    first, second, third = seed.add_grids(store, labelling, 3)
    page = open_page("prefer")
    expect_grid(page, first)
    page.keyboard.press("5")  # there is no fifth one
    page.keyboard.press("ArrowLeft")  # nor a left one
    page.keyboard.press("3")
    expect_grid(page, second)
    page.get_by_role("button", name="Picture 2 is the best one").click()
    expect_grid(page, third)
    expect_saved(page, store, labelling, 2)
    assert places(store, labelling, first) == [3]
    assert places(store, labelling, second) == [2]
    assert store.pick_counts(labelling.id).usable == 6
    page.keyboard.press("z")
    expect_grid(page, second)
    assert ranks(page) == ["", "1st", "", ""]
    page.keyboard.press("z")
    expect_grid(page, first)
    page.keyboard.press("0")
    page.keyboard.press("s")
    expect_grid(page, third)
    expect_saved(page, store, labelling, 2)
    counts = store.pick_counts(labelling.id)
    assert (counts.usable, counts.both_bad, counts.skipped) == (0, 1, 1)


def test_an_order_by_keys_with_a_reason(open_page, store, labelling):
    first, second = seed.add_grids(store, labelling, 2)
    page = open_page("prefer")
    expect_grid(page, first)
    for key in ("o", "4", "2", "2", "e"):  # the second 2 takes it out again
        page.keyboard.press(key)
    assert ranks(page) == ["", "", "", "1st"]
    page.keyboard.press("1")
    page.keyboard.press("3")  # the last but one decides the last
    assert ranks(page) == ["2nd", "4th", "3rd", "1st"]
    expect(page.get_by_role("button", name="Picture 4, now 1st (key 4)")).to_be_visible()
    page.get_by_role("button", name="Keep this order").click()
    expect_grid(page, second)
    expect_saved(page, store, labelling, 1)
    assert places(store, labelling, first) == [4, 1, 3, 2]
    reasons = {one.pick.reason for one in store.picked_pairs(labelling.id)}
    assert reasons == {"colour"}
    # Only the best two: nothing is said of the others' order. And Escape leaves it.
    for key in ("o", "1", "Escape", "o", "2", "4", "o"):
        page.keyboard.press(key)
    expect_saved(page, store, labelling, 2)
    assert places(store, labelling, second) == [2, 4]
    page.keyboard.press("z")
    expect_grid(page, second)
    assert ranks(page) == ["", "1st", "", "2nd"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out_of_a_grid(open_page, store, labelling, scheme):
    [asked] = seed.add_grids(store, labelling, 1, 6)
    page = open_page("prefer", color_scheme=scheme)
    expect_grid(page, asked)
    for key in ("o", "4", "2"):
        page.keyboard.press(key)
    assert Axe().run(page, options=RULES).response["violations"] == []


def test_an_order_by_dragging(open_page, store, labelling):
    first, second = seed.add_grids(store, labelling, 2)
    page = open_page("prefer")
    expect_grid(page, first)

    def drag(side: int, onto: int) -> None:
        page.locator(f"[data-side='{side}'] .choice").hover()
        page.mouse.down()
        box = page.locator(f"[data-side='{onto}']").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=8)
        page.mouse.up()

    drag(4, onto=1)
    assert ranks(page) == ["1st", "2nd", "3rd", "4th"]
    sides = "boxes => boxes.map((box) => box.dataset.side)"
    assert page.locator(".side").evaluate_all(sides) == ["4", "1", "2", "3"]
    drag(1, onto=3)
    assert page.locator(".side").evaluate_all(sides) == ["4", "2", "3", "1"]
    expect_grid(page, first)  # dropping is no answer
    page.keyboard.press("o")
    expect_grid(page, second)
    assert page.locator(".side").evaluate_all(sides) == ["1", "2", "3", "4"]
    expect_saved(page, store, labelling, 1)
    assert places(store, labelling, first) == [4, 2, 3, 1]


def test_how_many_at_a_time_is_asked_for_and_flipped_through(open_page, store, labelling):
    pair = store.waiting_pairs(labelling.id)[0]
    page = open_page("prefer")
    expect_pair(page, pair)
    expect(page.get_by_role("button", name="Order")).to_be_hidden()
    page.get_by_role("button", name="Four at a time").click()
    expect(page.locator(".prefer .empty")).to_contain_text("The next pictures are being drawn")
    wait_for(page, lambda: store.session(labelling.id).settings.pictures == 4)
    assert store.waiting_count(labelling.id) == 0  # what waited is a pair, and not wanted any more
    [asked] = seed.add_grids(store, labelling, 1)
    expect_grid(page, asked)
    expect(page.get_by_role("button", name="Four at a time")).to_have_attribute(
        "aria-pressed", "true"
    )
    shown = []
    for _ in range(5):
        page.keyboard.press("Space")
        shown += page.locator(".side:not(.behind)").evaluate_all("b => b.map(x => x.dataset.side)")
    assert shown == ["1", "2", "3", "4", "1"]
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Favourite: picture 3").click()
    page.keyboard.press("h")
    page.keyboard.press("1")
    cell = page.locator("[data-pair]").first
    expect(cell.locator("img")).to_have_count(4)
    expect(cell.locator(".favourite")).to_have_count(1)
    expect_saved(page, store, labelling, 1)
    page.get_by_role("button", name="Two at a time").click()
    wait_for(page, lambda: store.session(labelling.id).settings.pictures == 2)
    seed.add_pairs(store, labelling, 1)
    [pair] = store.waiting_pairs(labelling.id)
    expect_pair(page, pair)
    expect(page.locator(".choice img")).to_have_count(2)
    # From the filmstrip a grid opens again, and what is said anew replaces what was said.
    cell.locator("button").click()
    expect_grid(page, asked)
    assert ranks(page) == ["1st", "", "", ""]
    page.keyboard.press("2")
    expect_pair(page, pair)
    expect_saved(page, store, labelling, 1)
    assert places(store, labelling, asked) == [2]
    assert addresses(pair) == [
        one.get_attribute("src") for one in page.locator(".choice img").all()
    ]
    expect(page.locator(".choice").first).to_have_attribute(
        "aria-label", re.compile("left picture is better")
    )
