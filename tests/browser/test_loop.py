"""The whole loop, on the starter model, through what an artist sees: prompts to exported LoRA.

The artist here likes blue: of two pictures it takes the one whose border is bluer.
"""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import get_peft_model_state_dict
from PIL import Image
from playwright.sync_api import Page, expect

from studio.engine.sampling import STREAM_PRIME
from studio.settings import STARTER_PATH, SamplingSettings
from tests.browser.conftest import PATIENCE_MS, snap

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PROMPTS = ("lion", "octopus", "red apple", "sailboat", "cactus", "mushroom", "penguin", "guitar")
UNSEEN = ("owl", "rocket")
DRAWN_MS = 600_000  # for pictures and a round, on a machine that is busy elsewhere

BLUE_OF_THE_BORDER = """(img) => {
    const canvas = document.createElement("canvas");
    const size = canvas.width = canvas.height = 16;
    const brush = canvas.getContext("2d");
    brush.drawImage(img, 0, 0, size, size);
    const pixels = brush.getImageData(0, 0, size, size).data;
    let blue = 0;
    for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) {
        if (x && y && x < size - 1 && y < size - 1) continue;
        const at = 4 * (y * size + x);
        blue += pixels[at + 2] - (pixels[at] + pixels[at + 1]) / 2;
    }
    return blue;
}"""


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Most of what is waited for here is drawn or learned first."""
    expect.set_options(timeout=DRAWN_MS)
    yield
    expect.set_options(timeout=PATIENCE_MS)


def test_from_prompts_to_a_lora_that_draws_the_same_elsewhere(
    studio: tuple[str, subprocess.Popen[str]], browse: Callable[..., Page], tmp_path: Path
) -> None:
    address, process = studio
    page = browse(address)
    write_prompts(page)
    pick(page, 17)  # one of them may be a pair asked again, which teaches nothing new
    watch_a_round_through_a_reload_and_a_crash(page, process)
    pick(page, 8)
    tuned = compare(page)
    files = export(page, tmp_path)

    state = {}
    for form in ("kohya", "diffusers"):
        pipeline = fresh_pipeline()
        pipeline.load_lora_weights(files[form].parent, weight_name=files[form].name)
        state[form] = get_peft_model_state_dict(pipeline.unet, adapter_name="default_0")
        for (prompt, seed), picture in tuned.items():
            assert_alike(draw(pipeline, prompt, seed), picture)
    assert state["kohya"].keys() == state["diffusers"].keys()
    for name, value in state["kohya"].items():
        torch.testing.assert_close(value, state["diffusers"][name], rtol=1e-5, atol=1e-6)


def test_without_its_lora_the_comparison_would_not_match() -> None:
    """The tolerance above can tell a tuned picture from one of another model."""
    pipeline = fresh_pipeline()
    one, other = (draw(pipeline, "owl", seed) for seed in (1000, 1001))
    with pytest.raises(AssertionError):
        assert_alike(one, other)


# --- what an artist does -------------------------------------------------------------------------


def write_prompts(page: Page) -> None:
    """An empty list is refused in a sentence; then prompts, and the first pictures appear."""
    expect(page.locator("#preview img")).to_have_count(6)
    snap(page, "loop-1-prompt")
    field = page.get_by_label("Prompts").first
    field.fill("")
    field.blur()
    expect(page.locator("#notice-area")).to_contain_text("There is no prompt")
    field.fill("\n".join(PROMPTS))
    field.blur()
    expect(page.get_by_role("img", name=re.compile("guitar|mushroom")).first).to_be_visible()
    snap(page, "loop-2-own-prompts")


def pick(page: Page, number: int) -> None:
    """So many picks, by key and by click in turns."""
    page.locator("#tab-prefer-button").click()
    counted = page.locator(".prefer-counts")
    expect(counted).to_have_text(re.compile(r"^\d+ picks?$"))
    before = int(counted.inner_text().split()[0])
    for place in range(before, before + number):
        pictures = page.locator(".choice img")
        expect(pictures).to_have_count(2)
        expect(page.locator(".prefer-pair")).to_be_visible()
        blues = [picture.evaluate(BLUE_OF_THE_BORDER) for picture in pictures.all()]
        side = int(blues[1] > blues[0])
        if place % 2:
            page.keyboard.press(("ArrowLeft", "ArrowRight")[side])
        else:
            page.locator(".choice").nth(side).click()
        expect(counted).to_have_text(re.compile(rf"^{place + 1} picks?$"))
        if place - before == number // 2:
            expect(page.locator(".prefer-pair")).to_be_visible()
            snap(page, f"loop-3-prefer-{place + 1}")
    page.wait_for_function("() => !document.querySelector('#prefer [data-unsaved]')")


def watch_a_round_through_a_reload_and_a_crash(page: Page, process: subprocess.Popen[str]) -> None:
    """It began by itself with the sixteenth pick to learn from."""
    page.locator("#tab-train-button").click()
    card = page.locator("#round-card")
    expect(card).to_contain_text("Round 1 is learning from")
    expect(page.locator(".chart").first).to_be_visible()
    page.reload()
    expect(card).to_contain_text("Round 1 is learning from")
    expect(page.locator(".chart").first).to_be_visible()
    snap(page, "loop-4-train-while-learning")
    [worker] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "studio.worker" in child.cmdline()
    ]
    worker.kill()
    rows = page.locator(".strip-row")
    expect(rows.nth(1)).to_contain_text("In use")
    expect(rows.nth(1)).to_contain_text("Round 1")
    expect(rows.locator("img")).to_have_count(12)
    snap(page, "loop-5-train-after-the-round")


def compare(page: Page) -> dict[tuple[str, int], Image.Image]:
    """Base beside tuned; gives the tuned pictures by prompt and seed, as the page shows them."""
    page.locator("#tab-compare-button").click()
    page.locator("#compare-prompts textarea").fill("\n".join(UNSEEN))
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("radio", name="Grid").click()
    cells = page.locator(".grid-cell")
    expect(cells).to_have_count(2 * len(UNSEEN))
    snap(page, "loop-6-compare-grid")
    page.get_by_role("radio", name="Side by side").click()
    tuned = {}
    for option in page.get_by_role("option").all():
        option.click()
        prompt, seed = re.match(
            r"(.+) · seed (\d+)", page.locator(".compare-prompt").inner_text()
        ).groups()
        shown = page.locator("[data-part=side] img[data-img=tuned]")
        answer = page.request.get(page.url.split("/#")[0] + shown.get_attribute("src"))
        tuned[prompt, int(seed)] = Image.open(io.BytesIO(answer.body())).convert("RGB")
    snap(page, "loop-7-compare-side-by-side")
    assert {prompt for prompt, _ in tuned} == set(UNSEEN)
    return tuned


def export(page: Page, folder: Path) -> dict[str, Path]:
    """The LoRA's files, downloaded."""
    page.locator("#tab-export-button").click()
    page.locator("#export-name input").fill("My blue taste")
    page.get_by_role("button", name="Export the LoRA").click()
    links = page.get_by_role("link", name="Download")
    expect(links.first).to_be_visible()
    snap(page, "loop-8-export")
    files = {}
    for link in links.all():
        with page.expect_download() as started:
            link.click()
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        form = "diffusers" if "diffusers" in path.name or "pytorch" in path.name else "kohya"
        if path.suffix == ".safetensors":
            files[form] = path
    return files


# --- the other tool: diffusers' own pipeline -----------------------------------------------------


def fresh_pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(STARTER_PATH, dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline, prompt: str, seed: int) -> Image.Image:
    """What the studio draws for a seed, with nothing of the studio but the numbers it begins at."""
    settings = SamplingSettings()
    size = pipeline.unet.config.sample_size
    start = torch.randn(
        1,
        pipeline.unet.config.in_channels,
        size,
        size,
        generator=torch.Generator().manual_seed(seed),
    )
    noise = torch.Generator().manual_seed((seed + 1) * STREAM_PRIME % 2**63)
    return pipeline(
        prompt,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        eta=settings.eta,
        latents=start,
        generator=noise,
    ).images[0]


def assert_alike(one: Image.Image, other: Image.Image) -> None:
    """The same but for rounding: sums in another order, and the export's half precision."""
    difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
    assert difference.mean() < 0.5, f"mean difference {difference.mean():.2f} of 255"
    assert difference.max() <= 16, f"largest difference {difference.max()} of 255"
