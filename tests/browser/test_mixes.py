"""Mixes in the grid and in the exam, as an artist takes them there: with a real worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from studio.settings import TrainingSettings
from studio.store import Adapter, Session, Store
from studio.worker.loop import Worker
from tests.browser.conftest import snap
from tests.browser.steps import RULES, open_fold, wait_for
from tests.support.loras import write_lora
from tests.support.workers import finish_all, small_session, working

pytestmark = pytest.mark.browser


@pytest.fixture
def worker(store: Store, session: Session, lora: Path) -> Iterator[Worker]:
    """It begins when session and file have been made, which takes a model."""
    with working(store) as worker:
        yield worker


@pytest.fixture
def session(store: Store, tiny_model: Path) -> Session:
    """A session after a round, which a worker of its own has learned."""
    training = TrainingSettings(rank=2, updates_base=2, updates_per_pick=0)
    prompts = ("a cat", "a dog")
    session = small_session(store, tiny_model, prompts=prompts, training=training, queue_target=4)
    worker = Worker(store, "cpu")
    finish_all(worker)
    for pair in store.waiting_pairs(session.id):
        store.add_answer(pair.id, pair.id, "left")
    store.request_round(session.id)
    while worker.rounds.begin() or worker.rounds.go_on():
        pass
    return session


@pytest.fixture
def lora(tmp_path: Path, tiny_model: Path) -> Path:
    return write_lora(tmp_path / "style.safetensors", tiny_model)


@pytest.fixture
def tuned(store: Store, session: Session) -> Adapter:
    [adapter] = store.adapters(session.id)
    return adapter


def choose(page: Page, field: str, option: str) -> None:
    page.locator(f"{field} input").first.click()
    page.get_by_role("option", name=option).click()


def look(page: Page, name: str, context: str) -> None:
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width_px in (390, 1280, 2560):
            page.set_viewport_size({"width": width_px, "height": 900})
            page.locator(context).scroll_into_view_if_needed()
            snap(page, f"{name}-{scheme}-{width_px}")
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        found = Axe().run(page, context=context, options=RULES).response["violations"]
        assert not found, found
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_mix_that_was_compared_is_drawn_in_the_grid_and_examined(
    open_page: Callable[..., Page],
    store: Store,
    session: Session,
    tuned: Adapter,
    lora: Path,
    worker: Worker,
) -> None:
    page = open_page("compare")
    page.locator("#compare-prompts textarea").fill("an owl")
    page.locator("#compare-seeds input").fill("1")
    open_fold(page, "Mixed with others")
    source = page.locator("#mix-source-1 input").first
    source.fill(str(lora))
    source.press("Enter")
    page.locator("#compare-draw").click()
    wait_for(page, lambda: [j.state for j in store.jobs(session.id, "compare")][:1] == ["done"])

    open_fold(page, "Grid over strengths and rounds")
    choose(page, "#grid-rounds", "Mix: Round 1 at 1 + style at 1")
    page.locator("#grid-strengths input, #grid-strengths textarea").fill("-1, 0, 0.5")
    page.locator("#grid-draw").click()
    table = page.locator("#grid table")
    expect(table.locator("img")).to_have_count(3)
    expect(page.locator("#grid")).to_contain_text("Round 1 at 1 + style at 1")
    expect(table).to_contain_text("at -1")
    look(page, "mix-grid", "#grid")

    page.locator("#tab-exam-button").click()
    choose(page, "#exam-adapter", "Mix: Round 1 at 1 + style at 1")
    page.locator("#exam-strength input[type=number]").fill("0.5")
    page.locator("#exam-count input").fill("4")
    page.locator("#exam-prompts textarea").fill("a snail")
    page.get_by_role("button", name="Begin the exam").click()
    for answered in range(4):
        expect(page.locator(".exam-choice img").first).to_be_visible()
        page.keyboard.press("ArrowLeft")
        wait_for(page, lambda n=answered: store.exams(session.id)[0].answered > n)
    expect(page.locator("#exam")).to_contain_text("Round 1 at 1 + style at 1 at strength 0.5")
    row = page.locator(".exam-table tbody tr").first
    expect(row.locator("td").first).to_have_text("Round 1 at 1 + style at 1")
    look(page, "mix-exam", "#exam")
    assert store.exams(session.id, tuned.id) == []  # it says nothing of the round alone
    lora.unlink()  # what was examined stays true without the file
    page.reload()
    expect(page.locator("#exam")).to_contain_text("Round 1 at 1 + style at 1 at strength 0.5")
