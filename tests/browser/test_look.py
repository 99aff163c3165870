"""Every tab in four states, dark and light, narrow to wide: pictures of them, and who is kept out.

    D3PO_LOOK=1 python launch.py test tests/browser/test_look.py

leaves a folder of screenshots, `test-artefacts/look`, for somebody to look at. What can be checked
without eyes is checked: axe-core finds nothing against WCAG 2.1 A and AA, and nothing runs off the
side of the page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.store import Session, Store
from tests.browser.conftest import ARTEFACTS, LOOKS, snap
from tests.browser.states import CUT_TABS, failing, full, new, working
from tests.browser.steps import RULES

WIDTHS_PX = (390, 1280, 2560)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", [new, full, working, failing], ids=lambda state: state.__name__)
def test_every_tab(
    open_page: Callable[..., Page],
    store: Store,
    labelling: Session,
    state: Callable[[Store, Session], None],
    scheme: str,
) -> None:
    state(store, labelling)
    page = open_page("prompt", color_scheme=scheme)
    folder = ARTEFACTS / "look"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for tab in page.get_by_role("tab").all():
        name = tab.inner_text().lower()
        page.set_viewport_size({"width": 1280, "height": 800})
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
        page.wait_for_function(
            "() => [...document.images].every((image) => image.complete || !image.offsetParent)"
        )
        for problem in Axe().run(page, options=RULES).response["violations"]:
            places = [node["html"][:120] for node in problem["nodes"][:3]]
            found.append(f"{name}: {problem['id']}: {problem['help']} {places}")
        for width_px in WIDTHS_PX:
            page.set_viewport_size({"width": width_px, "height": 1000})
            if LOOKS:
                page.screenshot(path=folder / f"{name}-{state.__name__}-{scheme}-{width_px}.png")
            if page.evaluate("() => document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{name} at {width_px} px: it runs off the side")
            if cut := page.evaluate(CUT_TABS):
                found.append(f"{name} at {width_px} px: no room for the tabs {cut}")
    assert not found, "\n".join(found)


@pytest.fixture
def synchronised(home: Path) -> None:
    """The home lies in a folder that Dropbox looks after."""
    home.parent.mkdir(parents=True, exist_ok=True)
    (home.parent / ".dropbox").touch()


def test_the_menus_of_the_header(
    synchronised: None, open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    page = open_page("prompt")
    sign, tab = (page.locator(one).bounding_box() for one in (".home-sign", "#tab-gallery-button"))
    assert tab["x"] + tab["width"] <= sign["x"]
    for opens, menu in ((".session-open", "#session-menu"), (".home-sign", "#home-warning")):
        page.locator(opens).focus()
        page.keyboard.press("Enter")
        expect(page.locator(menu)).to_be_visible()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width_px in (390, 1280):
                page.set_viewport_size({"width": width_px, "height": 800})
                snap(page, f"{menu[1:]}-{scheme}-{width_px}")
                assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
            found = Axe().run(page, context=menu, options=RULES).response["violations"]
            assert not found, found
        page.keyboard.press("Escape")
        expect(page.locator(menu)).to_be_hidden()
