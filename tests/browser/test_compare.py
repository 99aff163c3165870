"""Compare as an artist uses it: looking closely, grids, and pictures that bring their settings."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image as Pictures
from PIL import PngImagePlugin
from playwright.sync_api import Page, expect

from studio.pictures.files import parameters_of
from studio.store import Export
from tests.browser import seed
from tests.browser.conftest import snap
from tests.browser.steps import RULES, open_fold, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def tuned(store, labelling):
    """The session after a round, with a comparison of two prompts."""
    seed.pick_all(store, labelling)
    adapter = seed.learn(store, labelling)
    cells = []
    for prompt in ("an owl", "a fox"):
        base = store.add_image(seed.image(store, labelling, "compare", prompt, seed=7))
        made = seed.image(
            store, labelling, "compare", prompt, seed=8, adapter_id=adapter.id, strength=0.8
        )
        cell = {"prompt": prompt, "seed": 7, "base": base.id, "tuned": store.add_image(made).id}
        cells.append(cell)
    payload = {"prompts": ["an owl"], "seeds": [7], "adapter_id": adapter.id, "strength": 0.8}
    store.add_job(labelling.id, "compare", payload)
    store.update_job(store.claim_job().id, state="done", progress=1.0, result={"cells": cells})
    return adapter


def a_png(text: str | None) -> dict[str, object]:
    """A file for an upload: a picture that says `text` of itself."""
    notes = PngImagePlugin.PngInfo()
    if text is not None:
        notes.add_text("parameters", text)
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8), "teal").save(buffer, "PNG", pnginfo=notes)
    return {"name": "from elsewhere.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def drop(page: Page, panel: str, file: dict[str, object]) -> None:
    """Let a file fall on a tab, as a hand would."""
    handle = page.evaluate_handle(
        """(bytes) => {
            const data = new DataTransfer();
            const content = new Uint8Array(bytes);
            data.items.add(new File([content], "dropped.png", { type: "image/png" }));
            return data;
        }""",
        list(file["buffer"]),
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event(panel, kind, {"dataTransfer": handle})


# --- looking closely -----------------------------------------------------------------------------


def test_the_slider_is_moved_by_keys(open_page, tuned):
    page = open_page("compare")
    page.get_by_role("radio", name="Slider").click()
    slider = page.get_by_role("slider", name=re.compile("How much of the base"))
    clip = "e => getComputedStyle(e).clipPath"
    over = page.locator(".slider .over")
    for key, value in (("End", "100"), ("Home", "0"), ("ArrowRight", "1"), ("ArrowLeft", "0")):
        slider.press(key)
        expect(slider).to_have_value(value)
        assert f"{value}%" in over.evaluate(clip) or value == "0"
    expect(slider).to_have_attribute("aria-valuetext", "0% base")


def test_space_flips_in_place_from_any_view(open_page, tuned):
    page = open_page("compare")
    viewer = page.locator("#compare-viewer")
    expect(viewer.locator("[data-part=side] img").first).to_be_visible()
    page.locator("body").press(" ")
    name = viewer.locator("[data-part=flip-name]")
    shown = viewer.locator("[data-part=flip] img:visible")
    expect(name).to_have_text("Round 1 at 0.8")
    expect(shown).to_have_attribute("alt", "Round 1 at 0.8: an owl")
    page.keyboard.press(" ")
    expect(name).to_have_text("Base")
    expect(shown).to_have_attribute("alt", "Base: an owl")
    viewer.locator(".flip").click()
    expect(name).to_have_text("Round 1 at 0.8")
    page.get_by_role("radio", name="Side by side").click()
    page.get_by_role("radio", name="Flip").click()
    page.keyboard.press(" ")  # the button that chose this view has the focus
    expect(name).to_have_text("Base")
    field = page.locator("#compare-prompts textarea")
    field.fill("two")
    field.press("End")
    field.press(" ")
    expect(field).to_have_value("two ")
    expect(name).to_have_text("Base")


def test_another_lora_stands_beside_base_and_tuned(open_page, store, labelling, tuned):
    cells = []
    for number, prompt in enumerate(("an owl", "a fox")):
        one, two, three = (
            store.add_image(
                seed.image(store, labelling, "compare", prompt, seed=7 + number + place)
            )
            for place in range(3)
        )
        cells.append(
            {"prompt": prompt, "seed": 7, "base": one.id, "tuned": two.id, "other": three.id}
        )
    page = open_page("compare")
    open_fold(page, "Beside them, another LoRA")
    page.get_by_label("A LoRA on this computer").fill(' "/loras/my style.safetensors" ')
    page.get_by_role("button", name="Compare", exact=True).click()
    wait_for(page, lambda: len(store.jobs(labelling.id, kind="compare")) == 2)
    job = store.claim_job()
    assert job.payload["other"] == {"path": "/loras/my style.safetensors", "strength": 1.0}
    found = {"cells": cells, "fit": "192 layers of the image network, rank 4."}
    store.update_job(job.id, state="done", progress=1.0, result=found)
    viewer = page.locator("#compare-viewer")
    expect(viewer.locator("[data-part=other]")).to_contain_text("my style")
    expect(viewer.locator("[data-part=fit]")).to_have_text(
        "my style: 192 layers of the image network, rank 4."
    )
    expect(viewer.locator("[data-part=side] img:visible")).to_have_count(3)
    expect(viewer.locator("[data-save=other]")).to_have_attribute(
        "href", f"/images/{cells[0]['other']}/download"
    )
    page.get_by_role("radio", name="Flip").click()
    name = viewer.locator("[data-part=flip-name]")
    for said in ("Round 1", "my style", "Base"):
        page.keyboard.press(" ")
        expect(name).to_have_text(said)
    page.get_by_role("radio", name="Grid").click()
    expect(viewer.get_by_role("img", name="my style: a fox")).to_be_visible()


def test_the_difference_is_drawn_and_amplified(open_page, tuned):
    page = open_page("compare")
    page.get_by_role("radio", name="Difference").click()
    over = page.locator("[data-part=difference] .over")
    assert over.evaluate("e => getComputedStyle(e).mixBlendMode") == "difference"
    button = page.get_by_role("button", name="Amplify")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    box = page.locator("[data-part=difference] figure")
    assert "brightness" in box.evaluate("e => getComputedStyle(e).filter")
    button.click()
    assert box.evaluate("e => getComputedStyle(e).filter") == "none"


# --- pictures that bring their settings ----------------------------------------------------------


def test_a_saved_picture_is_dropped_back_in(open_page, store, labelling, tuned, tmp_path):
    page = open_page("compare")
    expect(page.locator("[data-part=side] img").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save tuned").click()
    assert download.value.suggested_filename == "an-owl-8.png"
    path = tmp_path / "saved.png"
    download.value.save_as(path)
    found = parameters_of(path.read_bytes())
    assert (found.prompt, found.seed, found.steps, found.sampler) == ("an owl", 8, 20, "DDIM")
    assert found.loras == (("Blue things round 1", 0.8),)
    drop(page, "#tab-compare", {"buffer": path.read_bytes()})
    expect(page.locator("#compare-prompts textarea")).to_have_value("an owl")
    expect(page.get_by_label("First seed")).to_have_value("8")
    expect(page.locator("#compare-seeds input")).to_have_value("1")
    expect(page.locator("#compare-strength input[type=number]")).to_have_value("0.8")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".compare-progress").first).to_contain_text("Waiting for the painter")
    assert store.jobs(labelling.id, "compare")[0].payload == {
        "prompts": ["an owl"],
        "seeds": [8],
        "adapter_id": tuned.id,
        "strength": 0.8,
    }


def test_a_picture_from_a1111_sets_the_prompt_tab(open_page, store, labelling):
    page = open_page("prompt")
    text = (
        "a cat,\nsitting <lora:x:0.5>\nNegative prompt: blurry, dogs\nSteps: 28, "
        "Sampler: Euler a, CFG scale: 6.5, Seed: 99, Size: 128x192, Model: other"
    )
    page.locator("#prompt-drop input").set_input_files(a_png(text))
    expect(page.locator("#notice-area")).to_contain_text("seed 99, 28 steps, guidance 6.5")
    expect(page.locator("#notice-area")).to_contain_text("drawn by Euler a")
    expect(page.locator("#prompts textarea")).to_have_value(
        "a cat, sitting\na red apple\na lion\na sailboat"
    )
    expect(page.locator("#negative-prompt textarea, #negative-prompt input")).to_have_value(
        "blurry, dogs"
    )
    made = store.session(labelling.id).settings.sampling
    assert (made.seed, made.steps, made.guidance) == (99, 28, 6.5)
    assert (made.width_px, made.height_px) == (128, 192)
    assert made.eta == 1.0
    expect(page.locator("#notice-area")).to_contain_text("the LoRA “x” at 0.5")


def test_a_seed_of_comfyui_comes_through_the_browser_as_it_is(open_page, store, labelling):
    page = open_page("prompt")
    graph = {
        "1": {
            "class_type": "KSampler",
            "inputs": {"seed": 2**63 - 1, "steps": 1, "cfg": 0, "positive": ["2", 0]},
        },
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
    }
    notes = PngImagePlugin.PngInfo()
    notes.add_text("prompt", json.dumps(graph))
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=notes)
    picture = {"name": "x.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.locator("#prompt-drop input").set_input_files(picture)
    expect(page.locator("#notice-area")).to_contain_text("its size")
    made = store.session(labelling.id).settings.sampling
    assert (made.seed, made.steps, made.guidance) == (2**63 - 1, 1, 0)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (a_png(None), "does not say how it was made"),
        ({"name": "x.png", "mimeType": "image/png", "buffer": b"hello"}, "not a PNG"),
    ],
    ids=["bare", "no picture"],
)
def test_a_file_that_cannot_be_used_is_a_sentence(open_page, store, labelling, file, sentence):
    page = open_page("prompt")
    before = store.session(labelling.id).settings
    page.locator("#prompt-drop input").set_input_files(file)
    expect(page.locator("#notice-area")).to_contain_text(sentence)
    assert store.session(labelling.id).settings == before


# --- the mix -------------------------------------------------------------------------------------


def test_tastes_and_loras_are_mixed_by_their_sliders_and_saved_as_one(
    open_page, store, labelling, tuned
):
    warm = store.create_session("Warm light", labelling.settings)
    seed.add_pairs(store, warm, 4)
    seed.pick_all(store, warm)
    taste = seed.learn(store, warm)
    store.set_last_session(labelling.id)
    page = open_page("compare")
    open_fold(page, "Mixed with others")
    page.get_by_role("button", name="Save this mix as one LoRA").click()
    expect(page.locator("#notice-area")).to_contain_text("Choose something to mix in first")
    expect(page.get_by_label("Taste or LoRA file 2")).to_be_hidden()
    page.get_by_label("Taste or LoRA file 1").click()
    page.get_by_role("option", name="Warm light · round 1").click()
    page.get_by_label("Taste or LoRA file 2").fill("/loras/my style.safetensors")
    page.get_by_label("Taste or LoRA file 2").press("Enter")
    expect(page.get_by_label("Taste or LoRA file 3")).to_be_visible()
    page.locator("#mix-strength-2 input[type=number]").fill("-0.25")
    before = len(store.jobs(labelling.id, "compare"))
    page.locator("#mix-strength-1 input[type=range]").click()  # its middle
    wait_for(page, lambda: len(store.jobs(labelling.id, "compare")) > before)
    first = store.claim_job()
    mixed = [
        {"adapter_id": tuned.id, "strength": 1.0},
        {"adapter_id": taste.id, "strength": 0.5},
        {"path": "/loras/my style.safetensors", "strength": -0.25},
    ]
    assert first.payload["mix"] == mixed
    # another slider is let go before that is drawn: only the mix as it is then is wanted
    page.locator("#compare-strength input[type=range]").click()
    mixed[0]["strength"] = 0.5
    wait_for(
        page,
        lambda: mixed in [job.payload.get("mix") for job in store.jobs(labelling.id, "compare")],
    )
    wait_for(page, lambda: store.job(first.id).state == "cancelled")
    job = store.claim_job()
    assert job.payload["mix"] == mixed
    one, two = (store.add_image(seed.image(store, labelling, "compare", "an owl")) for _ in "ab")
    found = {
        "cells": [{"prompt": "an owl", "seed": 7, "base": one.id, "tuned": two.id}],
        "mix": "Blue things round 1 at 0.5, Warm light round 1 at 0.5, my style at -0.25.",
    }
    store.update_job(job.id, state="done", progress=1.0, result=found)
    viewer = page.locator("#compare-viewer")
    expect(viewer.locator("[data-part=tuned-name]")).to_have_text("Mix of 3")
    expect(viewer.locator("[data-part=fit]")).to_have_text("Mix: " + found["mix"])
    page.get_by_label("Name of the mix").scroll_into_view_if_needed()
    expect(viewer.locator("[data-img=tuned]").first).to_be_in_viewport(ratio=0.5)
    for width_px in (390, 1280):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width_px, "height": 1400})
            page.emulate_media(color_scheme=scheme)
            snap(page, f"mix-{width_px}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert Axe().run(page, options=RULES).response["violations"] == []
    page.get_by_label("Name of the mix").fill("Both")
    page.get_by_role("button", name="Save this mix as one LoRA").click()
    expect(page.locator("#notice-area")).to_contain_text("“Both” is being written and checked")
    [job] = store.jobs(labelling.id, "export")
    assert job.payload == {
        "adapter_id": tuned.id,
        "mix": mixed,
        "name": "Both",
        "formats": ["kohya", "diffusers"],
        "rank": 0,
    }
    store.claim_job()
    checks = {"Mix": "Blue things round 1 at 0.5, my style at -0.25; exact, of rank 12"}
    store.add_export(Export("e1", labelling.id, tuned.id, "Both", (), checks, time.time()))
    store.update_job(job.id, state="done", progress=1.0, result={"export_id": "e1"})
    page.locator("#tab-export-button").click()
    expect(page.locator("#exports")).to_contain_text("A mix of Blue things round 1 at 0.5")
    snap(page, "mix-exported")


# --- the grid ------------------------------------------------------------------------------------


def draw_grid(store, session, payload, pictures=None):
    """What the worker would draw."""
    store.add_job(session.id, "grid", payload)
    job = store.claim_job()
    image_ids = [
        store.add_image(seed.image(store, session, "compare", prompt, seed=number)).id
        for prompt in payload["prompts"]
        for number in payload["seeds"]
        for _ in payload["adapter_ids"]
        for _ in payload["strengths"]
    ]
    store.update_job(job.id, state="done", progress=1.0, result={"image_ids": image_ids[:pictures]})
    return image_ids


def test_a_grid_is_asked_for_shown_and_can_be_left(open_page, store, labelling, tuned):
    page = open_page("compare")
    open_fold(page, "Grid over strengths and rounds")
    field = page.locator("#grid-strengths input, #grid-strengths textarea")
    field.fill("0, much")
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.locator("#notice-area")).to_contain_text("Strengths are numbers")
    field.fill("1, 0;0.5")
    page.locator("#compare-prompts textarea").fill("a snail")
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.locator(".xy .compare-progress")).to_contain_text("Waiting for the painter")
    job = store.claim_job()
    assert job.payload == {
        "prompts": ["a snail"],
        "seeds": [1000, 1001],
        "adapter_ids": [tuned.id],
        "strengths": [0.0, 0.5, 1.0],
    }
    made = store.add_image(seed.image(store, labelling, "compare", "a snail"))
    says = "Drawing picture 2 of 6, about 20 s left"
    store.update_job(job.id, progress=1 / 6, message=says, result={"image_ids": [made.id]})
    expect(page.locator(".xy .compare-progress")).to_contain_text(says)
    expect(page.locator(".xy td img")).to_have_count(1)
    page.get_by_role("button", name="Cancel the grid").click()
    expect(page.get_by_role("button", name="Draw the grid")).to_be_visible()
    assert store.job(job.id).state == "cancelled"
    expect(page.locator(".xy td img")).to_have_count(1)  # what was drawn is kept


def test_grids_are_kept_turned_zoomed_and_opened_large(open_page, store, labelling, tuned):
    old = {
        "prompts": ["an owl"],
        "seeds": [1, 2, 3],
        "adapter_ids": [tuned.id],
        "strengths": [1.0],
    }
    first = draw_grid(store, labelling, old)
    new = {
        "prompts": ["an owl", "a fox"],
        "seeds": [1, 2],
        "adapter_ids": [tuned.id],
        "strengths": [0.0, 0.5, 1.0],
    }
    ids = draw_grid(store, labelling, new)
    page = open_page("compare")
    open_fold(page, "Grid over strengths and rounds")
    cells = page.locator(".xy td img")
    expect(cells).to_have_count(6)  # strengths across, prompts down, the first seed
    for place, expected in enumerate((0, 1, 2, 6, 7, 8)):
        expect(cells.nth(place)).to_have_attribute("src", f"/images/{ids[expected]}")
    page.get_by_label("Seed", exact=True).select_option(label="2")
    expect(cells.first).to_have_attribute("src", f"/images/{ids[3]}")
    page.get_by_label("Down").select_option("seeds")
    expect(cells.nth(3)).to_have_attribute("src", f"/images/{ids[3]}")
    before = cells.first.bounding_box()["width"]
    page.locator(".xy-scroll").press("+")
    wait_for(page, lambda: cells.first.bounding_box()["width"] > before)
    page.get_by_role("button", name="Open an owl · seed 1 · Round 1 at 0.5").click()
    large = page.locator("dialog.large")
    expect(large.locator("img")).to_have_attribute("src", f"/images/{ids[1]}")
    page.keyboard.press("ArrowRight")
    expect(large).to_contain_text("an owl · seed 1 · Round 1 at 1")
    expect(large.locator("img")).to_have_attribute("src", f"/images/{ids[2]}")
    href = large.get_by_role("link", name="Save").get_attribute("href")
    assert href == f"/images/{ids[2]}/download"
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    page.get_by_label("Grid", exact=True).select_option(index=1)
    expect(cells).to_have_count(3)
    expect(cells.first).to_have_attribute("src", f"/images/{first[0]}")


def test_the_negative_end_is_seen_before_it_is_used(open_page, store, labelling, tuned):
    page = open_page("compare")
    page.locator("#compare-prompts textarea").fill("a snail\nan owl")
    expect(page.locator("#compare-strength")).to_contain_text("Below 0 it goes against your picks")
    page.get_by_role("button", name="See it from -1 to 2").click()
    expect(page.locator("#notice-area")).to_contain_text("drawn in the grid")
    expect(page.locator(".xy .compare-progress")).to_contain_text("Waiting for the painter")
    job = store.claim_job()
    assert job.payload == {
        "prompts": ["a snail"],
        "seeds": [1000],
        "adapter_ids": [tuned.id],
        "strengths": [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0],
    }
    ids = [store.add_image(seed.image(store, labelling, "compare", "a snail")).id for _ in range(7)]
    store.update_job(job.id, state="done", progress=1.0, result={"image_ids": ids})
    expect(page.locator(".xy td img")).to_have_count(7)
    expect(page.locator(".xy thead")).to_contain_text("at -1")
    snap(page, "compare-ends")
    page.locator("#compare-strength input[type=number]").fill("-0.5")
    page.get_by_role("button", name="Compare", exact=True).click()
    wait_for(page, lambda: len(store.jobs(labelling.id, kind="compare")) == 2)
    assert store.claim_job().payload["strength"] == -0.5


# --- the story -----------------------------------------------------------------------------------


def test_the_story_is_played_and_taken_away(open_page, store, labelling, tuned):
    page = open_page("compare")
    open_fold(page, "The story so far")
    name = page.locator("#story [data-part=name]")
    expect(name).to_have_text("Round 1")
    expect(page.locator(".story-round")).to_have_count(2)
    page.get_by_role("button", name="Show Base model").click()
    expect(name).to_have_text("Base model")
    [first, *_] = [
        image
        for image in reversed(store.images(labelling.id, "preview", adapter_id=None))
        if image.prompt == "a red apple"
    ]
    shown = page.locator(".story-frames [data-shown]").first
    expect(shown).to_have_attribute("src", f"/images/{first.id}")
    page.get_by_role("slider", name="Round").press("End")
    expect(name).to_have_text("Round 1")
    page.get_by_role("button", name="Play").click()
    expect(name).to_have_text("Base model")
    expect(name).to_have_text("Round 1")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    for link, form, frames in (
        ("Save as a sheet", "PNG", 1),
        ("as an animation", "WEBP", 2),
        ("as a GIF", "GIF", 2),
    ):
        with page.expect_download() as download:
            page.get_by_role("link", name=link).click()
        with Pictures.open(download.value.path()) as picture:
            assert (picture.format, getattr(picture, "n_frames", 1)) == (form, frames)


def test_before_the_first_round_there_is_no_story(open_page, labelling):
    page = open_page("compare")
    open_fold(page, "The story so far")
    expect(page.locator("#story")).to_contain_text("After the first round")
    expect(page.locator("#story [data-part=all]")).to_be_hidden()
