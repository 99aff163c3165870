"""The blind exam as an artist takes it, over a store that is filled beforehand."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from studio.store import Store
from tests.browser import seed
from tests.browser.steps import draw_exam, expect_asked, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def tuned(store, labelling):
    """The session after a round."""
    seed.pick_all(store, labelling)
    return seed.learn(store, labelling)


@pytest.fixture
def exam(store, labelling, tuned):
    """Six pairs at strength 0.8, drawn and not answered."""
    store.add_exam(labelling.id, tuned.id, 0.8, [(f"a fresh thing {n}", n) for n in range(6)])
    made = draw_exam(store, labelling)
    store.update_job(store.jobs(labelling.id, "exam")[0].id, state="done", progress=1.0)
    return made


KEY = {"left": ("ArrowLeft", "1"), "right": ("ArrowRight", "2"), "tie": ("ArrowDown", "3")}


def answer(page: Page, pair, choice: str, way: int = 0) -> None:
    expect_asked(page, pair)
    page.keyboard.press(KEY[choice][way])


def base_side(pair) -> str:
    return "right" if pair.tuned_side == "left" else "left"


def take(page: Page, pairs, tuned: int, base: int) -> None:
    """Choose the tuned one so many times, then the base; no difference in the rest."""
    for number, pair in enumerate(pairs):
        wanted = "tie"
        if number < tuned + base:
            wanted = pair.tuned_side if number < tuned else base_side(pair)
        answer(page, pair, wanted, number % 2)


def test_an_exam_is_begun_taken_by_keys_and_its_result_is_kept(
    open_page, store, labelling, tuned, home
):
    page = open_page("exam")
    expect(page.get_by_role("heading", name="Is it really better?")).to_be_visible()
    page.locator("#exam-count input").fill("6")
    page.get_by_role("button", name="Begin the exam").click()
    expect(page.get_by_role("heading", name="The next pair is being drawn")).to_be_visible()
    expect(page.get_by_role("button", name="Begin the exam")).to_be_hidden()
    exam = draw_exam(store, labelling)
    assert len({pair.prompt for pair in exam.pairs}) == 6
    assert not {pair.prompt for pair in exam.pairs} & {"red apple", "lion", "sailboat"}
    for number, pair in enumerate(exam.pairs):
        expect(page.locator(".exam-count")).to_have_text(f"{number + 1} of 6")
        sent = page.locator("#exam").inner_text()
        assert not re.search("base|tuned", sent, re.IGNORECASE), "nothing is revealed before"
        answer(page, pair, pair.tuned_side if number < 4 else ("tie", base_side(pair))[number - 4])
    sentence = "You chose the tuned model in 4 of 5, 80% (38–96)."
    expect(page.locator("#exam h2").filter(has_text=sentence)).to_be_visible()
    expect(page.locator("#exam")).to_contain_text("In 1 more you saw no difference")
    expect(page.locator(".exam-revealed")).to_have_count(6)
    first = page.locator(".exam-revealed").first
    expect(first.locator("figure[data-chosen]")).to_contain_text("Tuned ✓")
    after = Store.open(home)  # as a studio that is started again sees it
    [kept] = after.exams(labelling.id, tuned.id)
    after.close()
    assert (kept.tuned_wins, kept.base_wins, kept.ties) == (4, 1, 1)
    page.reload()
    expect(page.locator("#exam h2").filter(has_text=sentence)).to_be_visible()


def test_what_the_page_is_sent_does_not_give_it_away(open_page, exam):
    """Not even in what lies beneath it: no name, no address, no order tells the sides apart."""
    page = open_page("exam")
    expect_asked(page, exam.pairs[0])
    sent = page.evaluate("() => document.querySelector('#exam').innerHTML")
    visible = re.sub(r"(?s)<details.*?</details>", "", sent)  # what it explains names both
    shown = re.findall(r"<img[^>]*>", visible)
    assert len(shown) == 2
    assert not re.search("base|tuned", " ".join(shown))


def test_a_reload_in_the_middle_goes_on(open_page, store, exam):
    page = open_page("exam")
    for pair in exam.pairs[:3]:
        answer(page, pair, "left")
    expect_asked(page, exam.pairs[3])
    wait_for(page, lambda: store.exam(exam.id).answered == 3)
    page.reload()
    expect_asked(page, exam.pairs[3])
    expect(page.locator(".exam-count")).to_have_text("4 of 6")
    page.keyboard.press("z")
    expect_asked(page, exam.pairs[2])
    take(page, exam.pairs[2:], 4, 0)
    expect(page.locator("#exam h2").first).to_be_attached()
    wait_for(page, lambda: store.exam(exam.id).is_finished)
    assert [pair.choice for pair in store.exam(exam.id).pairs[:2]] == ["left", "left"]


def test_a_lost_answer_counts_once(open_page, store, exam):
    page = open_page("exam")
    expect_asked(page, exam.pairs[0])
    lost = []

    def lose(route):
        if len(lost) < 2:  # the store has it, and the page never hears of it
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route(re.compile("component_server"), lose)
    for pair in exam.pairs:
        answer(page, pair, pair.tuned_side)
    expect(page.locator("#exam")).to_contain_text("in 6 of 6, 100% (61–100)")
    assert lost == [200, 200]
    with store.reading() as connection:
        rows = connection.exec_driver_sql("SELECT count(*) FROM exam_answers").scalar()
    assert rows == 6


def test_pointer_and_buttons_answer_too(open_page, store, exam):
    page = open_page("exam")
    expect_asked(page, exam.pairs[0])
    page.get_by_role("button", name="I like the left one better").click()
    expect_asked(page, exam.pairs[1])
    page.get_by_role("button", name="No difference").click()
    expect_asked(page, exam.pairs[2])
    page.get_by_role("button", name="→ Right", exact=True).click()
    expect_asked(page, exam.pairs[3])
    wait_for(page, lambda: store.exam(exam.id).answered == 3)
    assert [pair.choice for pair in store.exam(exam.id).pairs[:3]] == ["left", "tie", "right"]


def test_leaving_asks_first_and_counts_nothing(open_page, store, labelling, exam):
    page = open_page("exam")
    answer(page, exam.pairs[0], "left")
    expect_asked(page, exam.pairs[1])
    page.get_by_role("button", name="Leave the exam").click()
    page.get_by_role("button", name="Cancel").click()
    expect_asked(page, exam.pairs[1])
    page.get_by_role("button", name="Leave the exam").click()
    page.get_by_role("button", name="Leave it").click()
    expect(page.get_by_role("heading", name="Is it really better?")).to_be_visible()
    assert store.exam(exam.id).left_at_s
    expect(page.get_by_role("button", name="Begin the exam")).to_be_visible()


def test_pictures_that_failed_are_asked_for_again(open_page, store, labelling, tuned):
    store.add_exam(labelling.id, tuned.id, 1.0, [("a fresh thing", n) for n in range(3)])
    exam = draw_exam(store, labelling, pairs=1)
    [job] = store.jobs(labelling.id, "exam")
    store.update_job(job.id, state="failed", message="The disk was full.")
    page = open_page("exam")
    answer(page, exam.pairs[0], "left")
    expect(page.locator("#exam")).to_contain_text("The disk was full. Your answers are kept.")
    page.get_by_role("button", name="Draw the rest").click()
    expect(page.get_by_role("heading", name="The next pair is being drawn")).to_be_visible()
    expect_asked(page, draw_exam(store, labelling).pairs[1])


def test_a_practised_prompt_is_refused_with_a_sentence(open_page, store, labelling, tuned):
    page = open_page("exam")
    page.locator("#exam-prompts textarea").fill("a snail\n A  Red Apple")
    page.get_by_role("button", name="Begin the exam").click()
    expect(page.locator("#notice-area")).to_contain_text("“A Red Apple” was practised")
    assert store.exams(labelling.id) == []
    page.locator("#exam-prompts textarea").fill("a snail")
    page.get_by_role("button", name="Begin the exam").click()
    expect(page.get_by_role("heading", name="The next pair is being drawn")).to_be_visible()
    [exam] = store.exams(labelling.id)
    assert len(exam.pairs) == 20
    assert {pair.prompt for pair in exam.pairs} == {"a snail"}
    assert len({pair.seed for pair in exam.pairs}) == 20


def test_the_best_strength_is_recommended_and_offered_for_the_export(
    open_page, store, labelling, tuned
):
    for strength, wins in ((0.5, 5), (0.8, 8), (1.2, 2)):
        store.add_exam(labelling.id, tuned.id, strength, [("a snail", n) for n in range(8)])
        for number, pair in enumerate(draw_exam(store, labelling).pairs):
            side = pair.tuned_side if number < wins else base_side(pair)
            store.answer_exam(f"{strength} {number}", pair.id, side)
    page = open_page("exam")
    rows = page.locator(".exam-table tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("8 of 8, 100% (68–100)")
    expect(rows.filter(has_text="Recommended")).to_have_count(1)
    expect(rows.nth(1)).to_contain_text("Recommended")
    expect(page.locator("#exam")).to_contain_text("Strength 0.8 is recommended")
    page.locator("#tab-export-button").click()
    expect(page.locator("#export-strength input")).to_have_value("0.8")
    expect(page.locator("#export-exam")).to_contain_text("at strength 0.8 in 8 of 8")
    page.locator("#export-strength input").fill("0.7")
    page.get_by_role("button", name="Export the LoRA").click()
    expect(page.locator("#exports")).to_contain_text("Writing and checking")
    assert store.jobs(labelling.id, "export")[0].payload["strength"] == 0.7


def test_a_taste_turned_round_is_examined_and_the_base_is_not(open_page, store, labelling, tuned):
    page = open_page("exam")
    strength = page.locator("#exam-strength input[type=number]")
    for value in ("0", "-0.5"):
        strength.fill(value)
        page.locator("#exam-prompts textarea").fill("a snail")
        page.get_by_role("button", name="Begin the exam").click()
        if value == "0":
            expect(page.locator("#notice-area")).to_contain_text("is not 0: that is the base")
    wait_for(page, lambda: bool(store.exams(labelling.id)))
    [exam] = store.exams(labelling.id)
    assert exam.strength == -0.5


def test_before_the_first_round_there_is_nothing_to_examine(open_page, labelling):
    page = open_page("exam")
    expect(page.get_by_role("heading", name="Nothing is tuned yet")).to_be_visible()
    expect(page.get_by_role("button", name="Begin the exam")).to_be_disabled()


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_both_pictures_are_whole_on_the_screen(open_page, exam, width):
    page = open_page("exam", viewport={"width": width, "height": 800})
    expect_asked(page, exam.pairs[0])
    for box in (image.bounding_box() for image in page.locator(".exam-choice img").all()):
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 800
    assert page.evaluate("document.documentElement.scrollWidth") <= width
