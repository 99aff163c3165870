"""The same keys on keyboards of all languages."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from studio.ui import static
from tests.browser import seed
from tests.browser.steps import draw_exam, expect_asked, expect_pair, expect_saved, wait_for

pytestmark = pytest.mark.browser

# What the keys for S, Z and Q write, and where they are.
LAYOUTS = {
    "Russian": (("ы", "KeyS"), ("я", "KeyZ"), ("й", "KeyQ")),
    "Greek": (("σ", "KeyS"), ("ζ", "KeyZ"), (";", "KeyQ")),
    "Hebrew": (("ד", "KeyS"), ("ז", "KeyZ"), ("/", "KeyQ")),
    "Thai": (("ห", "KeyS"), ("ผ", "KeyZ"), ("ๆ", "KeyQ")),
    "Korean": (("ㄴ", "KeyS"), ("ㅋ", "KeyZ"), ("ㅂ", "KeyQ")),
    "wide letters": (("ｓ", "KeyS"), ("ｚ", "KeyZ"), ("ｑ", "KeyQ")),
    "AZERTY": (("s", "KeyS"), ("z", "KeyW"), ("q", "KeyA")),
    "QWERTZ": (("s", "KeyS"), ("z", "KeyY"), ("q", "KeyQ")),
    "Dvorak": (("s", "Semicolon"), ("z", "Slash"), ("q", "KeyX")),
}
INPUT_METHOD = 229  # the code of a key that an input method took


def press(page: Page, key: str, code: str, shift: bool = False, virtual: int = 0) -> None:
    """A key as the browser has it from the system, on any layout."""
    keyboard = page.context.new_cdp_session(page)
    about = {"key": key, "code": code, "modifiers": 8 * shift, "windowsVirtualKeyCode": virtual}
    keyboard.send("Input.dispatchKeyEvent", {"type": "keyDown", **about})
    keyboard.send("Input.dispatchKeyEvent", {"type": "keyUp", **about})
    keyboard.detach()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_letters_on_prefer(open_page, store, labelling, layout):
    skip, undo, composition = LAYOUTS[layout]
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    press(page, *skip)
    expect_pair(page, second)
    press(page, *undo)
    expect_pair(page, first)
    press(page, *composition)
    reason = page.get_by_role("button", name="Composition")
    expect(reason).to_have_attribute("aria-pressed", "true")
    press(page, "1", "Digit1")
    expect_saved(page, store, labelling, 1)
    [one] = store.picked_pairs(labelling.id)
    assert (one.pick.choice, one.pick.reason) == ("left", "composition")


def test_a_french_keyboard_keeps_its_letters_signs_and_digits(open_page, store, labelling):
    first, second, third, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    for key, code in (("a", "KeyQ"), ("w", "KeyZ")):  # no Q, no Z
        press(page, key, code)
    expect(page.get_by_role("button", name="Composition")).to_have_attribute(
        "aria-pressed", "false"
    )
    expect(page.get_by_role("button", name="Detail")).to_have_attribute("aria-pressed", "true")
    zoom = page.locator('[data-part="zoom"]')
    press(page, "+", "Equal", shift=True)
    expect(zoom).to_have_text("1.5×")
    press(page, "-", "Digit6")
    expect(zoom).to_have_text("1×")
    press(page, "?", "KeyM", shift=True)
    expect(page.get_by_role("dialog", name="Keep a hand on the keys")).to_be_visible()
    page.keyboard.press("Escape")
    press(page, "&", "Digit1")
    expect_pair(page, second)
    press(page, "é", "Digit2")
    expect_pair(page, third)
    expect_saved(page, store, labelling, 2)
    assert [one.pick.choice for one in store.picked_pairs(labelling.id)] == ["left", "right"]


def test_a_key_is_changed_on_a_greek_keyboard(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("?")
    card = page.get_by_role("dialog", name="Keep a hand on the keys")
    said = card.get_by_role("status")
    card.locator("[data-change=skip]").click()
    press(page, ";", "KeyQ")
    expect(said).to_contain_text("already means: better for its composition")
    press(page, "ζ", "KeyZ")
    expect(said).to_contain_text("Z already means: undo")
    press(page, "κ", "KeyK")
    expect(said).to_contain_text("K now means: skip")
    page.keyboard.press("Escape")
    press(page, "κ", "KeyK")
    expect_pair(page, second)
    expect_saved(page, store, labelling, 1)


def test_nothing_is_a_shortcut_while_a_word_is_composed(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    for key, code in (("Process", "KeyS"), ("1", "Digit1"), ("ArrowLeft", "ArrowLeft")):
        press(page, key, code, virtual=INPUT_METHOD)
    page.evaluate(
        """() => document.body.dispatchEvent(new KeyboardEvent("keydown",
            { key: "s", code: "KeyS", isComposing: true, bubbles: true }))"""
    )
    expect_pair(page, first)
    press(page, "s", "KeyS")
    expect_pair(page, second)
    expect_saved(page, store, labelling, 1)


@pytest.mark.parametrize(
    ("left", "back"),
    [
        (("&", "Digit1"), ("z", "KeyW")),
        (("1", "Digit1"), ("я", "KeyZ")),
        (("١", "Digit1"), ("ئ", "KeyZ")),
    ],
    ids=["AZERTY", "Russian", "Arabic"],
)
def test_the_exam(open_page, store, labelling, left, back):
    seed.pick_all(store, labelling)
    tuned = seed.learn(store, labelling)
    store.add_exam(labelling.id, tuned.id, 1.0, [(f"a fresh thing {n}", n) for n in range(2)])
    exam = draw_exam(store, labelling)
    page = open_page("exam")
    expect_asked(page, exam.pairs[0])
    press(page, *left, virtual=INPUT_METHOD)
    expect_asked(page, exam.pairs[0])
    press(page, *left)
    expect_asked(page, exam.pairs[1])
    wait_for(page, lambda: store.exam(exam.id).answered == 1)
    press(page, *back)
    expect_asked(page, exam.pairs[0])
    wait_for(page, lambda: store.exam(exam.id).answered == 0)


NAMES = [
    ({"key": "S", "code": "KeyS"}, ["s"]),
    ({"key": "Ы", "code": "KeyS"}, ["s"]),
    ({"key": "é", "code": "KeyE"}, ["é"]),
    ({"key": "Dead", "code": "KeyE"}, ["e"]),
    ({"key": "ö", "code": "Semicolon"}, ["ö"]),
    ({"key": "ж", "code": "Semicolon"}, ["ж"]),
    ({"key": ";", "code": "KeyQ"}, [";", "q"]),
    ({"key": " ", "code": "Space"}, ["Space"]),
    ({"key": "\u3000", "code": "Space"}, ["Space"]),
    ({"key": "!", "code": "Digit1", "shiftKey": True}, ["1", "!"]),
    ({"key": "٣", "code": "Numpad3"}, ["3", "٣"]),
    ({"key": "PageDown", "code": "Numpad3"}, ["PageDown"]),
    ({"key": "PageDown", "code": "Numpad3", "shiftKey": True}, ["3"]),
    ({"key": "ArrowLeft", "code": "ArrowLeft"}, ["ArrowLeft"]),
    ({"key": "ArrowLeft", "code": "KeyS"}, ["ArrowLeft"]),  # on a layer of the keyboard's own
    ({"key": "s", "code": ""}, ["s"]),  # the keyboard of a telephone
    ({"key": "s", "code": "KeyS", "isComposing": True}, []),
    ({"key": "Process", "code": "KeyS", "keyCode": INPUT_METHOD}, []),
    ({"code": "KeyS"}, []),  # no key is named when a browser fills in a field
]


def test_the_names_of_a_key(open_page, store, labelling):
    page = open_page("prefer")
    found = page.evaluate(
        """([address, events]) => import(address).then((keys) => events.map(keys.namesOf))""",
        [static.address("shared/keys.js"), [event for event, _ in NAMES]],
    )
    assert list(zip([event for event, _ in NAMES], found, strict=True)) == NAMES
