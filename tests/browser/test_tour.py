"""The tour of the pages: six steps that point at what they are about, once for every home."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.store import Session, Store
from studio.ui.tour import STEPS
from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES, expect_pair, expect_saved, wait_for

pytestmark = pytest.mark.browser

NEXT, BACK, LEAVE = "Next", "Back", "Leave the tour"

# Whether the frame lies around all that the step points at.
FRAMES = """(selectors) => {
  const frame = document.querySelector(".tour-frame").getBoundingClientRect();
  const visible = (one) => [...document.querySelectorAll(one)].filter((part) => part.offsetParent);
  const parts = selectors.map(visible).find((each) => each.length);
  return Boolean(parts) && parts.every((part) => {
    const box = part.getBoundingClientRect();
    return frame.left <= Math.max(0, box.left) && frame.right >= Math.min(innerWidth, box.right) &&
      frame.top <= box.top && frame.bottom >= box.bottom;
  });
}"""
IN_SIGHT = """() => {
  const { left, top, right, bottom } = document.querySelector(".tour").getBoundingClientRect();
  return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
}"""
COVERS = """() => {
  const [card, frame] = [".tour", ".tour-frame"].map(
    (one) => document.querySelector(one).getBoundingClientRect());
  return card.left < frame.right && card.right > frame.left &&
    card.top < frame.bottom && card.bottom > frame.top;
}"""


@pytest.fixture
def tour_seen() -> None:
    """Here it has not been."""


def expect_step(page: Page, number: int) -> None:
    step = STEPS[number - 1]
    card = page.get_by_role("dialog", name=step.title)
    expect(card).to_be_visible()
    expect(card).to_contain_text(f"{number} of 6")
    expect(page.locator(f"#tab-{step.tab}-button")).to_have_attribute("aria-selected", "true")
    page.wait_for_function(FRAMES, arg=list(step.points_at))


def expect_no_tour(page: Page) -> None:
    """What is asked for comes up with the first values of the page, and it has those by now."""
    expect(page.locator("#studio-header .status")).to_be_visible()
    expect(page.locator(".tour")).to_be_hidden()


def test_the_first_start_goes_through_six_steps_and_ends_at_the_first_pair(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    page = open_page("prompt")
    expect(page.get_by_role("button", name=NEXT)).to_be_focused()
    for number in range(1, 7):
        expect_step(page, number)
        if number < 6:
            page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect_step(page, 5)
    page.get_by_role("button", name=BACK).click()
    expect_step(page, 4)
    for _ in range(2):
        page.get_by_role("button", name=NEXT).click()
    expect_step(page, 6)
    assert not store.tour_seen()
    page.get_by_role("button", name="Start picking").click()
    expect(page.locator(".tour")).to_be_hidden()
    expect(page.locator(".tour-frame")).to_be_hidden()
    expect_pair(page, store.waiting_pairs(labelling.id)[0])
    wait_for(page, store.tour_seen)
    page.reload()
    expect_no_tour(page)
    expect_no_tour(open_page("prompt"))  # another browser, the same home


def test_it_is_left_by_esc_wherever_the_focus_is_and_comes_back_from_the_menu(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    page = open_page("prompt")
    expect_step(page, 1)
    page.locator("#prompts textarea").focus()
    page.keyboard.press("Escape")
    expect(page.locator(".tour")).to_be_hidden()
    wait_for(page, store.tour_seen)
    page.locator(".session-open").click()
    page.get_by_role("button", name="Show the tour").click()
    expect_step(page, 1)
    expect(page.get_by_role("button", name=NEXT)).to_be_focused()
    page.get_by_role("button", name=LEAVE).click()
    expect(page.locator(".tour")).to_be_hidden()
    expect(page.locator(".session-open")).to_be_focused()


def test_the_arrows_turn_its_pages_or_pick_by_where_the_focus_is(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prompt")
    page.keyboard.press("ArrowRight")
    expect_step(page, 2)
    page.keyboard.press("ArrowRight")  # with the focus on the card it picks nothing
    expect_step(page, 3)
    page.keyboard.press("ArrowLeft")
    expect_step(page, 2)
    expect_pair(page, first)
    page.locator(".choice").first.click()
    expect_pair(page, second)
    page.keyboard.press("ArrowRight")
    expect_saved(page, store, labelling, 2)
    expect_step(page, 2)
    page.keyboard.press("Escape")
    expect(page.locator(".tour")).to_be_hidden()
    assert store.pick_counts(labelling.id).total == 2


def test_esc_closes_a_dialog_over_it_first(
    open_page: Callable[..., Page], labelling: Session
) -> None:
    page = open_page("prompt")
    expect_step(page, 1)
    page.locator(".session-open").click()
    page.keyboard.press("Escape")
    expect(page.locator("#session-menu")).to_be_hidden()
    expect_step(page, 1)


def test_who_has_picked_already_is_shown_no_tour(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    seed.pick_all(store, labelling)
    expect_no_tour(open_page("prompt"))


def test_a_home_of_several_sessions_has_none(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    store.create_session("Another", labelling.settings)
    expect_no_tour(open_page("prompt"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", [390, 1280, 2560])
def test_each_step_is_in_sight_beside_what_it_is_about(
    open_page: Callable[..., Page], labelling: Session, scheme: str, width_px: int
) -> None:
    size = {"width": width_px, "height": 844 if width_px < 1000 else 1000}
    page = open_page("prompt", color_scheme=scheme, viewport=size)
    found = []
    for number in range(1, 7):
        expect_step(page, number)
        page.wait_for_function(IN_SIGHT)
        snap(page, f"tour-{number}-{scheme}-{width_px}")
        if STEPS[number - 1].tab != "prefer" and page.evaluate(
            COVERS
        ):  # two pictures fill a window
            found.append(f"step {number} lies over what it is about")
        if page.evaluate("() => document.documentElement.scrollWidth > innerWidth"):
            found.append(f"step {number} runs off the side")
        for problem in Axe().run(page, options=RULES).response["violations"]:
            found.append(f"step {number}: {problem['id']}: {problem['help']}")
        page.keyboard.press("ArrowRight")
    assert not found, "\n".join(found)
