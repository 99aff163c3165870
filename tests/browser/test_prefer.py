"""Prefer to the last key: nothing lost at any speed, and everything the card of keys promises."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from playwright.sync_api import Page, Route, expect

from studio.store import Store
from tests.browser import seed
from tests.browser.steps import expect_pair, expect_saved, wait_for

pytestmark = pytest.mark.browser

PICKS = 60
EVERY_MS = 150
DELAY_S = 0.2  # of each answer: the picks are quicker than the server


def held(store: Store, session) -> list[tuple]:
    """What holds, in the order of picking."""
    return [
        (one.pair.id, one.pick.choice, one.pick.much_better, one.pick.reason)
        for one in store.picked_pairs(session.id)
    ]


def rows_of_picks(store: Store) -> int:
    with store.reading() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM picks").scalar()


# --- nothing is lost -----------------------------------------------------------------------------


def test_sixty_quick_picks_are_each_kept_once(open_page, store, labelling):
    """A key every 150 ms; every answer is slow, and two are lost after the store took the pick."""
    store.update_settings(labelling.id, replace(labelling.settings, round_every=1000))
    seed.add_pairs(store, labelling, PICKS)
    pairs = store.waiting_pairs(labelling.id, limit=1000)
    page = open_page("prefer")
    expect_pair(page, pairs[0])
    picks: list[str] = []
    lost: list[str] = []

    def slow(route: Route) -> None:
        body = route.request.post_data or ""
        if '"pick_id"' not in body:
            return route.continue_()
        time.sleep(DELAY_S)
        answer = route.fetch()
        assert answer.status == 200
        picks.append(re.search(r'"pick_id":\s*"([^"]+)"', body)[1])
        if len(picks) in (7, 23):
            lost.append(picks[-1])
            return route.abort()
        return route.fulfill(response=answer)

    page.route(re.compile("component_server"), slow)
    # The keys are pressed in the page, by its own clock: it answers no slower while a route waits.
    page.evaluate(
        """([number, every_ms]) => {
            let left = number;
            window.pressed = new Promise((done) => {
                const press = () => {
                    // A key before the next pair is on the screen says nothing of any pair.
                    if (!document.querySelector(".prefer-pair").hidden) {
                        const key = left % 2 ? "2" : "1";
                        const options = { key, code: "Digit" + key, bubbles: true };
                        document.body.dispatchEvent(new KeyboardEvent("keydown", options));
                        left -= 1;
                    }
                    if (left) setTimeout(press, every_ms);
                    else done();
                };
                press();
            });
        }""",
        [PICKS, EVERY_MS],
    )
    page.evaluate("() => window.pressed")
    expect_saved(page, store, labelling, PICKS)
    page.unroute_all()
    assert len(lost) == 2
    assert all(picks.count(pick_id) == 2 for pick_id in lost)
    expected = [(pair.id, ("left", "right")[n % 2]) for n, pair in enumerate(pairs[:PICKS])]
    assert [one[:2] for one in held(store, labelling)] == expected
    assert rows_of_picks(store) == PICKS
    expect_pair(page, pairs[PICKS])


# --- how much better, and why --------------------------------------------------------------------


def test_strength_and_reason_by_key_and_pointer(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, pairs[0])
    for number, keys in enumerate((["q", "Shift+1"], ["Shift+ArrowRight"], ["w", "e", "2"])):
        expect_pair(page, pairs[number])
        for key in keys:
            page.keyboard.press(key)
    expect_pair(page, pairs[3])
    page.get_by_role("button", name="right picture is much better").click()
    expect_pair(page, pairs[4])
    page.get_by_role("button", name="Subject").click()
    page.locator(".choice").first.click(modifiers=["Shift"])
    expect_pair(page, pairs[5])
    for key in ("r", "r", "1"):  # said, and taken back
        page.keyboard.press(key)
    expect_pair(page, pairs[6])
    page.keyboard.press("q")
    page.keyboard.press("Shift+3")  # a tie has neither
    expect_saved(page, store, labelling, 7)
    assert [one[1:] for one in held(store, labelling)] == [
        ("left", True, "composition"),
        ("right", True, None),
        ("right", False, "colour"),
        ("right", True, None),
        ("left", True, "subject"),
        ("left", False, None),
        ("tie", False, None),
    ]


def test_undo_brings_the_whole_answer_back_even_after_a_reload(open_page, store, labelling):
    first, second, third, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("w")
    page.keyboard.press("Shift+1")
    expect_pair(page, second)
    page.keyboard.press("2")
    expect_saved(page, store, labelling, 2)
    page.reload()
    expect_pair(page, third)
    page.keyboard.press("z")
    expect_pair(page, second)
    page.keyboard.press("z")
    expect_pair(page, first)
    expect(page.locator(".choice").first).to_have_class(re.compile(r"\bwas\b"))
    expect(page.locator(".much").first).to_have_class(re.compile(r"\bwas\b"))
    detail = page.get_by_role("button", name="Detail")
    expect(detail).to_have_attribute("aria-pressed", "true")
    expect_saved(page, store, labelling, 0)
    page.keyboard.press("1")  # the reason is still said
    expect_saved(page, store, labelling, 1)
    assert held(store, labelling) == [(first.id, "left", False, "detail")]


# --- looking closely -----------------------------------------------------------------------------


def transforms(page: Page) -> list[str]:
    return page.locator(".choice img").evaluate_all(
        "all => all.map(i => getComputedStyle(i).transform)"
    )


def scale(page: Page) -> list[float]:
    """How large each picture is drawn within its frame."""
    return page.locator(".choice").evaluate_all(
        """all => all.map((one) => one.querySelector("img").getBoundingClientRect().width
            / one.querySelector(".frame").getBoundingClientRect().width)"""
    )


def test_both_pictures_are_zoomed_and_moved_in_step_across_pairs(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    assert scale(page) == pytest.approx([1, 1])
    page.keyboard.press("+")
    page.keyboard.press("=")
    assert scale(page) == pytest.approx([2.25, 2.25])
    page.keyboard.press("-")
    assert scale(page) == pytest.approx([1.5, 1.5])
    box = page.locator(".choice").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.wheel(0, -700)
    page.wait_for_function("() => document.querySelector('[data-part=zoom]').textContent > '2'")
    assert scale(page)[0] == pytest.approx(scale(page)[1])
    left, right = transforms(page)
    assert left == right
    assert page.locator(".choice img").first.evaluate(
        "i => getComputedStyle(i).imageRendering"
    ) == (
        "pixelated"  # a pixel of 64 fills some thirty of the screen's
    )
    page.keyboard.press("Alt+ArrowRight")
    assert transforms(page)[0] != left
    moved = transforms(page)
    page.mouse.down()  # a drag moves both, and is no choice
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    dragged = transforms(page)
    assert dragged[0] == dragged[1] != moved[0]
    assert held(store, labelling) == []
    page.keyboard.press("1")
    expect_pair(page, second)
    assert transforms(page) == dragged
    page.keyboard.press("Escape")
    assert scale(page) == pytest.approx([1, 1])
    assert (
        page.locator(".choice img").first.evaluate("i => getComputedStyle(i).imageRendering")
        == "auto"
    )
    page.get_by_role("button", name="Larger").click()
    page.get_by_role("button", name="whole pictures").click()
    assert scale(page) == pytest.approx([1, 1])
    expect_saved(page, store, labelling, 1)


def test_space_flips_both_in_one_place(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prompt")
    page.locator("#tab-prefer-button").click()  # and the focus stays on the tab
    expect_pair(page, first)
    left, right = page.locator(".choice").all()
    page.keyboard.press("Space")
    expect(left).to_be_visible()
    expect(right).to_be_hidden()
    expect(page.locator(".flip-label").first).to_have_text("Left")
    expect(page.locator(".flip-label").first).to_be_visible()
    place = left.bounding_box()
    page.keyboard.press("Space")
    expect(left).to_be_hidden()
    expect(right).to_be_visible()
    expect(page.locator(".flip-label").last).to_be_visible()
    assert right.bounding_box() == place
    page.keyboard.press("1")  # the left one all the same
    expect_pair(page, second)
    expect(left).to_be_visible()  # the next pair begins with its left one
    page.get_by_role("button", name="Flip").click()
    expect(right).to_be_visible()
    page.keyboard.press("Space")  # what was clicked last is not pressed again, beyond flipping
    expect(left).to_be_visible()
    page.keyboard.press("Space")
    right.click()
    page.keyboard.press("Escape")
    expect(left).to_be_visible()
    expect(right).to_be_visible()
    expect_saved(page, store, labelling, 2)
    assert [one[:2] for one in held(store, labelling)] == [(first.id, "left"), (second.id, "right")]


def test_two_fingers_zoom_and_a_tap_chooses(browse, pages, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = browse(pages, "prefer", **phone)
    expect_pair(page, first)
    box = page.locator(".choice").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, apart_px: float) -> None:
        points = [{"x": x - apart_px, "y": y, "id": 1}, {"x": x + apart_px, "y": y, "id": 2}]
        points = [] if kind == "touchEnd" else points
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 20)
    for apart_px in (25, 30, 40):
        fingers("touchMove", apart_px)
    fingers("touchEnd", 0)
    assert scale(page) == pytest.approx([2, 2], rel=0.1)
    assert held(store, labelling) == []
    page.locator(".choice").last.tap()
    expect_pair(page, second)
    expect_saved(page, store, labelling, 1)
    assert held(store, labelling)[0][1] == "right"


def test_the_prompt_can_be_hidden_for_good(open_page, store, labelling):
    first = store.waiting_pairs(labelling.id)[0]
    page = open_page("prefer")
    prompt = page.locator(".prefer-prompt")
    expect(prompt).to_have_text(first.prompt)
    page.keyboard.press("p")
    expect(prompt).to_be_empty()
    page.reload()
    expect_pair(page, first)
    expect(prompt).to_be_empty()
    page.get_by_role("button", name="Show prompt").click()
    expect(prompt).to_have_text(first.prompt)


def test_what_is_known_is_said_in_one_line(open_page, store, labelling):
    store.update_settings(labelling.id, replace(labelling.settings, round_every=16))
    seed.pick_all(store, labelling)
    again = store.ask_again(labelling.id)
    store.add_answer("again", again.id, "left")
    seed.learn(store, labelling)
    page = open_page("prefer")
    line = page.locator(".prefer-round")
    expect(line).to_have_text(
        re.compile(r"16 to the next round · it guesses 2 of 2, you repeat \d of 1")
    )


# --- one's own keys ------------------------------------------------------------------------------


def test_keys_can_be_changed_and_a_conflict_is_refused(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, pairs[0])
    page.keyboard.press("?")
    card = page.get_by_role("dialog", name="Keep a hand on the keys")
    said = card.get_by_role("status")

    def change(what: str, key: str, sentence: str) -> None:
        button = card.locator(f"[data-change={what}]")
        if "Press" not in button.inner_text():
            button.click()
        page.keyboard.press(key)
        expect(said).to_contain_text(sentence)

    change("skip", "z", "Z already means: undo")
    change("skip", "Tab", "Tab keeps the meaning")
    change("skip", "k", "K now means: skip")
    change("left", ",", "a letter, a digit or an arrow")
    change("left", "Escape", "Left as it was")
    expect(card).to_be_visible()
    change("left", "a", "A now means: the left picture is better")
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    expect(page.get_by_role("button", name="Skip").locator("kbd")).to_have_text("K")
    for key in ("s", "1", "ArrowLeft"):  # they mean nothing any more
        page.keyboard.press(key)
    page.keyboard.press("k")
    expect_pair(page, pairs[1])
    page.keyboard.press("Shift+A")
    expect_saved(page, store, labelling, 2)
    page.reload()
    expect_pair(page, pairs[2])
    page.keyboard.press("a")
    expect_saved(page, store, labelling, 3)
    assert [one[1:3] for one in held(store, labelling)] == [
        ("skip", False),
        ("left", True),
        ("left", False),
    ]
    page.get_by_role("button", name="Show the keys").click()
    card.get_by_role("button", name="The usual keys").click()
    expect(said).to_have_text("The usual keys are back.")
    card.get_by_role("button", name="Back to the pictures").click()
    page.keyboard.press("s")
    expect_saved(page, store, labelling, 4)


# --- what was picked -----------------------------------------------------------------------------


def test_any_pick_is_opened_again_and_changed(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, pairs[0])
    page.keyboard.press("h")
    expect(page.locator(".strip-said")).to_contain_text("What you pick appears here")
    for key, pair in zip(("Shift+1", "2", "3"), pairs, strict=False):
        expect_pair(page, pair)
        page.keyboard.press(key)
    cells = page.locator("[data-pair]")
    expect(cells).to_have_count(3)
    in_order = "all => all.map(one => one.dataset.pair)"
    assert cells.evaluate_all(in_order) == [pair.id for pair in reversed(pairs[:3])]
    expect(cells.nth(2).locator("span").first).to_have_class("chosen much")
    expect_saved(page, store, labelling, 3)

    cells.nth(2).get_by_role("button").click()
    expect_pair(page, pairs[0])
    expect(page.locator(".choice").first).to_have_class(re.compile(r"\bwas\b"))
    page.keyboard.press("z")  # nothing is undone: it is left as it was
    expect_pair(page, pairs[3])
    cells.nth(2).get_by_role("button").click()
    expect_pair(page, pairs[0])
    page.keyboard.press("Shift+1")  # the same again is no change
    expect_pair(page, pairs[3])
    assert rows_of_picks(store) == 3

    cells.nth(2).get_by_role("button").click()
    expect_pair(page, pairs[0])
    page.keyboard.press("e")
    page.keyboard.press("2")
    expect_pair(page, pairs[3])
    expect_saved(page, store, labelling, 3)
    assert rows_of_picks(store) == 4
    [newest] = store.recent_answers(labelling.id)[0].picked
    assert (newest.pair.id, newest.pick.choice, newest.pick.reason) == (
        pairs[0].id,
        "right",
        "colour",
    )
    assert newest.pick.supersedes is not None
    assert cells.evaluate_all(in_order) == [pairs[n].id for n in (0, 2, 1)]

    page.keyboard.press("z")  # the change was the newest answer
    expect_pair(page, pairs[0])
    expect(cells).to_have_count(2)
    expect_saved(page, store, labelling, 2)
    page.reload()
    expect(cells).to_have_count(2)  # the filmstrip stays open


def test_picks_by_a_judge_are_shown_as_such_until_the_artist_picks(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("h")
    store.add_answer("its", first.id, "left", judge="taste.py:calm")
    expect(page.locator(".prefer-said")).to_have_text("A judge picked that one.")
    expect_pair(page, second)
    cell = page.locator("[data-pair]")
    expect(cell.locator("i")).to_have_text("by a judge")
    button = cell.get_by_role("button")
    expect(button).to_have_attribute("title", "Left is better, picked by a judge (taste.py:calm)")

    button.click()
    expect_pair(page, first)
    page.keyboard.press("1")  # the same, but by the artist
    expect_pair(page, second)
    expect(cell.locator("i")).to_have_text("")
    expect_saved(page, store, labelling, 1)
    assert store.recent_answers(labelling.id)[0].pick.judge is None
    expect(page.locator("#notice-area")).to_be_hidden()


def test_favourites_and_notes_are_kept_and_looked_through(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, pairs[0])
    page.keyboard.press("g")
    star = page.get_by_role("button", name="Favourite: the right picture")
    expect(star).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("n")
    field = page.get_by_label("What you want to remember")
    field.press_sequentially("1 good sky")  # the keys mean nothing while one types
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Note •")).to_be_visible()
    page.keyboard.press("1")
    expect_pair(page, pairs[1])
    page.keyboard.press("1")
    expect_saved(page, store, labelling, 2)
    kept = store.pair(pairs[0].id)
    assert (kept.note, kept.left.favourite, kept.right.favourite) == ("1 good sky", False, True)

    page.keyboard.press("h")
    cells = page.locator("[data-pair]")
    expect(cells).to_have_count(2)
    page.get_by_role("button", name="Favourites").click()
    expect(cells).to_have_count(1)
    expect(cells.locator("span.favourite")).to_have_count(1)
    cells.get_by_role("button").click()
    expect_pair(page, kept)
    star.click()
    expect(page.locator(".strip-said")).to_contain_text("No favourites among your picks")
    wait_for(page, lambda: not store.pair(pairs[0].id).right.favourite)
    page.keyboard.press("Escape")
    expect_pair(page, pairs[2])
    page.get_by_role("button", name="Favourites").click()
    expect(cells).to_have_count(2)


def test_older_picks_are_fetched_when_they_are_asked_for(open_page, store, labelling):
    seed.add_pairs(store, labelling, 45)
    seed.pick_all(store, labelling)
    page = open_page("prefer")
    page.get_by_role("button", name="Picked").click()
    cells = page.locator("[data-pair]")
    expect(cells).to_have_count(40)
    page.get_by_role("button", name="Older").click()
    expect(cells).to_have_count(55)
    expect(page.get_by_role("button", name="Older")).to_be_hidden()
