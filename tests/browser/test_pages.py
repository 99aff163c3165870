"""The tabs as an artist uses them, over a store that is filled beforehand."""

from __future__ import annotations

import re
import sqlite3
import time
from dataclasses import replace

import pytest
from PIL import Image as Pictures
from playwright.sync_api import Page, Route, expect

from studio.settings import OBJECTIVES, STARTER_SIZE_PX, SessionSettings, TrainingSettings
from studio.store import Export, KnownModel
from tests.browser import seed
from tests.browser.steps import expect_pair, expect_saved, open_fold, wait_for

pytestmark = pytest.mark.browser


def pictures(page: Page) -> list[str]:
    """The addresses of the two pictures that are shown."""
    return [image.get_attribute("src") for image in page.locator(".choice img").all()]


def press_each(page: Page, keys) -> None:
    """(key, pair) in turn: a key for a pair that is not on the screen yet is no answer."""
    for key, pair in keys:
        expect_pair(page, pair)
        page.keyboard.press(key)


def choices(store, session) -> dict[str, str]:
    return {one.pair.id: one.pick.choice for one in store.picked_pairs(session.id)}


# --- Prefer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "choice"),
    [
        ("ArrowLeft", "left"),
        ("1", "left"),
        ("ArrowRight", "right"),
        ("2", "right"),
        ("ArrowDown", "tie"),
        ("3", "tie"),
        ("0", "both_bad"),
        ("s", "skip"),
        ("Shift+S", "skip"),
    ],
)
def test_each_key_says_what_the_card_says(open_page, store, labelling, key, choice):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press(key)
    expect_pair(page, second)
    expect_saved(page, store, labelling, 1)
    assert choices(store, labelling) == {first.id: choice}


def test_clicks_and_buttons_choose_too(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    names = ("left picture is better", "right picture is better", "Just as good", "Neither", "Skip")
    for pair, name in zip(pairs, names, strict=False):
        expect_pair(page, pair)
        page.get_by_role("button", name=name).click()
    expect_saved(page, store, labelling, 5)
    expected = ("left", "right", "tie", "both_bad", "skip")
    assert [choices(store, labelling)[pair.id] for pair in pairs[:5]] == list(expected)
    expect(page.locator(".prefer-round")).to_contain_text("6 to the next round")


def test_a_pair_asked_again_counts_as_a_pick_and_not_towards_a_round(open_page, store, labelling):
    store.update_settings(labelling.id, replace(labelling.settings, round_every=16))
    seed.pick_all(store, labelling)
    again = store.ask_again(labelling.id)
    page = open_page("prefer")
    expect_pair(page, again)
    expect(page.locator(".prefer-round")).to_contain_text("6 to the next round")
    page.keyboard.press("1")
    expect_saved(page, store, labelling, 11)
    expect(page.locator(".prefer-round")).to_contain_text("6 to the next round")
    assert store.consistency(labelling.id).repeated == 1


def test_undo_goes_back_pair_by_pair_with_its_answer(open_page, store, labelling):
    first, second, third, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    press_each(page, [("1", first), ("2", second)])
    expect_pair(page, third)
    page.keyboard.press("z")
    expect_pair(page, second)
    expect(page.locator("[data-choice=right].choice")).to_have_class(re.compile(r"\bwas\b"))
    page.keyboard.press("z")
    expect_pair(page, first)
    expect_saved(page, store, labelling, 0)
    press_each(page, [("2", first), ("2", second), ("2", third)])
    expect_saved(page, store, labelling, 3)
    assert choices(store, labelling) == {pair.id: "right" for pair in (first, second, third)}


def test_undo_works_on_picks_from_before_a_reload(open_page, store, labelling):
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, first)
    page.keyboard.press("1")
    expect_saved(page, store, labelling, 1)
    page.reload()
    expect_pair(page, second)
    page.keyboard.press("z")
    expect_pair(page, first)
    expect_saved(page, store, labelling, 0)
    page.keyboard.press("z")
    expect(page.locator(".prefer-said")).to_have_text("There is nothing to undo.")


def test_keys_do_nothing_elsewhere(open_page, store, labelling):
    page = open_page("prompt")
    page.locator("body").press("1")
    field = page.get_by_label("Prompts").first
    field.press("End")
    field.type(" 102 sz")
    page.locator("#tab-prefer-button").click()
    expect(page.locator(".choice img").first).to_be_visible()
    page.keyboard.press("Control+1")
    page.keyboard.press("?")
    card = page.get_by_role("dialog", name="Keep a hand on the keys")
    expect(card).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    page.locator(".session-open").click()
    page.locator("[data-act=new]").click()
    page.keyboard.type("201")
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    expect_saved(page, store, labelling, 1)
    assert list(choices(store, labelling).values()) == ["skip"]


def test_a_lost_answer_counts_once(open_page, store, labelling):
    """The server takes the pick, but its answer is lost: it is sent again under the same id."""
    pairs = store.waiting_pairs(labelling.id)
    page = open_page("prefer")
    expect_pair(page, pairs[0])
    lost = []

    def lose(route: Route) -> None:
        lost.append(route.fetch().status)
        route.abort()

    page.route(re.compile("component_server"), lose)
    press_each(page, zip("1212", pairs, strict=False))
    expect(page.locator("#notice-area")).to_contain_text("kept here and sent again")
    page.unroute_all()
    expect_saved(page, store, labelling, 4)
    expect(page.locator("#notice-area")).to_be_hidden()
    assert lost
    assert set(lost) == {200}  # the store has had the first one all the time
    assert list(choices(store, labelling).values()) == ["left", "right", "left", "right"]


def test_an_empty_queue_says_so_and_fills_by_itself(open_page, store, labelling):
    seed.pick_all(store, labelling)
    seed.say(store, "sampling")
    page = open_page("prefer")
    expect(page.get_by_role("heading", name="The next pair is being drawn")).to_be_visible()
    page.keyboard.press("1")
    [pair] = seed.add_pairs(store, labelling, 1)
    expect_pair(page, pair)
    expect_saved(page, store, labelling, 10)


def test_a_second_window_sees_the_same(open_page, store, labelling):
    page, other = open_page("prefer"), open_page("prefer")
    expect(page.locator(".choice img").first).to_be_visible()
    page.keyboard.press("1")
    expect_saved(page, store, labelling, 1)
    expect(other.locator(".prefer-counts")).to_have_text("1 pick")


# --- Prompt --------------------------------------------------------------------------------------


def test_prompts_save_themselves(open_page, store, labelling):
    page = open_page("prompt")
    field = page.get_by_label("Prompts").first
    expect(field).to_have_value("a red apple\na lion\na sailboat")
    field.fill("a fox\n\n  a  fox \nan owl")
    page.get_by_label("Negative prompt").fill("text")
    page.get_by_label("Negative prompt").blur()

    def saved() -> tuple[str, tuple[str, ...]]:
        settings = store.session(labelling.id).settings
        return settings.sampling.negative_prompt, settings.prompts

    # two fields that are left at nearly the same moment: neither is written over by the other
    wait_for(page, lambda: saved() == ("text", ("a fox", "an owl")))
    page.reload()
    expect(field).to_have_value("a fox\nan owl")
    expect(page.get_by_label("Negative prompt")).to_have_value("text")
    assert store.session(labelling.id).settings.prompts == ("a fox", "an owl")
    [job, *_] = store.jobs(labelling.id, kind="preview")
    assert job.payload["prompts"] == ["a fox", "an owl"]


def test_a_pause_in_typing_saves_too(open_page, store, labelling):
    page = open_page("prompt")
    field = page.get_by_label("Prompts").first
    expect(field).not_to_be_empty()
    field.fill("a snail")
    expect(page.locator("#preview figcaption")).to_have_text(["a snail"])
    expect(field).to_be_focused()


def test_no_prompt_is_answered_with_a_sentence_and_changes_nothing(open_page, store, labelling):
    page = open_page("prompt")
    field = page.get_by_label("Prompts").first
    expect(field).not_to_be_empty()
    field.fill("  \n ")
    field.blur()
    expect(page.locator("#notice-area")).to_contain_text("There is no prompt")
    assert store.session(labelling.id).settings.prompts == labelling.settings.prompts
    field.fill("a fox")
    field.blur()
    expect(page.locator("#notice-area")).to_be_hidden()


def test_the_starter_pack_adds_a_prompt(open_page, store, labelling):
    page = open_page("prompt")
    page.get_by_text("To begin with", exact=True).click()
    page.get_by_role("button", name="cactus").click()
    field = page.get_by_label("Prompts").first
    expect(field).to_have_value("a red apple\na lion\na sailboat\ncactus")
    expect(page.get_by_role("button", name="cactus")).to_have_count(0)
    page.get_by_text("Food", exact=True).click()
    page.get_by_role("button", name="all 10").click()
    expect(field).to_have_value(re.compile("cactus\nstrawberry\n(.+\n){8}ice cream$"))


@pytest.mark.parametrize(
    ("field_id", "value", "sentence"),
    [
        ("steps", "0", "Steps must be between 1 and 150."),
        ("guidance", "99", "Guidance must be between 0 and 30."),
        ("seed", "-1", "The seed must be a whole number"),
        ("seed", "", "“Seed” needs a value."),
        ("queue-target", "0", "Between 1 and 64 pairs"),
    ],
)
def test_a_number_out_of_range_is_answered_with_a_sentence(
    open_page, store, labelling, field_id, value, sentence
):
    page = open_page("prompt")
    open_fold(page, "How pictures are made")
    field = page.locator(f"#{field_id} input")
    expect(field).to_be_visible()
    field.fill(value)
    field.blur()
    expect(page.locator("#notice-area")).to_contain_text(sentence)
    assert store.session(labelling.id).settings == labelling.settings


def test_what_is_typed_is_not_overwritten_by_a_second_look(open_page, labelling):
    """The poll begins when the first look was answered, however long that takes."""
    page = open_page("prompt")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    address = page.url
    page.goto("about:blank")  # or the page that is left might be asking when it goes
    page.route(re.compile("gradio_api/run"), hold)
    page.goto(address)
    wait_for(page, lambda: held)
    page.wait_for_timeout(2500)
    assert len(held) == 1
    held[0].fallback()
    page.unroute_all()
    expect(page.locator("#prompts textarea")).to_have_value("a red apple\na lion\na sailboat")


def test_a_model_is_looked_at_before_it_is_used(open_page, store, labelling):
    """The worker's part is played here: it finds nothing first, and then a model."""
    page = open_page("prompt")
    page.get_by_role("button", name="Change", exact=True).click()
    look = page.get_by_role("button", name="Look at this model")
    look.click()
    expect(page.locator("#notice-area")).to_contain_text(
        "Write the path or the name of a model first."
    )

    page.get_by_label("Another model").fill("/nowhere/<model>")
    look.click()
    expect(page.locator("#model-found")).to_contain_text("Looking at /nowhere/<model>")
    store.update_job(store.claim_job().id, state="failed", message="There is no model there.")
    expect(page.locator("#model-found")).to_contain_text("There is no model there.")

    page.get_by_label("Another model").fill("/models/fine")
    look.click()
    expect(page.locator("#model-found")).to_contain_text("/models/fine")
    found = {"name": "fine", "family": "Stable Diffusion", "size_px": 512}
    store.update_job(store.claim_job().id, state="done", result=found)
    expect(page.locator("#model-found")).to_contain_text("made for 512 pixels")
    page.get_by_role("button", name="Use this model").click()
    expect(page.locator("#model-card")).to_contain_text("/models/fine")
    open_fold(page, "How pictures are made")
    expect(page.get_by_label("Width")).to_have_value("512")
    assert store.session(labelling.id).settings.base_model == "/models/fine"
    page.get_by_role("button", name="Change", exact=True).click()
    page.locator("#library").get_by_role("button", name="Starter model").click()
    expect(page.locator("#model-card")).to_contain_text("Starter model")
    assert store.session(labelling.id).settings.sampling.width_px == STARTER_SIZE_PX


def test_a_model_of_the_library_is_chosen_by_a_click(open_page, store, labelling, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.touch()
    preview = tmp_path / "mine.preview.png"
    Pictures.new("RGB", (300, 400), "teal").save(preview)
    store.remember_model(
        KnownModel(
            str(path), "mine", "sdxl", "Stable Diffusion XL", 1024, 7, 8, preview=str(preview)
        )
    )
    page = open_page("prompt")
    page.get_by_role("button", name="Change", exact=True).click()
    card = page.locator("#library .model").last
    expect(card).to_contain_text("Stable Diffusion XL")
    expect(card.locator("img")).to_have_js_property("naturalWidth", 240)
    card.click()
    expect(page.locator("#model-card h2")).to_have_text("mine")
    expect(page.locator("#model-card img")).to_have_js_property("naturalWidth", 240)
    expect(card).to_have_attribute("aria-pressed", "true")
    expect(card).to_be_hidden()
    open_fold(page, "How pictures are made")
    expect(page.locator("#clip-skip-row")).to_be_hidden()
    page.get_by_role("button", name="832 × 1216").click()
    expect(page.get_by_label("Height")).to_have_value("1216")
    path.unlink()
    store.update_settings(labelling.id, store.session(labelling.id).settings)
    expect(page.locator("#model-card")).to_contain_text("is not there any more")

    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_label("Another model").fill("someone/model")
    page.get_by_role("button", name="Look at this model").click()
    store.update_job(claimed(store, "inspect").id, state="failed", message="It is not here.")
    page.get_by_role("button", name="Download it").click()
    expect(page.locator("#model-found")).to_contain_text("Downloading someone/model")
    [job] = store.open_downloads()
    store.update_job(job.id, state="running", progress=0.5, message="1.0 of 2.0 GB")
    expect(page.locator("#model-found")).to_contain_text("1.0 of 2.0 GB")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#model-found")).to_contain_text("Stopped.")
    assert store.open_downloads() == []
    page.get_by_label("A folder of models").fill(str(tmp_path / "none"))
    page.get_by_role("button", name="Show its models").click()
    expect(page.locator("#notice-area")).to_contain_text("There is no folder at")
    page.get_by_label("A folder of models").fill(str(tmp_path))
    page.get_by_role("button", name="Show its models").click()
    expect(page.locator("#model-sources")).to_contain_text("Looking for models")
    result = {"models": 1, "others": 1, "problems": ["<x> is a LoRA"]}
    store.update_job(claimed(store, "library").id, state="done", result=result)
    expect(page.locator("#model-sources")).to_contain_text("1 model found")
    page.get_by_role("button", name=f"Leave out {tmp_path}").click()
    expect(page.locator("#model-sources li")).to_have_count(0)
    assert store.model_folders() == []


def claimed(store, kind):
    """The oldest job of a kind, once the page has asked for it; those before it are done."""
    while (job := store.claim_job()) is None or job.kind != kind:
        time.sleep(0.05)
    return job


# --- sessions ------------------------------------------------------------------------------------


def test_sessions_are_made_renamed_duplicated_and_deleted(open_page, store, labelling):
    page = open_page("prompt")
    name = page.locator(".session-name")

    def choose(act: str, of: str, answer: str | None = None) -> None:
        page.locator(".session-open").click()
        if act == "new":
            page.get_by_role("button", name="New session").click()
        else:
            page.get_by_role("button", name=f"{act} {of}", exact=True).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        if answer is not None:
            dialog.get_by_role("textbox").fill(answer)
        dialog.get_by_role("button").last.click()

    choose("new", "", "Second <b>")
    expect(name).to_have_text("Second <b>")
    expect(page.get_by_label("Prompts").first).to_have_value(re.compile("penguin"))
    choose("Rename", "Second <b>", "Third")
    expect(name).to_have_text("Third")
    choose("Duplicate", "Blue things", "Copy")
    expect(name).to_have_text("Copy")
    expect(page.get_by_label("Prompts").first).to_have_value("a red apple\na lion\na sailboat")
    choose("Delete", "Copy")
    expect(name).to_have_text("Third")
    assert {session.name for session in store.sessions()} == {"Third", "Blue things"}
    page.locator(".session-open").click()
    page.locator(".session-row", has_text="Blue things").click()
    expect(name).to_have_text("Blue things")
    expect(page.get_by_label("Prompts").first).to_have_value("a red apple\na lion\na sailboat")


def test_deleting_can_be_left(open_page, store, labelling):
    page = open_page("prompt")
    page.locator(".session-open").click()
    page.get_by_role("button", name="Delete Blue things").click()
    expect(page.get_by_role("dialog")).to_contain_text("aside")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert [session.id for session in store.sessions()] == [labelling.id]


def test_a_session_is_saved_as_a_file_and_opened_from_one(open_page, store, labelling, tmp_path):
    store.add_answer("one", store.waiting_pairs(labelling.id)[0].id, "left")
    page = open_page("prompt")
    page.locator(".session-open").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save as a file Blue things").focus()
    with page.expect_download() as saving:
        page.keyboard.press("Enter")
    assert saving.value.suggested_filename == "Blue things.zip"
    saving.value.save_as(tmp_path / "taste.zip")
    store.rename_session(labelling.id, "The first one")
    expect(page.locator(".session-name")).to_have_text("The first one")

    def open_file(content: bytes, name: str) -> None:
        page.locator(".session-open").click()
        with page.expect_file_chooser() as choosing:
            page.get_by_role("button", name="Open a session from a file").click()
        file = {"name": name, "mimeType": "application/zip", "buffer": content}
        choosing.value.set_files(file)

    open_file(b"not a session", "holiday.zip")
    expect(page.locator("#notice-area")).to_contain_text("not an archive of a session")
    open_file((tmp_path / "taste.zip").read_bytes(), "taste.zip")
    expect(page.locator(".session-name")).to_have_text("Blue things")
    expect(page.locator("#notice-area")).to_contain_text("“Blue things” is here, and open.")
    assert len(store.sessions()) == 2
    made = store.last_session_id()
    assert made != labelling.id
    assert [one.pick.choice for one in store.picked_pairs(made)] == ["left"]


# --- Train ---------------------------------------------------------------------------------------


def test_a_round_is_started_paused_resumed_and_stopped(open_page, store, labelling):
    page = open_page("train")
    card = page.locator("#round-card")
    expect(card).to_contain_text("Pick first, then it learns")
    expect(page.get_by_role("button", name="Start a round")).to_be_disabled()
    seed.pick_all(store, labelling)
    expect(card).to_contain_text("Ready for the first round")
    page.get_by_role("button", name="Start a round").click()
    expect(card).to_contain_text("Round 1 is about to begin")
    seed.learn(store, labelling, updates=9)
    seed.say(store, "training")
    expect(card).to_contain_text("Round 1 is learning from 8 picks")
    expect(page.locator(".status")).to_contain_text("Learning: 35 %")
    expect(page.locator(".chart")).to_have_count(3)
    open_fold(page, "The loss")
    expect(page.locator(".chart")).to_have_count(5)
    page.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("Round 1 is paused at 35 %")
    page.get_by_role("button", name="Go on").click()
    expect(card).to_contain_text("Round 1 is about to begin")
    store.claim_round()
    expect(card).to_contain_text("Round 1 is learning")
    page.get_by_role("button", name="Stop").click()
    expect(card).to_contain_text("Round 1 is stopping")
    [round_] = store.rounds(labelling.id)
    assert round_.state == "stopping"
    store.update_round(round_.id, state="stopped")
    expect(card).to_contain_text("Round 1 was stopped")


def test_any_round_can_be_used_again(open_page, store, labelling):
    seed.pick_all(store, labelling)
    first = seed.learn(store, labelling)
    seed.add_pairs(store, labelling, 4, first.id)
    seed.pick_all(store, labelling)
    second = seed.learn(store, labelling)
    page = open_page("train")
    rows = page.locator(".strip-row")
    expect(rows).to_have_count(3)
    expect(rows.nth(2)).to_contain_text("In use")
    expect(rows.locator("img")).to_have_count(9)
    page.get_by_role("button", name="Use Round 1").click()
    expect(rows.nth(1)).to_contain_text("In use")
    assert store.session(labelling.id).current_adapter_id == first.id
    page.get_by_role("button", name="Use Base model").click()
    expect(rows.nth(0)).to_contain_text("In use")
    assert store.session(labelling.id).current_adapter_id is None
    assert second.number == 2


def test_a_round_that_went_too_far_is_offered_again_more_gently(open_page, store, labelling):
    seed.pick_all(store, labelling)
    first = seed.learn(store, labelling)
    seed.add_pairs(store, labelling, 4, first.id)
    seed.pick_all(store, labelling)
    sentence = "Held back, because its pictures of one prompt all look the same."
    seed.learn(store, labelling, held_back=sentence)
    page = open_page("train")
    card = page.locator("#round-card")
    expect(card).to_contain_text("Round 2 went too far")
    expect(card).to_contain_text(sentence)
    rows = page.locator(".strip-row")
    expect(rows.nth(1)).to_contain_text("In use")
    expect(rows.nth(2)).to_contain_text("held back")
    expect(rows.nth(2).locator("img")).to_have_count(3)
    page.get_by_role("button", name="Learn again, more gently").click()
    expect(card).to_contain_text("Round 3 is about to begin")
    expect(page.locator("#notice-area")).to_contain_text("set to “Gentle”")
    open_fold(page, "How it learns")
    expect(page.get_by_label("Gentle", exact=True)).to_be_checked()
    third = store.rounds(labelling.id)[-1]
    default = TrainingSettings()
    assert third.settings.target_shift == pytest.approx(0.7 * default.target_shift)
    assert third.settings.beta == default.beta


def test_what_is_known_is_said_in_words(open_page, store, labelling):
    seed.add_pairs(store, labelling, 4)
    seed.pick_all(store, labelling)
    again = store.ask_again(labelling.id)
    store.add_answer("again", again.id, "left")
    seed.learn(store, labelling)
    page = open_page("train")
    known = page.locator("#evidence")
    expect(known).to_contain_text("It agrees with 2 of 2 picks that it has never seen")
    expect(known).to_contain_text("between 34 % and 100 %")
    expect(known).to_contain_text("the same again in 1 of 1 pair shown twice")
    expect(known).to_contain_text("of 15 picks")
    store.undo_pick("undo", labelling.id)
    store.undo_pick("undo too", labelling.id)
    expect(page.locator("#round-card")).to_contain_text("You took back 1 pick that it learned from")


def test_how_it_learns_is_kept(open_page, store, labelling):
    page = open_page("train")
    page.get_by_label("Learn by itself while I pick").uncheck()
    every = page.get_by_label("New picks for a round")
    every.fill("1")
    every.blur()
    expect(page.locator("#notice-area")).to_contain_text("between 2 and 1000")
    every.fill("12")
    every.blur()
    expect(page.locator("#notice-area")).to_be_hidden()
    open_fold(page, "How it learns")
    page.get_by_label("From the steps of the drawing").check()
    expect(page.locator("#how-it-learns")).to_contain_text("every step weighed alike")
    page.get_by_label("Count how sure I was").check()
    page.get_by_label("Very gentle").check()
    gentle = 10 * OBJECTIVES["d3po_balanced"].beta
    wait_for(page, lambda: store.session(labelling.id).settings.training.beta == gentle)
    page.reload()
    open_fold(page, "How it learns")
    expect(page.get_by_label("From the steps of the drawing")).to_be_checked()
    expect(page.get_by_label("Very gentle")).to_be_checked()
    expect(page.get_by_label("Count how sure I was")).to_be_checked()
    assert store.session(labelling.id).settings.training.count_strength
    expect(page.get_by_label("Learn by itself while I pick")).not_to_be_checked()
    expect(every).to_have_value("12")
    assert store.session(labelling.id).settings.live is False


def test_a_round_starts_from_favourites_and_neither_if_that_is_wanted(open_page, store, labelling):
    pairs = store.waiting_pairs(labelling.id)[:4]
    page = open_page("prefer")
    for pair in pairs:  # the left picture is good, and the other one is bad
        expect_pair(page, pair)
        page.get_by_role("button", name="Favourite: the left picture").click()
        page.get_by_role("button", name="Neither").click()
    expect_saved(page, store, labelling, 4)
    page = open_page("train")
    start = page.get_by_role("button", name="Start a round")
    expect(page.locator("#round-card")).to_contain_text("It can learn from your 4 favourites")
    open_fold(page, "How it learns")
    said = page.locator("#about-lone")
    expect(said).to_be_empty()
    page.get_by_label("Learn from favourites and from “Neither” too").check()
    expect(said).to_have_text("The next round learns from 4 favourites and 4 bad pictures too.")
    expect(page.locator("#round-card")).to_contain_text(
        "0 picks, 4 favourites and 4 bad pictures to learn from"
    )
    store.set_favourite(pairs[0].left.id, False)
    expect(said).to_contain_text("so far there are 3 favourites and 5 bad pictures")
    expect(start).to_be_disabled()
    store.set_favourite(pairs[0].left.id, True)
    start.click()
    expect(page.locator("#round-card")).to_contain_text("It learns from 4 picks and 4 favourites")
    [round_] = store.rounds(labelling.id)
    assert round_.favourite_ids == tuple(pair.left.id for pair in pairs)
    page.reload()
    open_fold(page, "How it learns")
    expect(page.get_by_label("Learn from favourites and from “Neither” too")).to_be_checked()


# --- Compare and Export --------------------------------------------------------------------------


@pytest.fixture
def tuned(store, labelling):
    """The session after a round, with a comparison of two prompts."""
    seed.pick_all(store, labelling)
    adapter = seed.learn(store, labelling)
    cells = []
    for prompt in ("an owl", "a fox"):
        base = store.add_image(seed.image(store, labelling, "compare", prompt))
        made = seed.image(store, labelling, "compare", prompt, adapter_id=adapter.id)
        cell = {"prompt": prompt, "seed": 7, "base": base.id, "tuned": store.add_image(made).id}
        cells.append(cell)
    payload = {"prompts": ["an owl"], "seeds": [7], "adapter_id": adapter.id, "strength": 1.0}
    store.add_job(labelling.id, "compare", payload)
    store.update_job(store.claim_job().id, state="done", progress=1.0, result={"cells": cells})
    return adapter


def test_compare_shows_both_in_three_ways(open_page, store, tuned):
    page = open_page("compare")
    viewer = page.locator("#compare-viewer")
    expect(viewer.locator("[data-part=side] img:visible")).to_have_count(2)
    expect(viewer).to_contain_text("an owl · seed 7")
    page.get_by_role("option", name="a fox · seed 7").click()
    expect(viewer).to_contain_text("a fox · seed 7")
    page.get_by_role("radio", name="Side by side").press("ArrowRight")
    slider = page.get_by_role("slider", name=re.compile("How much of the base"))
    expect(slider).to_be_visible()
    before = page.locator(".slider .over").evaluate("e => getComputedStyle(e).clipPath")
    for _ in range(5):
        slider.press("ArrowRight")
    expect(slider).to_have_value("55")
    assert page.locator(".slider .over").evaluate("e => getComputedStyle(e).clipPath") != before
    page.get_by_role("radio", name="Grid").click()
    expect(page.locator(".grid-cell")).to_have_count(2)
    page.locator(".grid-cell").first.click()
    expect(page.locator("[data-part=side]")).to_be_visible()
    page.reload()
    expect(page.locator("[data-part=side]")).to_be_visible()


def test_a_comparison_is_asked_for_and_can_be_left(open_page, store, labelling, tuned):
    page = open_page("compare")
    field = page.locator("#compare-prompts textarea")
    expect(field).to_have_value("a red apple\na lion\na sailboat")
    field.fill(" ")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#notice-area")).to_contain_text("at least one prompt")
    field.fill("a snail")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".compare-progress")).to_contain_text("Waiting for the painter")
    job = store.claim_job()
    assert job.payload == {
        "prompts": ["a snail"],
        "seeds": [1000, 1001],
        "adapter_id": tuned.id,
        "strength": 1,
    }
    says = "Drawing comparison 2 of 2, about 10 s left"
    store.update_job(job.id, progress=0.5, message=says)
    expect(page.locator(".compare-progress")).to_contain_text(says)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_visible()
    assert store.job(job.id).state == "cancelled"


def test_before_the_first_round_there_is_nothing_to_compare_or_export(open_page, labelling):
    page = open_page("compare")
    expect(page.get_by_role("heading", name="Nothing is tuned yet")).to_be_visible()
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_disabled()
    page.locator("#tab-export-button").click()
    expect(page.get_by_role("heading", name="No LoRA yet")).to_be_visible()
    expect(page.get_by_role("button", name="Export the LoRA")).to_be_disabled()
    page.locator("#exports").get_by_role("button", name="Pick pictures").click()
    expect(page.locator(".choice img").first).to_be_visible()


def test_an_export_that_fails_says_why(open_page, store, labelling, tuned):
    page = open_page("export")
    page.locator("#export-name input").fill("")
    page.get_by_role("button", name="Export the LoRA").click()
    expect(page.locator("#notice-area")).to_contain_text("Give the LoRA a name.")
    page.locator("#export-name input").fill("Blue & more")
    page.get_by_role("button", name="Export the LoRA").click()
    expect(page.locator("#exports")).to_contain_text("Writing and checking")
    job = store.claim_job()
    assert (job.payload["name"], job.payload["adapter_id"]) == ("Blue & more", tuned.id)
    store.update_job(job.id, state="failed", message="The disk is full.")
    expect(page.locator("#exports")).to_contain_text("The disk is full.")


def test_an_export_is_sent_to_the_folder_of_another_tool(
    open_page, store, labelling, tuned, tmp_path
):
    names = ("Blue.safetensors", "Blue.json")
    folder = store.export_path(labelling.id, "e")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    store.add_export(Export("e", labelling.id, tuned.id, "Blue", names, {}, time.time()))
    page = open_page("export")
    made, field = page.locator("#exports"), page.locator("#export-tool input")
    expect(made.get_by_role("button", name="Show folder")).to_be_visible()
    expect(made.get_by_role("button", name="Send to the tool")).to_have_count(0)
    field.fill(str(tmp_path / "nowhere"))
    field.press("Enter")
    expect(page.locator("#notice-area")).to_contain_text("There is no folder")
    field.fill(str(tmp_path))
    field.press("Enter")
    made.get_by_role("button", name="Send to the tool").click()
    expect(page.locator("#notice-area")).to_contain_text(f"Blue.safetensors is in {tmp_path} now")
    field.focus()
    with page.expect_response(lambda response: response.request.method == "POST"):
        field.blur()  # nothing was changed: what the button had to say stays
    page.wait_for_timeout(300)
    expect(page.locator("#notice-area")).to_contain_text(f"Blue.safetensors is in {tmp_path} now")
    assert (tmp_path / "Blue.safetensors").read_text() == "Blue.safetensors"
    page.reload()
    expect(field).to_have_value(str(tmp_path))


# --- the page as a whole -------------------------------------------------------------------------


def test_nothing_is_fetched_from_another_machine(browser, pages, labelling, tuned):
    fetched = []
    context = browser.new_context()
    page = context.new_page()
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(pages)
    for tab in ("prefer", "train", "compare", "export", "prompt"):
        page.locator(f"#tab-{tab}-button").click()
        expect(page.locator(f"#tab-{tab}")).to_be_visible()
    context.close()
    assert len(fetched) > 10
    assert not [url for url in fetched if not url.startswith((pages, "data:", "blob:"))]


def test_the_theme_follows_the_system_until_it_is_chosen(open_page, labelling):
    page = open_page("prompt", color_scheme="dark")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.get_by_role("button", name="Dark or light").click()
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))
    page.reload()
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_nothing_is_wider_than_the_window(open_page, store, labelling, tuned, width):
    seed.add_pairs(store, labelling, 2)
    long = replace(labelling.settings, prompts=("unbreakable" * 30, *labelling.settings.prompts))
    store.update_settings(labelling.id, long)
    page = open_page("prompt", viewport={"width": width, "height": 900})
    for tab in ("prompt", "prefer", "train", "compare", "export"):
        page.locator(f"#tab-{tab}-button").click()
        expect(page.locator(f"#tab-{tab}")).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{tab} is {wide} px wide in a window of {width}"


def test_another_page_cannot_reach_in(browser, pages, store, labelling):
    """A page of another origin on the same machine, as a browser really sends its requests."""
    context = browser.new_context()
    page = context.new_page()
    other = pages.replace("127.0.0.1", "localhost")
    page.goto(f"{other}/studio/favicon.svg")
    status = page.evaluate(
        """async (url) => {
            try { return (await fetch(url + "/gradio_api/run/predict", { method: "POST" })).status }
            catch { return "refused" }
        }""",
        pages,
    )
    assert status == "refused"
    context.close()


def test_a_deleted_session_in_another_window_does_no_harm(open_page, store, labelling):
    page = open_page("prompt")
    second = store.create_session("Second", SessionSettings(prompts=("a whale",)))
    store.delete_session(labelling.id)
    expect(page.locator(".session-name")).to_have_text("Second")
    expect(page.get_by_label("Prompts").first).to_have_value("a whale")
    assert store.last_session_id() == second.id


def test_a_style_is_kept_used_and_deleted(open_page, store, labelling):
    page = open_page("prompt")
    open_fold(page, "Styles")
    page.locator("#use-style").click()
    expect(page.locator("#notice-area")).to_contain_text("Choose a style first")
    page.get_by_label("New style").fill("Poster")
    page.get_by_label("Words").fill("{prompt}, flat style")
    page.locator("#keep-style").click()
    expect(page.locator("#notice-area")).to_contain_text("“Poster” is kept")
    assert "Poster" in store.styles_path.read_text("utf-8")
    page.locator("#use-style").click()  # what was kept is chosen
    expect(page.locator("#prompts textarea")).to_have_value(
        re.compile(r"^a red apple, flat style\n")
    )
    assert store.session(labelling.id).settings.prompts[1] == "a lion, flat style"
    page.reload()
    open_fold(page, "Styles")
    page.locator("#style input").click()
    expect(page.get_by_role("option", name="Poster")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#style input")).to_have_value("Poster")
    page.locator("#delete-style").click()
    expect(page.locator("#notice-area")).to_contain_text("“Poster” is deleted")
    assert "Poster" not in store.styles_path.read_text("utf-8")
    store.styles_path.write_text("nothing,of,this\n1,2,3\n")
    page.locator("#use-style").click()
    expect(page.locator("#notice-area")).to_contain_text("styles.csv cannot be read")


def test_picks_are_taken_in_and_opened(open_page, store, labelling):
    seed.pick_all(store, labelling)
    made = store.create_session("Friends", labelling.settings)
    page = open_page("export")
    open_fold(page, "The picks themselves")
    page.get_by_role("button", name="As a data set (Pick-a-Pic)").click()
    wait_for(page, lambda: store.jobs(labelling.id, kind="give_picks"))
    job = store.claim_job()
    assert job.payload == {"form": "pickapic"}
    expect(page.locator("#picks-given")).to_contain_text("Writing the picks")
    found = {"folder": "/home/me/picks/mine-pickapic", "picks": 5, "left_out": 1}
    store.update_job(job.id, state="done", result=found)
    expect(page.locator("#picks-given")).to_contain_text("5 picks in /home/me/picks/mine-pickapic.")
    path = page.get_by_label("Take picks in")
    path.fill('  "/home/me/<b>pairs" ')
    page.get_by_role("button", name="Take them in").click()
    wait_for(page, lambda: store.jobs(labelling.id, kind="take_picks"))
    job = store.claim_job()
    assert job.payload == {"path": "/home/me/<b>pairs"}
    store.update_job(job.id, message="7 in.")
    expect(page.locator("#picks-taken")).to_contain_text("7 in.")
    store.update_job(job.id, state="failed", message="There is no folder at <b>pairs.")
    expect(page.locator("#picks-taken")).to_contain_text("There is no folder at <b>pairs.")
    path.press("Enter")
    wait_for(page, lambda: len(store.jobs(labelling.id, kind="take_picks")) == 2)
    found = {"session_id": made.id, "name": made.name, "picks": 7, "left_out": 0}
    store.update_job(store.claim_job().id, state="done", result=found)
    taken = page.locator("#picks-taken")
    expect(taken).to_contain_text("7 picks in the new session “Friends”.")
    expect(taken).to_contain_text("Diffusion-DPO can learn from them; D3PO cannot.")
    taken.get_by_role("button", name="Open it").click()
    expect(page.locator(".session-name")).to_have_text("Friends")


def test_a_damaged_row_is_a_sign_and_the_page_works(store, labelling, pages, browse):
    """Of a job, a session and a picture: the sign names them, and a pick is taken as ever."""
    other = store.create_session("Other things", SessionSettings(prompts=("a cat",)))
    job = store.add_job(labelling.id, "compare", {"prompts": ["a cat"], "seeds": [1]})
    torn = store.waiting_pairs(labelling.id)[-1]
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE jobs SET result = '[]' WHERE id = ?", (job.id,))
        connection.execute("UPDATE sessions SET settings = '{' WHERE id = ?", (other.id,))
        connection.execute("UPDATE images SET sampling = '[]' WHERE id = ?", (torn.left.id,))
    connection.close()
    first, second, *_ = store.waiting_pairs(labelling.id)
    page = browse(pages, "prefer")
    press_each(page, [("ArrowLeft", first)])
    expect_pair(page, second)
    wait_for(page, lambda: store.pick_counts(labelling.id).total == 1)
    page.locator("[popovertarget=damaged-rows]").click()
    expect(page.locator("#damaged-rows")).to_contain_text("images (1), jobs (1), sessions (1)")
    page.keyboard.press("Escape")
    page.locator(".session-open").click()
    expect(page.locator("#session-menu")).to_contain_text("A damaged session")
    expect(page.locator("#session-menu")).to_contain_text("Blue things")
