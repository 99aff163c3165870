"""The studio in two windows at once: nothing is replaced without a word, and none falls behind."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import seed
from tests.browser.steps import (
    addresses,
    draw_exam,
    expect_asked,
    expect_pair,
    expect_saved,
    wait_for,
)
from tests.support.factories import discard

pytestmark = pytest.mark.browser

POLL = re.compile("run/predict")
SENT = re.compile("component_server")

REPLACED = (
    "You had answered this in another window: “Left is much better: detail”. "
    "It is replaced by “Right is better”. Undo takes that back."
)


def another(page: Page, url: str, tab: str) -> Page:
    """A second tab of the same browser."""
    second = page.context.new_page()
    second.goto(f"{url}/#{tab}")
    expect(second.locator(f"#tab-{tab}-button")).to_have_attribute("aria-selected", "true")
    return second


def stop_looking(page: Page) -> None:
    """From now on the page hears of the store only in answers to what it sends.

    Polls are left without an answer: after a refused one, Gradio takes the connection for lost and
    loads the page again.
    """
    page.route(POLL, lambda route: None)


def expect_notice(page: Page, text: str) -> None:
    expect(page.locator("#notice-area .notice-text")).to_have_text(text)


def test_a_tab_moves_on_when_its_pair_is_answered_in_another(pages, open_page, store, labelling):
    first, second, third, *_ = store.waiting_pairs(labelling.id)
    here = open_page("prefer")
    there = another(here, pages, "prefer")
    for page in (here, there):
        expect_pair(page, first)
        stop_looking(page)
    here.keyboard.press("1")
    expect_pair(there, second)
    expect(there.locator(".prefer-said")).to_have_text("That one was answered in another window.")
    there.keyboard.press("2")
    expect_pair(here, third)
    here.keyboard.press("z")  # the newest answer, wherever it was given
    expect_pair(here, second)
    expect_saved(here, store, labelling, 1)
    expect(there.locator(".prefer-counts")).to_have_text("1 pick")
    there.keyboard.press("3")
    expect_pair(there, second)
    there.keyboard.press("z")
    expect_pair(there, third)
    expect_saved(there, store, labelling, 1)
    for page in (here, there):
        expect(page.locator("#notice-area")).to_be_hidden()
    assert [one.pair.id for one in store.picked_pairs(labelling.id)] == [first.id]


def test_another_browser_moves_on_when_it_is_looked_at(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    here, there = open_page("prefer"), open_page("prefer")
    for page in (here, there):
        expect_pair(page, first)
    stop_looking(there)
    here.keyboard.press("1")
    expect_saved(here, store, labelling, 1)
    there.evaluate("() => dispatchEvent(new Event('focus'))")
    expect_pair(there, second)


def test_it_moves_on_by_itself_in_the_end(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    store.add_answer("elsewhere", first.id, "left")
    expect_pair(page, second)


def test_late_news_do_not_push_away_what_was_called_back(open_page, store, labelling):
    """A poll that read the store before an undo, and ends while the pictures are fetched."""
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    store.add_answer("elsewhere", second.id, "left")
    expect(page.locator(".prefer-counts")).to_have_text("1 pick")
    polls, pictures = [], []

    def hold(route):
        answer = route.fetch()
        if polls or "a change" in answer.text():
            polls.append((route, answer))
        else:
            route.fulfill(response=answer)

    page.route(POLL, hold)
    page.route(re.compile(addresses(second)[0]), lambda route: pictures.append(route))  # noqa: PLW0108 - Playwright looks into the handler
    store.set_note(first.id, "a change, for a poll to have news")
    wait_for(page, lambda: bool(polls))
    page.keyboard.press("z")
    wait_for(page, lambda: bool(pictures) and not store.picked_pairs(labelling.id))
    [(route, answer)] = polls
    route.fulfill(response=answer)
    wait_for(page, lambda: len(polls) > 1)  # the one before was taken in
    for route in pictures:
        route.continue_()
    expect_pair(page, second)


def test_what_only_went_out_of_the_queue_stays_on_the_screen(open_page, store, labelling):
    first = store.waiting_pairs(labelling.id)[0]
    page = open_page("prefer")
    expect_pair(page, first)
    discard(store, labelling.id)
    [new] = seed.add_pairs(store, labelling, 1)
    with page.expect_response(re.compile("component_server")):
        page.evaluate("() => dispatchEvent(new Event('focus'))")
    expect_pair(page, first)
    page.keyboard.press("1")
    expect_pair(page, new)


def test_an_answer_that_replaces_another_says_so_and_is_taken_back(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    here, there = open_page("prefer"), open_page("prefer")
    for page in (here, there):
        expect_pair(page, first)
    there.route(SENT, lambda route: route.abort())
    here.keyboard.press("w")
    here.keyboard.press("Shift+1")
    expect_saved(here, store, labelling, 1)
    there.keyboard.press("2")
    expect(there.locator("#notice-area")).to_contain_text("One answer is kept here")
    there.unroute(SENT)
    expect_notice(there, REPLACED)
    [one] = store.picked_pairs(labelling.id)
    assert (one.pair.id, one.pick.choice) == (first.id, "right")
    expect_pair(there, second)
    there.keyboard.press("z")
    expect_pair(there, first)
    wait_for(there, lambda: not store.picked_pairs(labelling.id))
    expect(here.locator("#notice-area")).to_be_hidden()


def test_what_is_unsent_outlives_the_page(open_page, store, labelling):
    """Gradio loads it again by itself when a lost connection comes back."""
    first, second, third, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.route(SENT, lambda route: route.abort())
    page.keyboard.press("1")
    expect_pair(page, second)
    page.keyboard.press("2")
    expect(page.locator("#notice-area")).to_contain_text("2 answers are kept here")
    address = page.url
    page.goto("about:blank")
    assert store.pick_counts(labelling.id).total == 0
    page.unroute(SENT)
    page.goto(address)
    expect_pair(page, third)
    expect_saved(page, store, labelling, 2)
    assert {one.pair.id: one.pick.choice for one in store.picked_pairs(labelling.id)} == {
        first.id: "left",
        second.id: "right",
    }


def test_an_answer_of_a_grid_says_so_too(open_page, store, labelling):
    [asked] = seed.add_grids(store, labelling, 1)
    ids = [image.id for image in asked.images]
    for pair in store.waiting_pairs(labelling.id):
        if pair.grid_id is None:
            store.add_answer(f"before-{pair.id}", pair.id, "skip")
    page = open_page("prefer")
    expect(page.locator(".prefer-pair > .side")).to_have_count(4)
    page.route(SENT, lambda route: route.abort())
    store.add_answer("elsewhere", asked.id, "ranked", ranking=[ids[3]])
    page.keyboard.press("2")
    page.unroute(SENT)
    expect_notice(
        page,
        "You had answered this in another window: “Picture 4 is the best”. "
        "It is replaced by “Picture 2 is the best”. Undo takes that back.",
    )


def test_a_change_of_mind_in_one_window_is_no_surprise(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    page.get_by_role("button", name="Picked").click()
    expect_pair(page, first)
    page.keyboard.press("1")
    expect_pair(page, second)
    page.locator("[data-pair]").get_by_role("button").click()
    expect_pair(page, first)
    page.keyboard.press("2")
    expect_pair(page, second)
    expect_saved(page, store, labelling, 1)
    expect(page.locator("#notice-area")).to_be_hidden()


@pytest.fixture
def exam(store, labelling):
    """Three pairs, drawn."""
    seed.pick_all(store, labelling)
    tuned = seed.learn(store, labelling)
    store.add_exam(labelling.id, tuned.id, 1.0, [(f"a fresh thing {n}", n) for n in range(3)])
    return draw_exam(store, labelling)


def test_an_exam_in_two_tabs(pages, open_page, store, exam):
    here = open_page("exam")
    there = another(here, pages, "exam")
    for page in (here, there):
        expect_asked(page, exam.pairs[0])
        stop_looking(page)
    here.keyboard.press("1")
    expect_asked(there, exam.pairs[1])
    there.context.route(SENT, lambda route: route.abort())  # of both
    here.keyboard.press("3")
    there.keyboard.press("2")
    there.context.unroute(SENT)
    for page in (here, there):
        page.wait_for_function("() => !document.querySelector('#exam [data-unsaved]')")
    said = [page.locator("#notice-area .notice-text").inner_text() for page in (here, there)]
    choice = {"tie": "No difference", "right": "Right"}[store.exam(exam.id).pairs[1].choice]
    other = {"No difference": "Right", "Right": "No difference"}[choice]
    assert (
        f"You had answered this in another window: “{other}”. It is replaced by “{choice}”. "
        "Back takes that back." in said
    )
