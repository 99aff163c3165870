"""The model, first on the Prompt tab: seen, changed, dropped, and missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image as Pictures
from playwright.sync_api import Page, expect

from studio.bench.families import make_pipeline, write_checkpoint
from studio.settings import StartLora
from studio.worker.loop import Worker
from tests.browser.conftest import snap
from tests.browser.steps import RULES

pytestmark = pytest.mark.browser

DROP = """([selector, name, size, text]) => {
  const data = new DataTransfer();
  if (text) data.setData("text/plain", text);
  else data.items.add(new File([new Uint8Array(size)], name));
  const at = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"])
    at.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def look(page: Page, name: str) -> None:
    """Dark and light, narrow and wide: nothing runs off the side, and axe-core finds nothing."""
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width_px in (390, 1280):
            page.set_viewport_size({"width": width_px, "height": 900})
            snap(page, f"model-{name}-{scheme}-{width_px}")
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        found = Axe().run(page, context="#model", options=RULES).response["violations"]
        assert not found, found


def test_the_model_is_seen_changed_dropped_and_missed(
    open_page, store, labelling, tiny_model: Path, tmp_path: Path
):
    worker = Worker(store, "cpu")

    def use(model: Path) -> None:
        """The worker looks at it, and then the artist takes it."""
        expect(page.locator("#model-found")).to_contain_text(f"Looking at {model}")
        while store.jobs(labelling.id, kind="inspect")[0].state == "queued":
            worker.jobs.run_next()
        page.get_by_role("button", name="Use this model").click()
        expect(card.get_by_role("heading")).to_have_text(model.stem)

    folder = tmp_path / "my models"
    folder.mkdir()
    second = folder / "it's tiny"
    second.symlink_to(tiny_model)
    one = write_checkpoint(folder / "one.safetensors", make_pipeline("sd1"), "sd1")
    Pictures.new("RGB", (600, 400), "teal").save(folder / "one.preview.png")

    page = open_page("prompt")
    card, chooser = page.locator("#model-card"), page.locator("#model-chooser")
    change = page.get_by_role("button", name="Change", exact=True)
    close = page.get_by_role("button", name="Close", exact=True)
    expect(card.get_by_role("heading")).to_have_text("Starter model")
    places = [page.locator(one).bounding_box()["y"] for one in ("#model-card", "#first-steps")]
    assert places[0] < places[1] < page.locator("#prompts").bounding_box()["y"]
    expect(chooser).to_be_hidden()
    look(page, "first")

    # by the keys: in, and back
    change.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#library .model[aria-pressed=true]")).to_be_focused()
    expect(close).to_have_attribute("aria-expanded", "true")
    look(page, "chooser")
    page.keyboard.press("Escape")
    expect(chooser).to_be_hidden()
    expect(change).to_be_focused()

    # a path as a terminal writes it, with an apostrophe and a blank
    page.keyboard.press("Enter")
    field = page.get_by_label("Another model")
    field.fill("'" + str(second).replace("'", "'\\''") + "' ")
    field.press("Enter")
    use(second)
    expect(chooser).to_be_hidden()
    expect(change).to_be_focused()
    assert store.session(labelling.id).settings.base_model == str(second)

    # a dropped file that lies beside a known model is looked at, and used from then on at once
    size = one.stat().st_size
    page.evaluate(DROP, ["#prompts", one.name, size, ""])
    use(one)
    expect(card.locator("img")).to_have_js_property("naturalWidth", 320)
    look(page, "second")
    page.evaluate(DROP, ["#model-card", "", 0, str(second)])
    use(second)
    page.evaluate(DROP, ["#model-card", one.name, size, ""])
    expect(card.get_by_role("heading")).to_have_text("one")
    expect(chooser).to_be_hidden()

    # one that is nowhere, and one that no model can be
    page.evaluate(DROP, ["#model-card", "elsewhere.safetensors", 5, ""])
    expect(page.locator("#notice-area")).to_contain_text("Copy its path in the file manager")
    expect(page.locator("#model-path input, #model-path textarea")).to_be_focused()
    look(page, "nowhere")
    page.evaluate(DROP, ["#model-card", "old.ckpt", 5, ""])
    expect(page.locator("#notice-area")).to_contain_text("can hide programs")
    page.locator("#model-path input, #model-path textarea").press("Escape")
    expect(chooser).to_be_hidden()

    # gone, and with it the LoRA that it starts from
    one.unlink()
    gone = StartLora(str(folder / "style.safetensors"))
    store.change_settings(labelling.id, lambda now: replace(now, start=gone))
    expect(card).to_contain_text("is not there any more. Put it back, or start without it")
    expect(card).to_contain_text("The model of this session is not there any more")
    look(page, "missing")
