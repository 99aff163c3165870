"""What the artist says besides "better", and what other tastes give, in the browser."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES, expect_pair, open_fold, wait_for

WIDTHS_PX = (390, 1280, 2560)


def test_a_round_starts_from_favourites_alone(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)[:4]
    page = open_page("prefer")
    for pair in pairs[:3]:
        expect_pair(page, pair)
        page.get_by_role("button", name="Favourite: the left picture").click()
        page.get_by_role("button", name="Skip").click()
    expect_pair(page, pairs[3])
    wait_for(page, lambda: store.image(pairs[2].left.id).favourite)
    train = open_page("train")
    start = train.get_by_role("button", name="Start a round")
    expect(start).to_be_disabled()
    page.get_by_role("button", name="Favourite: the left picture").click()
    card = train.locator("#round-card")
    expect(card).to_contain_text("It can learn from your 4 favourites")
    start.click()
    expect(card).to_contain_text("It learns from 4 favourites, as soon as")
    [round_] = store.rounds(labelling.id)
    assert set(round_.favourite_ids) == {pair.left.id for pair in pairs}
    assert round_.settings.favourites_alone


def test_what_a_round_takes_from_elsewhere_is_kept(open_page, store, labelling):
    blue = store.create_session("Winter light", labelling.settings)
    seed.add_pairs(store, blue, 8)
    seed.pick_all(store, blue)
    adapter = seed.learn(store, blue)
    page = open_page("train")
    open_fold(page, "How it learns")
    expect(page.get_by_label("How much of it stays, in %").first).to_be_hidden()
    expect(page.get_by_text("An order of several pictures counts")).to_be_hidden()
    page.get_by_label("Keep to the prompt").check()
    page.get_by_label("Begin with my earlier tastes").check()
    page.get_by_label("Beside another taste").click()
    page.get_by_role("option", name="Winter light · round 1").click()
    share = page.get_by_label("number input for How much of it stays, in %")
    share.fill("30")
    share.press("Tab")

    def training():
        return store.session(labelling.id).settings.training

    wait_for(page, lambda: training().beside_share == 0.3)
    assert training().beside == adapter.id
    assert training().keep_to_prompt == 1.0
    assert training().from_tastes
    page.reload()
    open_fold(page, "How it learns")
    expect(page.get_by_label("Keep to the prompt")).to_be_checked()
    expect(page.get_by_label("Begin with my earlier tastes")).to_be_checked()
    expect(page.get_by_label("Beside another taste")).to_have_value("Winter light · round 1")
    expect(share).to_have_value("30")
    page.get_by_label("Beside another taste").click()
    page.get_by_role("option", name="None").click()
    wait_for(page, lambda: training().beside is None)
    expect(share).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_how_it_learns_looks_right(open_page, store, labelling, scheme):
    """With a grid, and beside another taste: all there is to set."""
    blue = store.create_session("Winter light", labelling.settings)
    seed.add_pairs(store, blue, 8)
    seed.pick_all(store, blue)
    adapter = seed.learn(store, blue)
    seed.add_grids(store, labelling, 2)
    page = open_page("train", color_scheme=scheme)
    open_fold(page, "How it learns")
    page.get_by_label("More between first and last").check()
    wait_for(page, lambda: store.session(labelling.id).settings.training.orders == "rank")
    page.get_by_label("Beside another taste").click()
    page.get_by_role("option", name="Winter light · round 1").click()
    wait_for(page, lambda: store.session(labelling.id).settings.training.beside == adapter.id)
    expect(page.get_by_label("number input for How much of it stays, in %")).to_be_visible()
    found = Axe().run(page, context="#how-it-learns", options=RULES).response["violations"]
    assert not found, found
    for width_px in WIDTHS_PX:
        page.set_viewport_size({"width": width_px, "height": 1600})
        page.locator("#how-it-learns").scroll_into_view_if_needed()
        snap(page, f"how-it-learns-{scheme}-{width_px}")
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
