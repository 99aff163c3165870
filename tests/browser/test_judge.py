"""A judge on the Export tab: asked for, seen at work, marked on Prefer, and taken back at once."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import snap
from tests.browser.steps import RULES, expect_pair, open_fold, wait_for

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_judge_picks_and_is_taken_back(open_page, store, labelling, scheme, tmp_path):
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("export", color_scheme=scheme)
    open_fold(page, "For experts: a judge picks")
    page.locator("#judge-name input").click()
    page.get_by_role("option", name="A file of my own").click()
    page.get_by_label("File and function").fill("taste.py")
    page.locator("#judge-start").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#notice-area")).to_contain_text("a file and a function in it")
    page.get_by_label("File and function").fill(f"{tmp_path}/taste.py:calm")
    page.locator("#judge-picks input").fill("3")
    page.locator("#judge-start").click()
    wait_for(page, lambda: bool(store.jobs(labelling.id, kind="judge")))
    job = store.claim_job()
    assert job.payload == {"judge": f"{tmp_path}/taste.py:calm", "picks": 3}
    for number, pair in enumerate(pairs[:2]):
        store.add_answer(f"j{number}", pair.id, "left", judge="taste.py:calm")
    store.update_job(job.id, progress=2 / 3, message="2 of 3 picks", result={"picks": 2})
    expect(page.locator("#judge-said")).to_contain_text("2 of 3 picks")
    expect(page.locator("#judge-said")).to_contain_text("2 picks by taste.py:calm")
    take_back = page.get_by_role("button", name="Take back all picks by taste.py:calm")
    expect(take_back).to_be_disabled()
    for width_px in (390, 1280, 2560):
        page.set_viewport_size({"width": width_px, "height": 1000})
        page.locator("#judge-fold").evaluate("(fold) => fold.scrollIntoView()")
        snap(page, f"judge-{scheme}-{width_px}")
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    assert not Axe().run(page, options=RULES).response["violations"]
    page.locator("#judge-said").get_by_role("button", name="Stop").click()
    wait_for(page, lambda: store.job(job.id).state == "cancelled")

    page.locator("#tab-prefer-button").click()
    expect_pair(page, pairs[2])
    page.keyboard.press("h")
    expect(page.locator(".strip-pick i").first).to_have_text("by a judge")
    page.keyboard.press("h")
    page.locator("#tab-export-button").click()
    take_back.click()
    expect(page.locator("#notice-area")).to_contain_text("2 picks by taste.py:calm are taken back")
    assert store.picked_pairs(labelling.id) == []
    expect(page.locator("#judge-said")).not_to_contain_text("taste.py")
