"""Pictures, exports and the story as they are served."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import time
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pictures

from studio.pictures.files import MOST_BYTES, parameters_of
from studio.pictures.infotext import Parameters
from studio.settings import (
    SessionSettings,
)
from studio.store import (
    Export,
    KnownModel,
    Store,
)
from studio.ui import images
from studio.ui.app import build
from studio.ui.dropin import MADE
from studio.ui.images import THUMBNAIL_PX
from tests.browser import seed
from tests.support.factories import finish, make_image, pick


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


@pytest.fixture
def picture(store: Store):
    session = store.create_session("Pictures", SessionSettings(prompts=("a lion",)))
    image = make_image(store, session.id)
    path = store.image_path(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (8, 8), "red").save(path)
    return store.add_image(image)


def test_a_picture_is_served_by_its_id(client, picture):
    for path in (f"/images/{picture.id}", f"/images/{picture.id}/master"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert "immutable" in answer.headers["cache-control"]


def test_what_is_not_a_picture_is_not_found(client, picture, store):
    store.image_path(picture).unlink()
    gone = client.get(f"/images/{picture.id}")
    assert gone.status_code == 404
    assert "missing" in gone.text
    for path in ("/images/none", "/images/..%2f..%2fstudio.sqlite", "/images/%2e%2e/master"):
        assert client.get(path).status_code == 404


def test_a_thumbnail_is_small_and_says_when_its_picture_is_gone(client, picture, store):
    answer = client.get(f"/images/{picture.id}/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg"
    path = store.image_path(picture)
    Pictures.new("RGB", (400, 200), "red").save(path)
    small = Pictures.open(io.BytesIO(client.get(f"/images/{picture.id}/thumbnail").content))
    assert small.size == (THUMBNAIL_PX, THUMBNAIL_PX // 2)
    path.write_bytes(b"not a picture")
    assert client.get(f"/images/{picture.id}/thumbnail").status_code == 404
    path.unlink()
    assert client.get(f"/images/{picture.id}/thumbnail").status_code == 404
    assert client.get("/images/none/thumbnail").status_code == 404


def test_only_the_files_of_an_export_are_served(client, store):
    session = store.create_session("Exports", SessionSettings(prompts=("a lion",)))
    seed.add_pairs(store, session, 4)
    seed.pick_all(store, session)
    adapter = seed.learn(store, session)
    made = Export("e1", session.id, adapter.id, "Blue", ("Blue.safetensors",), {}, time.time())
    folder = store.export_path(session.id, made.id)
    folder.mkdir(parents=True)
    (folder / "Blue.safetensors").write_bytes(b"lora")
    (folder / "secret.txt").write_text("no")
    store.add_export(made)
    good = client.get(f"/exports/{session.id}/e1/Blue.safetensors")
    assert good.content == b"lora"
    assert "attachment" in good.headers["content-disposition"]
    for path in (
        f"/exports/{session.id}/e1/secret.txt",
        f"/exports/{session.id}/e1/..%2f..%2fstudio.sqlite",
        f"/exports/{session.id}/e2/Blue.safetensors",
        "/exports/none/e1/Blue.safetensors",
    ):
        assert client.get(path).status_code == 404, path


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
    found = parameters_of(answer.content)
    assert found.prompt == image.prompt
    assert found.negative_prompt == "blurry, grey"
    assert (found.seed, found.guidance, found.eta) == (2**31, 4.5, 1.0)
    assert (found.width_px, found.height_px, found.steps) == (256, 256, 20)
    assert found.loras == (("First round 1", 0.75),)
    assert (found.sampler, found.model_hash, found.model) == ("DDIM", "0123456789", "")
    with (
        Pictures.open(io.BytesIO(answer.content)) as saved,
        Pictures.open(store.image_path(image)) as kept,
    ):
        assert saved.tobytes() == kept.tobytes()
    base = drawn(store, session, purpose="preview")
    found = parameters_of(client.get(f"/images/{base.id}/download").content)
    assert (found.loras, found.model, found.sampler) == ((), "starter", "DDIM")
    store.remember_model(KnownModel("starter", "a flow", "sdxl_rf", "", 64, 1, 1))
    assert parameters_of(client.get(f"/images/{base.id}/download").content).sampler == "Euler"
    store.image_path(base).unlink()
    assert client.get(f"/images/{base.id}/download").status_code == 404
    assert client.get("/images/none/download").status_code == 404


def test_the_settings_of_a_file_are_read_or_refused_with_a_sentence(client, store, session):
    image = drawn(store, session)
    saved = client.get(f"/images/{image.id}/download").content
    answer = client.post("/parameters", content=saved).json()
    assert answer["ok"]
    assert MADE.validate_json(answer["made"]).prompt == image.prompt
    for content, sentence in (
        (store.image_path(image).read_bytes(), "does not say how"),
        (b"", "not a PNG, JPEG, WebP or AVIF"),
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

    def look(data: bytes) -> Parameters:
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            on_the_loop.append(asyncio.get_running_loop())
        return parameters_of(data)

    monkeypatch.setattr(images, "parameters_of", look)
    assert client.post("/parameters", content=saved).json()["ok"]
    assert not on_the_loop


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


def test_a_thumbnail_is_made_once_for_all_pictures_of_one_content(client, store, home):
    session = store.create_session("Alike", SessionSettings())
    one, two, other = (drawn(store, session) for _ in range(3))
    store.image_path(two).write_bytes(store.image_path(one).read_bytes())
    first, second, third = (
        client.get(f"/images/{image.id}/thumbnail").content for image in (one, two, other)
    )
    assert first == second != third
    [kept, _] = sorted((home / "thumbnails").iterdir(), key=lambda path: path.read_bytes() != first)
    kept.write_bytes(b"not made again")
    assert client.get(f"/images/{two.id}/thumbnail").content == b"not made again"


def test_what_a_row_says_of_its_content_is_not_believed(client, store):
    session = store.create_session("Alike", SessionSettings())
    one = drawn(store, session)
    sha256 = hashlib.sha256(store.image_path(one).read_bytes()).hexdigest()
    liar = drawn(store, session, picture_sha256=sha256)
    shown = [client.get(f"/images/{image.id}/thumbnail").content for image in (one, liar)]
    assert shown[0] != shown[1]


def test_a_small_copy_goes_with_its_erased_picture(client, store, home):
    session = store.create_session("Erased", SessionSettings())
    gone = drawn(store, session)
    client.get(f"/images/{gone.id}/thumbnail")
    store.delete_images(session.id, [gone.id])
    assert client.get(f"/images/{gone.id}/thumbnail").status_code == 200
    store.erase_images(session.id, [gone.id])
    assert list((home / "thumbnails").iterdir()) == []
    for path in ("", "/thumbnail", "/master", "/download"):
        assert client.get(f"/images/{gone.id}{path}").status_code == 404


def test_a_full_disk_keeps_no_thumbnail_from_being_shown(client, store, home, picture):
    (home / "thumbnails").write_text("a file where the folder should be")
    assert client.get(f"/images/{picture.id}/thumbnail").status_code == 200
