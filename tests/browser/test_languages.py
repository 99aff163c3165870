"""The pages in Chinese and Japanese: nothing is left in English, and nothing runs off.

    D3PO_LOOK=1 python launch.py test tests/browser/test_languages.py

leaves screenshots of every tab in `test-artefacts/languages`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from studio.store import Session, Store
from tests.browser import seed
from tests.browser.conftest import ARTEFACTS, LOOKS
from tests.browser.states import CUT_TABS, failing, full, new, working

WIDTHS_PX = (390, 1280, 2560)

# Every text of the page, shown or not, and what is read of its elements instead of a text.
TEXTS = """() => {
  const found = [];
  const kinds = NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT;
  const walker = document.createTreeWalker(document.body, kinds);
  const unread = "script, style, noscript, kbd, code, .chip[data-prompt]";
  const read = ["aria-label", "title", "placeholder", "alt", "aria-valuetext", "data-says"];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.nodeType === Node.TEXT_NODE) {
      if (!node.parentElement.closest(unread)) found.push(node.data);
    } else
      for (const name of read)
        if (node.hasAttribute(name)) found.push(node.getAttribute(name));
  }
  return found.map((text) => text.trim().replace(/\\s+/g, " ")).filter(Boolean);
}"""
TRANSLATED = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z]{3,}")
# Names, what was typed, and examples of what can be: these are the same in every language.
SAME = re.compile(
    r"D3PO Studio|English|OK|GIF|LoRA( alpha)?|Clip skip|Esc|Enter|Space|Del|A1111|Blue things"
    r"|/home/me/.*|~/models/.*|.*/huggingface/hub|Stable Diffusion.*|CC.*|CreativeML.*"
    r"|float\d+|bfloat16|a red apple.*|a lion.*|a sailboat.*|flat style, on a blue background"
    r"|First session|starter|CPU|diffusers|kohya|.*\.(safetensors|png)|.*aside.*|my-model.*"
)


def left_in_english(page: Page, store: Store) -> list[str]:
    """The texts of the page without a letter of its language, but for names and prompts."""
    prompts = {prompt for session in store.sessions() for prompt in session.settings.prompts}
    return sorted(
        {
            text
            for text in page.evaluate(TEXTS)
            if WORD.search(text)
            and not TRANSLATED.search(text)
            and not SAME.fullmatch(text)
            and text not in prompts
        }
    )


@pytest.mark.parametrize("state", [new, full, working, failing], ids=lambda state: state.__name__)
@pytest.mark.parametrize("code", ["zh-CN", "ja"])
def test_every_tab_is_in_the_language_of_the_browser(
    open_page: Callable[..., Page],
    store: Store,
    labelling: Session,
    state: Callable[[Store, Session], None],
    code: str,
) -> None:
    state(store, labelling)
    scheme = "dark" if state in (full, failing) else "light"
    page = open_page("prompt", locale=code, color_scheme=scheme)
    store.set_tour_seen()
    assert page.locator("html").get_attribute("lang") == code
    folder = ARTEFACTS / "languages"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for tab in page.get_by_role("tab").all():
        name = (tab.get_attribute("id") or "").removeprefix("tab-").removesuffix("-button")
        page.set_viewport_size({"width": 1280, "height": 800})
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
        for fold in page.locator("button.label-wrap:visible").all():
            fold.click()
        found += [f"{name}: {text}" for text in left_in_english(page, store)]
        for width_px in WIDTHS_PX:
            page.set_viewport_size({"width": width_px, "height": 1000})
            if LOOKS:
                file = folder / f"{name}-{code}-{state.__name__}-{scheme}-{width_px}.png"
                page.screenshot(path=file, full_page=True)
            if page.evaluate("() => document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{name} at {width_px} px: it runs off the side")
            if cut := page.evaluate(CUT_TABS):
                found.append(f"{name} at {width_px} px: no room for the tabs {cut}")
    assert not found, "\n".join(dict.fromkeys(found))


def choose(page: Page, name: str) -> None:
    page.locator(".language-open").click()
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def test_a_language_is_chosen_kept_and_changed_back(
    open_page: Callable[..., Page], labelling: Session
) -> None:
    page = open_page("train")
    tab = page.locator("#tab-train-button")
    expect(tab).to_have_text("Train")
    choose(page, "日本語")
    expect(tab).to_have_text("学習")
    assert page.locator("html").get_attribute("lang") == "ja"
    assert page.url.endswith("#train")
    page.reload()
    expect(tab).to_have_text("学習")
    expect(page.get_by_role("button", name="ラウンドを始める")).to_be_visible()
    choose(page, "English")
    expect(tab).to_have_text("Train")
    expect(page.get_by_role("button", name="Start a round")).to_be_visible()


def test_two_pages_have_two_languages_at_once(
    open_page: Callable[..., Page], store: Store, labelling: Session
) -> None:
    """Also in one browser: a page keeps the language that it was opened in."""
    chinese = open_page("train", locale="zh-CN")
    japanese = open_page("train", locale="ja")
    english = japanese.context.new_page()
    english.goto(japanese.url)
    choose(english, "English")
    seed.pick_all(store, labelling)
    for page, words in (
        (chinese, "可以开始第一轮了"),
        (japanese, "最初のラウンドの準備ができました"),
        (english, "Ready for the first round"),
    ):
        expect(page.locator("#round-card")).to_contain_text(words)


def test_errors_and_dialogs_are_in_the_language(
    open_page: Callable[..., Page], labelling: Session
) -> None:
    page = open_page("prompt", locale="ja")
    page.locator("#prompts textarea").fill("")
    page.locator("#prompts textarea").blur()
    expect(page.locator("#notice-area")).to_contain_text("プロンプトがありません")
    page.locator(".session-open").click()
    page.get_by_role("button", name="新しいセッション").click()
    expect(page.get_by_role("dialog")).to_contain_text("新しいセッション")
    page.keyboard.press("Escape")
    page.locator("#tab-prefer-button").click()
    expect(page.locator(".prefer-pair")).to_be_visible()
    page.keyboard.press("z")
    expect(page.locator(".prefer-said")).to_have_text("取り消すものはありません。")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("左の画像のほうが良い")
