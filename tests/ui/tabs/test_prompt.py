"""The Prompt tab: prompts, settings from a picture, sizes, and the escaping of what is typed."""

from __future__ import annotations

import re
from dataclasses import replace

import gradio as gr
import pytest

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
from studio.ui.tabs.prompt.from_picture import restored
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
    said = prompts.cut_prompts(StoreSnapshot(store))
    assert "for &lt;ever&gt;” is left out" in said
    assert said.count("<li>") == 1
    store.update_settings(session.id, session.settings)
    assert prompts.cut_prompts(StoreSnapshot(store)) == ""


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


def test_what_a_picture_says_becomes_the_sessions_settings():
    found = Parameters("a cat,\n sitting", "dogs", 28, "DDIM", 6.5, 9, 128, 192, 0.0, strength=0.5)
    settings, said = restored(replace(SETTINGS, prompts=("b", "a cat, sitting")), found)
    assert settings.prompts == ("a cat, sitting", "b")
    made = settings.sampling
    assert (made.steps, made.guidance, made.seed, made.negative_prompt) == (28, 6.5, 9, "dogs")
    assert (made.width_px, made.height_px, made.eta) == (128, 192, 1.0)
    assert said.startswith("Taken over: its prompt, negative prompt “dogs”, seed 9, 28 steps")
    assert "drawn by" not in said
    bare, said = restored(settings, Parameters("a dog", steps=5, sampler="Euler"))
    assert bare.sampling.negative_prompt == ""
    assert bare.sampling.seed == 9
    assert "no negative prompt, 5 steps. It was drawn by Euler" in said
    skipped, said = restored(settings, replace(found, clip_skip=2))
    assert skipped.sampling.clip_skip == 2
    assert "192 high, clip skip 2" in said
    again, said = restored(skipped, found)  # one that does not say so was drawn without
    assert again.sampling.clip_skip == 1
    assert "clip skip 1" in said
    xl = KnownModel("/m", "m", "sdxl", "Stable Diffusion XL", 1024, 1, 1)
    assert restored(settings, replace(found, clip_skip=2), xl)[0].sampling.clip_skip == 1
    with pytest.raises(SettingsError, match="multiple of 8"):
        restored(SETTINGS, replace(found, width_px=100))


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
    assert fitting_sizes("starter", None) == [(64, 64)]
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
    assert "starter model is in use" in model.use_starter(store, session, click())
    assert store.session(session.id).settings.base_model == "starter"
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
