"""Best of many in Compare: asked for, shown as they come, kept, saved and stopped."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES, open_fold, wait_for

pytestmark = pytest.mark.browser


def seeds_shown(page: Page) -> list[str]:
    return page.locator(".best-list li .soft").all_text_contents()


def drawn(store, session, adapter, number: int) -> list[str]:
    """So many pictures, as the worker would draw them, the best first."""
    about = {"adapter_id": adapter.id}
    return [
        store.add_image(seed.image(store, session, "compare", "a red apple", seed=n, **about)).id
        for n in range(number)
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_best_come_first_and_are_kept(open_page, store, labelling, scheme):
    seed.pick_all(store, labelling)
    adapter = seed.learn(store, labelling)
    page = open_page("compare", color_scheme=scheme)
    open_fold(page, "Best of many")
    expect(page.locator("#best-prompt textarea")).to_have_value("a red apple")
    page.locator("#best-many input").fill("1")
    page.get_by_role("button", name="Draw and rank").click()
    expect(page.locator("#notice-area")).to_contain_text("best of 2 to 64")
    page.locator("#best-many input").fill("5")
    page.get_by_role("button", name="Draw and rank").focus()
    page.keyboard.press("Enter")
    wait_for(page, lambda: bool(store.jobs(labelling.id, kind="best_of")))
    job = store.claim_job()
    assert job.payload == {
        "prompts": ["a red apple"],
        "seeds": [1000, 1001, 1002, 1003, 1004],
        "adapter_id": adapter.id,
        "strength": 1.0,
    }
    ids = drawn(store, labelling, adapter, 3)
    about = {"progress": 0.4, "message": "Drawing picture 3 of 5"}
    store.update_job(job.id, result={"image_ids": ids[:2]}, **about)
    expect(page.locator("#best .compare-progress")).to_contain_text("picture 3 of 5")
    expect(page.locator(".best-list li")).to_have_count(2)
    store.update_job(job.id, result={"image_ids": [ids[2], *ids[:2]]}, progress=0.6)
    expect(page.locator(".best-list li")).to_have_count(3)
    assert seeds_shown(page) == ["seed 2", "seed 0", "seed 1"]
    expect(page.locator(".best-about")).to_contain_text("by round 1: 3 of 5 pictures")
    page.get_by_role("button", name="Stop drawing").click()
    wait_for(page, lambda: store.job(job.id).state == "cancelled")
    expect(page.get_by_role("button", name="Draw and rank")).to_be_visible()
    expect(page.locator(".best-list li")).to_have_count(3)  # what is drawn stays

    page.get_by_role("button", name="Keep as a favourite: seed 2").click()
    wait_for(page, lambda: store.image(ids[2]).favourite)
    star = page.get_by_role("button", name="Keep no longer: seed 2")
    star.focus()
    page.keyboard.press("Space")
    wait_for(page, lambda: not store.image(ids[2]).favourite)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the picture of seed 2").click()
    assert saved.value.suggested_filename.endswith(".png")
    page.locator("#best-fold").scroll_into_view_if_needed()
    for width_px in (390, 1280, 2560):
        page.set_viewport_size({"width": width_px, "height": 1000})
        page.locator("#best-fold").evaluate("(fold) => fold.scrollIntoView()")
        snap(page, f"best-{scheme}-{width_px}")
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    assert not Axe().run(page, options=RULES).response["violations"]


def test_a_finger_keeps_one(browse, pages, store, labelling):
    seed.pick_all(store, labelling)
    adapter = seed.learn(store, labelling)
    ids = drawn(store, labelling, adapter, 2)
    payload = {"prompts": ["a red apple"], "seeds": [0, 1], "adapter_id": adapter.id}
    store.add_job(labelling.id, "best_of", payload)
    done = {"state": "done", "progress": 1.0, "result": {"image_ids": ids}}
    store.update_job(store.claim_job().id, **done)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = browse(pages, "compare", **phone)
    page.get_by_role("button", name="Best of many").tap()
    page.get_by_role("button", name="Keep as a favourite: seed 0").tap()
    wait_for(page, lambda: store.image(ids[0]).favourite)
