"""The brush on Prefer: a few strokes mark what decided, by mouse, keys and touch."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.settings import MARKS_ACROSS
from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES, expect_pair, expect_saved

pytestmark = pytest.mark.browser


def held(store, session) -> list[tuple]:
    found = sorted(store.picked_pairs(session.id), key=lambda one: one.pick.created_at_s)
    return [(one.pair.id, one.pick.choice, sorted(one.pick.marks)) for one in found]


def stroke(page: Page, place: int, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one point of a picture to another, both in shares of its sides."""
    box = page.locator(".choice").nth(place).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=6)
    page.mouse.up()


def rows_of(marks: str) -> list[str]:
    bits = f"{int(marks, 16):0{MARKS_ACROSS**2}b}"
    return [bits[at : at + MARKS_ACROSS] for at in range(0, len(bits), MARKS_ACROSS)]


def shown(page: Page) -> list[bool]:
    return page.locator(".marks").evaluate_all("all => all.map((one) => !one.hidden)")


def test_strokes_are_kept_with_the_pick_and_shown_again(open_page, store, labelling):
    first, second, third, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("b")
    mark = page.locator("[data-act=brush]")
    expect(mark).to_contain_text("Done")
    stroke(page, 0, (0.1, 0.25), (0.9, 0.25))
    stroke(page, 1, (0.5, 0.5), (0.5, 0.5))  # a click, which chooses nothing
    assert shown(page) == [True, True]
    assert held(store, labelling) == []
    page.keyboard.press("z")  # takes the click back, and not the pair before
    assert shown(page) == [True, False]
    page.keyboard.press("1")
    expect_pair(page, second)
    assert shown(page) == [False, False]
    expect(mark).to_contain_text("Mark")
    expect_saved(page, store, labelling, 1)
    assert held(store, labelling) == [(first.id, "left", ["left"])]
    rows = rows_of(store.picked_pairs(labelling.id)[0].pick.marks["left"])
    assert rows[7][4:28] == "1" * 24  # a quarter down, from side to side
    assert all("1" not in row for row in (*rows[:5], *rows[11:]))

    mark.click()  # by the pointer: marked, put down, and chosen by a click
    stroke(page, 1, (0.2, 0.8), (0.4, 0.8))
    page.keyboard.press("Escape")
    expect(page.locator(".prefer-said")).to_have_text("Marked. Now choose.")
    page.locator(".choice").first.click()
    expect_pair(page, third)
    expect_saved(page, store, labelling, 2)
    assert held(store, labelling)[1] == (second.id, "left", ["right"])

    page.reload()
    expect_pair(page, third)
    page.keyboard.press("z")
    expect_pair(page, second)
    expect(page.locator(".marks").last).to_be_visible()
    assert shown(page) == [False, True]
    page.keyboard.press("b")
    page.keyboard.press("z")  # the marks from before
    assert shown(page) == [False, False]
    page.keyboard.press("1")
    expect_saved(page, store, labelling, 2)
    assert held(store, labelling)[1] == (second.id, "left", [])


def test_a_pick_is_marked_afterwards(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("q")
    page.keyboard.press("Shift+2")
    expect_pair(page, second)
    page.keyboard.press("h")
    page.locator(".strip-pick").first.click()
    expect_pair(page, first)
    page.keyboard.press("b")
    stroke(page, 1, (0.5, 0.2), (0.5, 0.8))
    keep = page.get_by_role("button", name="Keep these marks")
    expect(keep).to_be_visible()
    page.keyboard.press("b")
    expect_pair(page, second)
    expect(page.locator(".strip-pick i").first).to_have_text("marked")
    expect_saved(page, store, labelling, 1)
    [one] = store.picked_pairs(labelling.id)
    assert (one.pick.choice, one.pick.much_better, one.pick.reason) == (
        "right",
        True,
        "composition",
    )
    assert list(one.pick.marks) == ["right"]
    page.locator(".strip-pick").first.click()
    assert shown(page) == [False, True]
    page.keyboard.press("Escape")  # left as it was
    expect_pair(page, second)
    assert store.picked_pairs(labelling.id) == [one]


def test_marks_lie_on_the_picture_at_any_zoom(open_page, store, labelling):
    page = open_page("prefer")
    expect_pair(page, store.waiting_pairs(labelling.id)[0])
    for key in ("+", "+", "b"):
        page.keyboard.press(key)
    before = page.locator(".choice img").first.evaluate("i => getComputedStyle(i).transform")
    stroke(page, 0, (0.5, 0.5), (0.6, 0.5))
    after = page.locator(".choice :is(img, .marks:not([hidden]))").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).transform)"
    )
    assert set(after) == {before}  # it draws, and moves nothing
    page.keyboard.press("2")
    expect_saved(page, store, labelling, 1)
    rows = rows_of(store.picked_pairs(labelling.id)[0].pick.marks["left"])
    marked = {(x, y) for y, row in enumerate(rows) for x, bit in enumerate(row) if bit == "1"}
    assert (16, 16) in marked
    assert all(13 <= x <= 20 and 13 <= y <= 18 for x, y in marked)  # finer than without the zoom


def test_a_grid_is_marked_too_and_a_tie_has_no_marks(open_page, store, labelling):
    store.update_settings(labelling.id, labelling.settings)
    first = store.waiting_pairs(labelling.id)[0]
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("b")
    stroke(page, 0, (0.3, 0.3), (0.6, 0.6))
    page.keyboard.press("3")
    expect_saved(page, store, labelling, 1)
    assert held(store, labelling) == [(first.id, "tie", [])]
    [grid] = seed.add_grids(store, labelling, 1)
    page.get_by_role("button", name="Four at a time").click()
    expect(page.locator(".choice img")).to_have_count(4)
    page.get_by_role("button", name="Mark").click()
    stroke(page, 2, (0.3, 0.3), (0.6, 0.6))
    assert shown(page) == [False, False, True, False]
    page.keyboard.press("3")
    expect_saved(page, store, labelling, 2)
    answer = store.recent_answers(labelling.id)[0]
    assert answer.ranking == (grid.images[2].id,)
    assert {id_ for one in answer.picked for id_ in one.marks} == {grid.images[2].id}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_by_touch_and_how_it_looks(browse, pages, store, labelling, scheme):
    first, second, *_ = store.waiting_pairs(labelling.id)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = browse(pages, "prefer", **phone, color_scheme=scheme)
    expect_pair(page, first)
    page.get_by_role("button", name="Mark").tap()
    box = page.locator(".choice").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": at[0], "y": at[1], "id": id_} for id_, at in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    fingers("touchStart", (x, y))
    for far in (10, 20, 30):
        fingers("touchMove", (x + far, y))
    fingers("touchEnd")
    page.locator(".choice").last.tap()  # a dab, and no choice
    assert shown(page) == [True, True]
    snap(page, f"brush-{scheme}-390")
    fingers("touchStart", (x - 20, y))  # two fingers zoom, and leave no stroke
    fingers("touchStart", (x - 20, y), (x + 20, y))
    fingers("touchMove", (x - 40, y), (x + 40, y))
    fingers("touchEnd")
    expect(page.locator("[data-part=zoom]")).to_have_text(re.compile(r"^(1\.[5-9]|2)"))
    page.get_by_role("button", name="Undo").tap()
    assert shown(page) == [True, False]
    page.get_by_role("button", name="Zoom: show").tap()
    page.get_by_role("button", name="Done").tap()
    assert not Axe().run(page, options=RULES).response["violations"]
    page.locator(".choice").last.tap()
    expect_pair(page, second)
    expect_saved(page, store, labelling, 1)
    assert held(store, labelling) == [(first.id, "right", ["left"])]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_how_it_looks_on_a_desk(open_page, store, labelling, scheme):
    page = open_page("prefer", color_scheme=scheme)
    expect_pair(page, store.waiting_pairs(labelling.id)[0])
    page.keyboard.press("b")
    stroke(page, 0, (0.3, 0.3), (0.6, 0.4))
    stroke(page, 1, (0.5, 0.7), (0.8, 0.75))
    for width_px in (1280, 2560):
        page.set_viewport_size({"width": width_px, "height": 1000})
        snap(page, f"brush-{scheme}-{width_px}")
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    assert not Axe().run(page, options=RULES).response["violations"]
