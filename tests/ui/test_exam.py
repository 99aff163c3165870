"""What the exam, the grid and saved pictures are made of, without a browser."""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pictures

from studio.pictures.files import MOST_BYTES, text_of_png
from studio.pictures.infotext import Parameters, read
from studio.settings import SessionSettings, SettingsError
from studio.statistics import Tally
from studio.store import KnownModel, Store
from studio.ui import images
from studio.ui.app import build
from studio.ui.page import Look
from studio.ui.starter_pack import starter_concepts
from studio.ui.tabs import compare, exam, grid, prompt
from tests.store.test_exams import QUESTIONS
from tests.store.test_store import finish, pick
from tests.support.factories import make_image

SETTINGS = SessionSettings(prompts=("a red apple", "two lions"))


@pytest.fixture
def adapter(store, session, add_pairs):
    store.set_last_session(session.id)
    pick(store, add_pairs(4))
    return finish(store, session.id, store.request_round(session.id))[1]


@pytest.fixture
def client(store: Store):
    with TestClient(build(store), base_url="http://127.0.0.1") as client:
        yield client


def drawn(store, session, **changes):
    """A picture of four colours, in the store."""
    image = make_image(store, session.id, **changes)
    path = store.image_path(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.effect_noise((64, 64), 50).convert("RGB").save(path)
    return store.add_image(image)


# --- what an exam asks ---------------------------------------------------------------------------


def test_an_exam_asks_for_things_it_has_not_practised_nor_will():
    asked = exam.exam_prompts(" \n ", SETTINGS, frozenset({"an owl in a tree", "The Fox."}))
    assert set(asked) == set(starter_concepts()) - {"red apple", "owl", "fox"}
    assert "lion" in asked  # “lions” is another word
    again = exam.exam_prompts("", SETTINGS, frozenset())
    assert again != exam.exam_prompts("", SETTINGS, frozenset())


@pytest.mark.parametrize("typed", ["a  Lion", "lion", "the lion.", "a snail\nA LION"])
def test_a_prompt_that_was_trained_on_is_refused(typed):
    with pytest.raises(SettingsError, match="was practised"):
        exam.exam_prompts(typed, SETTINGS, frozenset({"a lion"}))
    assert exam.exam_prompts("a lion cub\n a lion cub", SETTINGS, frozenset({"a lion"})) == [
        "a lion cub"
    ]


def test_nothing_left_to_ask_is_a_sentence():
    with pytest.raises(SettingsError, match="write prompts of your own"):
        exam.exam_prompts("", SETTINGS, frozenset(starter_concepts()))
    with pytest.raises(SettingsError, match="longer than"):
        exam.exam_prompts("a" * 2001, SETTINGS, frozenset())


def test_questions_take_the_prompts_in_turn_with_fresh_seeds():
    asked = exam.questions(["a", "b", "c"], 5)
    assert [prompt_ for prompt_, _ in asked] == ["a", "b", "c", "a", "b"]
    assert len({seed for _, seed in asked}) == 5
    for pairs in (None, 0, 101):
        with pytest.raises(SettingsError, match="between 1 and 100"):
            exam.questions(["a"], pairs)


def test_the_exam_is_shown_without_a_word_about_which_is_which(store, session, adapter):
    made = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS)
    for pair in made.pairs[:2]:
        two = [store.add_image(make_image(store, session.id)).id for _ in range(2)]
        store.set_exam_pictures(pair.id, *two)
    shown = exam.state(Look(store))
    assert set(shown["exam"]["pairs"][0]) == {"id", "prompt", "left", "right"}
    assert shown["exam"]["drawing"] == "2 of 4 pairs drawn."
    assert shown["result"] is None
    first = store.exam(made.id).pairs[0]
    store.answer_exam("a", first.id, "left")
    after = exam.state(Look(store))["exam"]
    assert [pair["id"] for pair in after["pairs"]] == [made.pairs[1].id]


def test_few_pairs_prove_nothing(store, session, adapter):
    made = store.add_exam(session.id, adapter.id, 0.8, QUESTIONS[:3])
    for pair in made.pairs:
        two = [store.add_image(make_image(store, session.id)).id for _ in range(2)]
        store.set_exam_pictures(pair.id, *two)
        store.answer_exam(f"a-{pair.id}", pair.id, pair.tuned_side)
    result = exam.state(Look(store))["result"]
    assert result["sentence"] == "You chose the tuned model in 3 of 3, 100% (44–100)."
    assert "not more than chance" in result["meaning"]
    assert exam.best_strength(Look(store), adapter.id) is None


@pytest.mark.parametrize(
    ("tally", "best", "said"),
    [
        (Tally(18, 2), 0.8, "chance does not explain it. Strength 0.8 is recommended"),
        (Tally(10, 10), None, "not more than chance"),
        (Tally(2, 18), None, "prefer the base model: a lower strength"),
        (Tally(0, 0, 20), None, "not more than chance"),
    ],
)
def test_what_a_result_means_is_said(tally, best, said):
    assert said in exam._meaning(tally, best)


# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": " \n "}, "at least one prompt"),
        ({"first": -1}, "Seeds are whole numbers"),
        ({"count": None}, "Seeds are whole numbers"),
        ({"adapter_ids": [None]}, "let a round learn first"),
        ({"numbers": "0, half"}, "Strengths are numbers"),
        ({"numbers": " , "}, "Strengths lie between"),
        ({"numbers": "3"}, "Strengths lie between"),
        ({"numbers": "nan"}, "Strengths lie between"),
        ({"count": 1e9}, "at most 144"),
    ],
)
def test_what_no_grid_can_be_drawn_of_is_said(changes, sentence):
    good = {"text": "a\nb\na", "first": 5, "count": 2, "adapter_ids": ["x"], "numbers": "1 0;0.50"}
    assert grid.grid_payload(**good) == {
        "prompts": ["a", "b"],
        "seeds": [5, 6],
        "adapter_ids": ["x"],
        "strengths": [0.0, 0.5, 1.0],
    }
    with pytest.raises(SettingsError, match=sentence):
        grid.grid_payload(**good | changes)


def test_a_grid_that_drew_nothing_is_not_offered(store, session, adapter):
    axes = {"prompts": ["a"], "seeds": [1], "adapter_ids": [adapter.id], "strengths": [1.0]}
    whole = store.add_job(session.id, "grid", axes)
    store.update_job(whole.id, state="done", result={"image_ids": ["i"]})
    empty = store.add_job(session.id, "grid", axes)
    store.update_job(empty.id, state="failed", message="No.")
    shown = grid.grids(Look(store))
    assert [one["id"] for one in shown["grids"]] == [whole.id]
    assert shown["newest"]["id"] == whole.id
    assert shown["newest"]["images"] == ["/images/i"]
    assert (shown["job"]["state"], shown["job"]["message"]) == ("failed", "No.")


# --- saved pictures ------------------------------------------------------------------------------


def test_a_saved_picture_says_how_it_was_made(client, store, session, adapter):
    sampling = replace(session.settings.sampling, negative_prompt="blurry, grey", guidance=4.5)
    image = drawn(
        store,
        session,
        purpose="compare",
        prompt="naïve café: “a”, b",
        seed=2**31,
        adapter_id=adapter.id,
        strength=0.75,
        sampling=sampling,
        base_hash="0123456789abcdef",
    )
    answer = client.get(f"/images/{image.id}/download")
    assert answer.headers["content-type"] == "image/png"
    name = "na-ve-caf-a-b-2147483648.png"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    found = read(text_of_png(answer.content))
    assert found.prompt == image.prompt
    assert found.negative_prompt == "blurry, grey"
    assert (found.seed, found.guidance, found.eta) == (2**31, 4.5, 1.0)
    assert (found.width_px, found.height_px, found.steps) == (64, 64, 20)
    assert (found.lora, found.strength) == ("First round 1", 0.75)
    assert (found.sampler, found.model_hash, found.model) == ("DDIM", "0123456789", "")
    with (
        Pictures.open(io.BytesIO(answer.content)) as saved,
        Pictures.open(store.image_path(image)) as kept,
    ):
        assert saved.tobytes() == kept.tobytes()
    base = drawn(store, session, purpose="preview")
    found = read(text_of_png(client.get(f"/images/{base.id}/download").content))
    assert (found.lora, found.strength, found.model) == ("", None, "starter")
    store.image_path(base).unlink()
    assert client.get(f"/images/{base.id}/download").status_code == 404
    assert client.get("/images/none/download").status_code == 404


def test_the_settings_of_a_file_are_read_or_refused_with_a_sentence(client, store, session):
    image = drawn(store, session)
    saved = client.get(f"/images/{image.id}/download").content
    answer = client.post("/parameters", content=saved).json()
    assert answer["ok"]
    assert read(answer["text"]).prompt == image.prompt
    for content, sentence in (
        (store.image_path(image).read_bytes(), "does not say how"),
        (b"", "not a PNG"),
        (b"0" * (MOST_BYTES + 1), "too large"),
    ):
        answer = client.post("/parameters", content=content).json()
        assert not answer["ok"]
        assert sentence in answer["sentence"]
    foreign = {"origin": "http://elsewhere.example"}
    assert client.post("/parameters", content=saved, headers=foreign).status_code == 403


def test_the_text_of_a_picture_is_read_beside_the_event_loop(client, store, session, monkeypatch):
    saved = client.get(f"/images/{drawn(store, session).id}/download").content
    on_the_loop = []

    def look(text: str) -> Parameters:
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            on_the_loop.append(asyncio.get_running_loop())
        return read(text)

    monkeypatch.setattr(images, "read", look)
    assert client.post("/parameters", content=saved).json()["ok"]
    assert not on_the_loop


def test_what_a_picture_says_becomes_the_sessions_settings():
    found = Parameters("a cat,\n sitting", "dogs", 28, "DDIM", 6.5, 9, 128, 192, 0.0, strength=0.5)
    settings, said = prompt.restored(replace(SETTINGS, prompts=("b", "a cat, sitting")), found)
    assert settings.prompts == ("a cat, sitting", "b")
    made = settings.sampling
    assert (made.steps, made.guidance, made.seed, made.negative_prompt) == (28, 6.5, 9, "dogs")
    assert (made.width_px, made.height_px, made.eta) == (128, 192, 1.0)
    assert said.startswith("Taken over: its prompt, negative prompt “dogs”, seed 9, 28 steps")
    assert "drawn by" not in said
    bare, said = prompt.restored(settings, Parameters("a dog", steps=5, sampler="Euler"))
    assert bare.sampling.negative_prompt == ""
    assert bare.sampling.seed == 9
    assert "no negative prompt, 5 steps. It was drawn by Euler" in said
    skipped, said = prompt.restored(settings, replace(found, clip_skip=2))
    assert skipped.sampling.clip_skip == 2
    assert "192 high, clip skip 2" in said
    again, said = prompt.restored(skipped, found)  # one that does not say so was drawn without
    assert again.sampling.clip_skip == 1
    assert "clip skip 1" in said
    xl = KnownModel("/m", "m", "sdxl", "Stable Diffusion XL", 1024, 1, 1)
    assert prompt.restored(settings, replace(found, clip_skip=2), xl)[0].sampling.clip_skip == 1
    with pytest.raises(SettingsError, match="multiple of 8"):
        prompt.restored(SETTINGS, replace(found, width_px=100))


def test_what_a_picture_says_is_compared_again(store, session, adapter):
    look = Look(store)
    found = Parameters("a cat", seed=9, steps=20, lora="First round 1", strength=3.0)
    values, said = compare.restored(look, found)
    assert values == ["a cat", 9, 1, adapter.id, 2.0]
    assert said == "Filled in from the picture."
    _, said = compare.restored(look, replace(found, lora="blue", steps=30, negative_prompt="dogs"))
    assert "drawn with “blue”, which is not of this session" in said
    assert "another setting for steps, negative prompt: drop the picture on Prompt" in said
    with pytest.raises(SettingsError, match="names no prompt"):
        compare.restored(look, Parameters())


# --- the story -----------------------------------------------------------------------------------


def test_the_story_is_saved_in_three_forms(client, store, session, adapter):
    address = f"/stories/{session.id}/story."
    assert client.get(address + "png").status_code == 404
    for adapter_id in (None, adapter.id):
        for prompt_ in session.settings.shown_prompts:
            drawn(store, session, purpose="preview", prompt=prompt_, adapter_id=adapter_id)
    for form in ("png", "webp", "gif"):
        answer = client.get(address + form)
        assert answer.status_code == 200
        with Pictures.open(io.BytesIO(answer.content)) as picture:
            assert picture.format == form.upper()
            assert getattr(picture, "n_frames", 1) == (1 if form == "png" else 2)
    assert client.get(address + "exe").status_code == 404
    assert client.get("/stories/none/story.png").status_code == 404
    for image in store.images(session.id, "preview"):
        store.image_path(image).write_bytes(b"broken")
    broken = client.get(address + "gif")
    assert broken.status_code == 404
    assert "cannot be read" in broken.text
