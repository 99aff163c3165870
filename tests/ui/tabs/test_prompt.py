"""The Prompt tab: prompts, settings from a picture, sizes, and the escaping of what is typed."""

from __future__ import annotations

import re
from dataclasses import replace

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.pictures.infotext import Parameters
from studio.settings import (
    SamplingSettings,
    SessionSettings,
    SettingsError,
)
from studio.store import (
    KnownModel,
    Session,
    Store,
)
from studio.ui.sessions import begin_session
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.export import exports
from studio.ui.tabs.prompt import model, preview, prompts
from studio.ui.tabs.prompt.from_picture import nearest_size, restored
from studio.ui.tabs.prompt.sizes import fitting_sizes, size_chips
from studio.ui.tabs.train import strip


def test_prompts_are_the_lines_without_blanks_and_repeats(tmp_path):
    settings = prompts.with_prompts(
        SessionSettings(), "  a  lion \n\n\na {cat|dog}\na lion\n", tmp_path
    )
    assert settings.prompts == ("a lion", "a {cat|dog}")


@pytest.mark.parametrize(
    ("text", "sentence"), [("a {cat|dog", "both braces"), ("a __ghost__", "ghost.txt")]
)
def test_a_prompt_that_cannot_be_read_is_answered_with_a_sentence(text, sentence, tmp_path):
    with pytest.raises(SettingsError, match=sentence):
        prompts.with_prompts(SessionSettings(), f"a lion\n{text}", tmp_path)


@pytest.mark.parametrize("text", ["", "   \n\t\n"])
def test_no_prompt_at_all_is_answered_with_a_sentence(text, tmp_path):
    with pytest.raises(SettingsError, match="no prompt"):
        prompts.with_prompts(SessionSettings(), text, tmp_path)


def test_what_a_model_does_not_read_is_named_as_long_as_it_is_written(store):
    session = begin_session(store, "Long")
    long = "a cat on <b>a mat</b> and so on for ever and ever and ever"
    store.update_settings(session.id, replace(session.settings, prompts=("a dog", long)))
    [job] = store.jobs(session.id, kind="preview")
    store.update_job(job.id, state="done", result={"unread": {long: "for <ever>", "old": "x"}})
    said = prompts.prompt_notes(StoreSnapshot(store))
    assert "for &lt;ever&gt;” is left out" in said
    assert said.count("<li>") == 1
    store.update_settings(session.id, session.settings)
    assert prompts.prompt_notes(StoreSnapshot(store)) == ""


NASTY = "<img src=x onerror=alert(1)> `${alert(1)}` {{value}} \"'"


def test_what_the_artist_types_is_never_html(store: Store):
    session = begin_session(store, NASTY[:100])
    settings = replace(session.settings, prompts=(NASTY,), base_model=NASTY)
    store.update_settings(session.id, settings)
    store.add_job(session.id, "inspect", {"path": NASTY})
    snapshot = StoreSnapshot(store)
    shown = preview.preview(snapshot) + strip.strip_of_rounds(snapshot)
    shown += model.model_card(snapshot) + model.inspected_model(snapshot)
    shown += exports.export_cards(snapshot, is_local=True)
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown


SETTINGS = SessionSettings(prompts=("a red apple", "two lions"))


def test_what_a_picture_says_becomes_the_sessions_settings(tmp_path):
    found = Parameters("a cat,\n sitting", "dogs", 28, "DDIM", 6.5, 9, 128, 192, 0.0)
    before = replace(SETTINGS, prompts=("b", "a cat, sitting"))
    settings, said = restored(before, found, tmp_path)
    assert settings.prompts == ("a cat, sitting", "b")
    made = settings.sampling
    assert (made.steps, made.guidance, made.seed, made.negative_prompt) == (28, 6.5, 9, "dogs")
    assert (made.width_px, made.height_px, made.eta) == (128, 192, 1.0)
    assert said == (
        "Taken over: its prompt, negative prompt “dogs”, seed 9, 28 steps, guidance 6.5, "
        "128 × 192 pixels."
    )
    bare, said = restored(settings, Parameters("a dog", steps=5, sampler="Euler"), tmp_path)
    assert bare.sampling.negative_prompt == ""
    assert bare.sampling.seed == 9
    assert "no negative prompt, 5 steps. It was drawn by Euler" in said
    skipped, said = restored(settings, replace(found, clip_skip=2), tmp_path)
    assert skipped.sampling.clip_skip == 2
    assert "192 pixels, clip skip 2" in said
    again, said = restored(skipped, found, tmp_path)  # one without was drawn without
    assert again.sampling.clip_skip == 1
    assert "clip skip 1" in said
    xl = KnownModel("/m", "m", "sdxl", "Stable Diffusion XL", 1024, 1, 1)
    assert restored(settings, replace(found, clip_skip=2), tmp_path, xl)[0] == settings
    flow = replace(xl, family="sdxl_rf")
    assert "drawn by" not in restored(settings, replace(found, sampler="Euler"), tmp_path, flow)[1]
    assert (
        "drawn by DDIM; the studio draws with Euler" in restored(settings, found, tmp_path, flow)[1]
    )


def test_signs_of_other_programs_are_named_under_the_prompts(store, session):
    store.set_last_session(session.id)
    signs = ("a <b>cat</b> <lora:ink:0.8>", "a [cat|dog] <lora:blue:1>")
    store.update_settings(session.id, replace(SETTINGS, prompts=signs))
    shown = prompts.prompt_notes(StoreSnapshot(store))
    assert shown.count("loads no LoRA here") == 1
    assert "“&lt;lora:ink:0.8&gt;”" in shown
    assert "“[cat|dog]” does not alternate" in shown
    store.update_settings(session.id, SETTINGS)
    assert prompts.prompt_notes(StoreSnapshot(store)) == ""


GOOD = Parameters("a cat", "dogs", 28, "DDIM", 6.5, 9, 128, 192)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"steps": 200}, "Not taken over: 200 steps. Steps must be between 1 and 150."),
        ({"steps": 0}, "Not taken over: 0 steps. Steps must"),
        ({"guidance": 31.0}, "Not taken over: guidance 31. Guidance must be between 0 and 30."),
        ({"seed": 2**64 - 1}, "Not taken over: seed 18446744073709551615. The seed must"),
        ({"clip_skip": 99}, "Not taken over: clip skip 99. Clip skip must be"),
        ({"prompt": "a " * 1001}, "Not taken over: its prompt."),
        ({"prompt": "a {cat"}, "Not taken over: its prompt. “a {cat” cannot be read"),
        ({"negative_prompt": "x" * 2001}, "longer than 2000 characters"),
        ({"loras": (("blue", 0.8), ("ink", 1.0))}, "the LoRA “blue” at 0.8, “ink” at 1 that it"),
        ({"unread": ("Its soul is not read.",)}, "Its soul is not read."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_part_of_a_picture_stands_by_itself(tmp_path, changed, sentence):
    """What does not fit is named with the reason, and all else is taken over."""
    good, _ = restored(SETTINGS, GOOD, tmp_path)
    settings, said = restored(SETTINGS, replace(GOOD, **changed), tmp_path)
    assert sentence in said
    [name] = changed
    if name in ("prompt", "loras", "unread", "clip_skip"):
        assert settings.sampling == good.sampling
    else:
        assert settings.prompts == good.prompts
        kept = getattr(SETTINGS.sampling, name)
        assert settings.sampling == replace(good.sampling, **{name: kept})


def test_everyday_settings_of_turbo_models_are_taken_over(tmp_path):
    for steps, guidance in ((1, 1.0), (1, 0.0), (4, 1.5)):
        found = replace(GOOD, steps=steps, guidance=guidance)
        settings, said = restored(SETTINGS, found, tmp_path)
        assert (settings.sampling.steps, settings.sampling.guidance) == (steps, guidance)
        assert "Not taken over" not in said


def test_a_size_that_cannot_be_drawn_becomes_the_nearest(tmp_path):
    found = replace(GOOD, width_px=513, height_px=700)
    settings, said = restored(SETTINGS, found, tmp_path)
    assert (settings.sampling.width_px, settings.sampling.height_px) == (512, 704)
    assert "512 × 704 pixels, the nearest size to its 513 × 700" in said


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((512, 768), (512, 768)),
        ((4096, 2048), (2048, 1024)),  # of the same shape
        ((100_000, 10), (2048, 64)),
        ((1, 1), (64, 64)),
        ((1024, 2051), (1024, 2048)),
        ((10**19, 10**19), (2048, 2048)),
    ],
)
def test_the_nearest_size(size, nearest):
    assert nearest_size(*size) == nearest


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_every_size_has_one_near_that_can_be_drawn(width, height):
    width_px, height_px = nearest_size(width, height)
    SamplingSettings(width_px=width_px, height_px=height_px)
    assert nearest_size(width_px, height_px) == (width_px, height_px)


# --- sizes ---------------------------------------------------------------------------------------

MODEL = KnownModel("/models/one", "one", "sd1", "Stable Diffusion 1", 512, 10, 20)


@pytest.mark.parametrize(
    ("family", "size_px", "some", "count"),
    [
        ("sd1", 512, {(512, 512), (512, 640), (768, 512)}, 5),
        ("sd2", 768, {(768, 768), (768, 960), (1152, 768)}, 5),
        ("sdxl", 1024, {(1024, 1024), (896, 1152), (1152, 896), (832, 1216), (1536, 640)}, 9),
    ],
)
def test_sizes_fit_the_family(family, size_px, some, count):
    found = fitting_sizes("/models/one", replace(MODEL, family=family, size_px=size_px))
    assert found[0] == (size_px, size_px)
    assert some <= set(found)
    assert len(set(found)) == len(found) == count
    for width_px, height_px in found:
        SamplingSettings(width_px=width_px, height_px=height_px)
        assert 0.5 < width_px * height_px / size_px**2 < 1.6


def test_the_starter_has_its_own_size_and_an_unknown_model_none():
    assert fitting_sizes("starter", None) == [(256, 256)]
    assert fitting_sizes("/models/one", None) == []
    assert fitting_sizes("/models/one", replace(MODEL, family="")) == []


def test_the_size_in_use_is_marked():
    sampling = SamplingSettings(width_px=512, height_px=768)
    chips = size_chips("/models/one", replace(MODEL, name="<b>"), sampling)
    assert re.findall(r"data-width='(\d+)' data-height='(\d+)' aria-pressed='true'", chips) == [
        ("512", "768")
    ]
    assert "&lt;b&gt;" in chips


# --- the buttons of the model --------------------------------------------------------------------


def click(**data: str) -> gr.EventData:
    return gr.EventData(None, data)


def test_a_model_of_the_library_is_used_at_its_own_size(store: Store, session: Session) -> None:
    store.remember_model(MODEL)
    assert "one is in use now" in model.use_known(store, session, click(name=MODEL.base_model))
    settings = store.session(session.id).settings
    assert (settings.base_model, settings.sampling.width_px) == (MODEL.base_model, 512)
    assert settings.sampling.eta == 1
    flow = replace(MODEL, base_model="/models/flow", family="sdxl_rf")
    store.remember_model(flow)
    model.use_known(store, session, click(name=flow.base_model))
    assert store.session(session.id).settings.sampling.eta == 0.3
    assert "starter model is in use" in model.use_starter(store, session, click())
    settings = store.session(session.id).settings
    assert (settings.base_model, settings.sampling.eta) == ("starter", 1)
    with pytest.raises(SettingsError, match="look again"):
        model.use_known(store, session, click(name="/models/gone"))


def test_an_inspected_model_is_used_or_downloaded(store: Store, session: Session) -> None:
    store.set_last_session(session.id)
    assert model.use_inspected(store, session, click()) == "Look at the model first."
    model.download_model(store, session, click())
    assert not store.jobs(session.id, kind="download")
    job = store.add_job(session.id, "inspect", {"path": "someone/one"})
    model.download_model(store, session, click())
    [download] = store.jobs(session.id, kind="download")
    assert download.payload == {"repo": "someone/one"}
    model.stop_download(store, session, click())
    assert store.job(download.id).state == "cancelled"
    assert store.job(job.id).state == "queued"


def test_a_folder_is_searched_until_it_is_forgotten(store: Store, session: Session) -> None:
    store.set_model_folders(["/models", "/others"])
    store.remember_model(MODEL)
    model.search(store, session, click())
    assert [job.kind for job in store.jobs(session.id)] == ["library"]
    model.forget_folder(store, session, click(name="/models"))
    assert store.model_folders() == ["/others"]
    assert store.known_model(MODEL.base_model) is None
