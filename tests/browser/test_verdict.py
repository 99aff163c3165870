"""The verdict on the Train tab: one picture and one sentence, in each of its three answers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.store import Session, Store
from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES

pytestmark = pytest.mark.browser

WIDTHS_PX = (390, 1280, 2560)


def round_of(store: Store, session: Session, picks: int, agreement: float) -> None:
    seed.add_pairs(store, session, picks)
    seed.pick_all(store, session)
    seed.learn(store, session, agreement=agreement)


def unsure(store: Store, session: Session) -> None:
    round_of(store, session, 6, 1.0)


def sure(store: Store, session: Session) -> None:
    round_of(store, session, 6, 1.0)
    round_of(store, session, 30, 0.9)


def stalled(store: Store, session: Session) -> None:
    round_of(store, session, 20, 1.0)
    for _ in range(2):
        round_of(store, session, 5, 0.85)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("state", "says", "rounds"),
    [
        (unsure, "Pick more: It guesses 3 of 3 (44–100 %)", 1),
        (sure, "Go on: It guesses ", 2),
        (stalled, "Stop: It no longer gains: ", 3),
    ],
    ids=["unsure", "sure", "stalled"],
)
def test_it_says_whether_to_go_on(
    open_page: Callable[..., Page],
    store: Store,
    labelling: Session,
    state: Callable[[Store, Session], None],
    says: str,
    rounds: int,
    scheme: str,
) -> None:
    state(store, labelling)
    page = open_page("train", color_scheme=scheme)
    card = page.locator("#verdict")
    expect(card).to_contain_text(says)
    picture = card.get_by_role("img")
    expect(picture).to_have_accessible_name(
        re.compile(f"; round {rounds} guesses|: round 1 guesses")
    )
    expect(picture.locator("circle")).to_have_count(rounds)
    found = Axe().run(page, context="#tab-train", options=RULES).response["violations"]
    assert not found, found
    for width_px in WIDTHS_PX:
        page.set_viewport_size({"width": width_px, "height": 900})
        snap(page, f"verdict-{state.__name__}-{scheme}-{width_px}")
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")


def test_it_changes_with_the_picks_while_the_page_is_open(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    page = open_page("train")
    expect(page.locator("#verdict")).to_contain_text("Pick more: Nothing is learned yet: 8 more")
    seed.pick_all(store, labelling)
    expect(page.locator("#verdict")).to_contain_text("Go on: There are enough picks")
    seed.learn(store, labelling)
    expect(page.locator("#verdict")).to_contain_text("that may still be chance")
