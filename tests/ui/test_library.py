"""The model library: folders of other tools, what is known of what lies there, and sessions whose
model has changed or moved."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from studio import models
from studio.bench.families import make_pipeline, write_checkpoint
from studio.settings import (
    STARTER_PATH,
    STARTER_SIZE_PX,
    SamplingSettings,
    SessionSettings,
    TrainingSettings,
)
from studio.store import KnownModel, Session, Store, StoreError
from studio.store.library import write_settings
from studio.ui.app import build
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt import library, model
from studio.worker.errors import WorkerError
from studio.worker.loop import Worker
from studio.worker.model_library import models_in

SETTINGS = SamplingSettings(steps=3, width_px=64, height_px=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("one") / "one.safetensors", make_pipeline("sd1"), "sd1"
    )


@pytest.fixture
def webui(checkpoint: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """A folder as A1111 has it: two models, a picture, and what is none."""
    root = tmp_path / "webui"
    folder = root / "models" / "Stable-diffusion"
    (folder / "mine").mkdir(parents=True)
    shutil.copy(checkpoint, folder / "mine" / "one.safetensors")
    PIL.Image.new("RGB", (600, 800), "teal").save(folder / "mine" / "one.preview.png")
    shutil.copytree(tiny_model, folder / "tiny")
    (folder / "broken.safetensors").write_bytes(b"<html>" + b" " * 600)
    (folder / "old.ckpt").write_bytes(b"\x80\x02")
    (folder / "venv").mkdir()
    shutil.copy(checkpoint, folder / "venv" / "not.safetensors")
    save_file({"decoder.x": torch.zeros(1)}, folder / "mine" / "other.vae.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, folder / "style.safetensors")
    (root / "models" / "Lora").mkdir()
    shutil.copy(folder / "style.safetensors", root / "models" / "Lora")
    return root


@pytest.fixture
def worker(store: Store) -> Worker:
    return Worker(store, "cpu")


@pytest.fixture
def session(store: Store, webui: Path) -> Session:
    path = webui / "models" / "Stable-diffusion" / "tiny"
    settings = SessionSettings(
        base_model=str(path),
        prompts=("a cat",),
        sampling=SETTINGS,
        training=TrainingSettings(rank=2, updates_base=1, updates_per_pick=0),
        queue_target=1,
        live=False,
    )
    made = store.create_session("First", settings)
    store.set_last_session(made.id)
    return made


def look_through(store: Store, worker: Worker, session: Session) -> dict:
    job = store.add_job(session.id, "library", {})
    while store.job(job.id).state in ("queued", "running"):
        worker.jobs.run_next()
    done = store.job(job.id)
    assert done.state == "done", done.message
    return done.result


def test_the_models_of_a_folder_are_found(
    store: Store, worker: Worker, session: Session, webui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_model_folders([str(webui)])
    found = look_through(store, worker, session)
    assert (found["models"], found["others"]) == (2, 2)
    assert any("is a web page" in one for one in found["problems"])
    assert any("is a LoRA" in one for one in found["problems"])
    one, tiny = store.usable_models()
    assert (one.name, one.family, one.size_px) == ("one", "sd1", 512)
    assert one.preview.endswith("one.preview.png")
    assert (tiny.name, tiny.preview) == ("tiny", "")
    assert one.bytes == Path(one.base_model).stat().st_size

    # what is as it was is not opened again; what has changed or gone is seen
    def opened(path: str) -> models.ModelInfo:
        asked.append(Path(path).name)
        return inspect(path)

    asked, inspect = [], models.inspect
    monkeypatch.setattr(models, "inspect", opened)
    assert look_through(store, worker, session) == found
    assert asked == []
    os.utime(one.base_model, ns=(1, 1))
    (webui / "models" / "Stable-diffusion" / "style.safetensors").unlink()
    assert look_through(store, worker, session)["others"] == 1
    assert asked == ["one.safetensors"]
    assert not any("style" in known.base_model for known in store.known_models())


@pytest.mark.parametrize(
    ("tool", "inside", "others"),
    [
        ("ComfyUI", "models/checkpoints/sub/a.safetensors", "models/loras/b.safetensors"),
        ("any", "deep/er/a.safetensors", "deep/.hidden/b.safetensors"),
        ("InvokeAI", "models/sd-1/main/a.safetensors", "node_modules/b.safetensors"),
    ],
)
def test_models_are_looked_for_where_the_tools_have_them(
    tmp_path: Path, tool: str, inside: str, others: str
) -> None:
    for name in (inside, others):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert list(models_in(str(tmp_path))) == [str(tmp_path / inside)]


def test_the_cache_of_the_hub_gives_names(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_model, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    assert list(models_in(str(tmp_path))) == ["someone/tiny"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
@pytest.mark.parametrize("place", ["", "models/Stable-diffusion"])
def test_links_are_followed_once_and_loops_end(place, tmp_path, monkeypatch):
    root, away = tmp_path / "tool", tmp_path / "disk"
    here = root / place
    for folder in (here / "own", away / "deep"):
        folder.mkdir(parents=True)
    (here / "own" / "a.safetensors").touch()
    (away / "deep" / "b.safetensors").touch()
    (here / "linked").symlink_to(away)
    (here / "linked again").symlink_to(away)
    (away / "deep" / "loop").symlink_to(here)
    (here / "own" / "self").symlink_to(here / "own")
    (here / "gone").symlink_to(tmp_path / "nowhere")
    looked, walk = [], os.walk

    def counted(*arguments, **options):
        for found in walk(*arguments, **options):
            looked.append(found[0])
            yield found

    monkeypatch.setattr(os, "walk", counted)
    found = list(models_in(str(root)))
    assert sorted(Path(one).name for one in found) == ["a.safetensors", "b.safetensors"]
    assert len(looked) <= 7  # four folders, and the three links that lead back to one of them
    (tmp_path / "link").symlink_to(root)
    assert len(list(models_in(str(tmp_path / "link")))) == 2


def test_a_session_remembers_its_model_and_says_when_it_has_changed(
    store: Store, worker: Worker, session: Session
) -> None:
    while worker.work():
        pass
    used = store.session(session.id).settings
    assert used.model_bytes == models.stamp(Path(used.base_model))[0]
    remembered = used.model_hash
    assert remembered == models.weights_hash(Path(session.settings.base_model))
    # what a form writes that was read before does not forget it
    store.update_settings(session.id, replace(session.settings, round_every=9))
    assert store.session(session.id).settings.model_hash == remembered
    assert library.model_problem(StoreSnapshot(store)) == ""

    weights = Path(session.settings.base_model) / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
    again = Worker(store, "cpu")
    job = store.add_job(session.id, "preview", {"prompts": ["a cat"], "adapter_id": None})
    again.jobs.run_next()
    assert "no longer the model that this session began with" in store.job(job.id).message
    said = library.model_problem(StoreSnapshot(store))
    assert "has changed since it was first used" in said
    assert "data-event='use_changed'" in said
    assert "data-event='use_copy'" not in said
    assert store.waiting_count(session.id) > 0
    store.take_changed_model(session.id)
    assert store.waiting_count(session.id) == 0
    while again.work():
        pass
    assert store.session(session.id).settings.model_hash not in ("", remembered)
    assert library.model_problem(StoreSnapshot(store)) == ""


def test_a_session_of_another_starter_says_so_and_goes_on_with_it_or_with_this_one(
    store: Store, tmp_path: Path
) -> None:
    old = tmp_path / "kept" / "the starter of before"
    shutil.copytree(STARTER_PATH, old)
    weights = old / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
    small = SamplingSettings(width_px=64, height_px=64, steps=2)
    settings = SessionSettings(
        prompts=("owl",),
        sampling=small,
        model_hash=models.weights_hash(old),
        model_bytes=models.stamp(old)[0],
    )
    session = store.create_session("made before", settings)
    store.set_last_session(session.id)
    worker = Worker(store, "cpu")
    with pytest.raises(WorkerError, match="no longer the model that this session began with"):
        worker.work()
    said = model.model_card(StoreSnapshot(store))
    assert "another starter model" in said
    assert "pictures, picks and rounds are kept" in said
    assert "Begin with the new starter model" in said
    assert "Go on with it" not in said

    store.set_model_folders([str(old.parent)])
    look_through(store, worker, session)
    assert str(old) in model.model_card(StoreSnapshot(store))
    store.move_model_of(session.id, str(old))
    assert store.session(session.id).settings.sampling == small
    assert library.model_problem(StoreSnapshot(store)) == ""

    store.change_settings(session.id, lambda now: replace(now, base_model="starter"))
    store.take_changed_model(session.id)
    now = store.session(session.id).settings
    assert (now.sampling.width_px, now.sampling.height_px) == (STARTER_SIZE_PX, STARTER_SIZE_PX)
    assert "another starter model" not in model.model_card(StoreSnapshot(store))


def test_a_model_that_has_moved_is_known_by_its_hash(
    store: Store, worker: Worker, session: Session, webui: Path, tmp_path: Path
) -> None:
    while worker.work():
        pass
    pairs = [one.id for one in store.waiting_pairs(session.id, 5)]
    assert pairs
    elsewhere = tmp_path / "elsewhere" / "renamed"
    elsewhere.parent.mkdir()
    shutil.move(session.settings.base_model, elsewhere)
    shutil.copytree(elsewhere, tmp_path / "elsewhere" / "as large")
    other = tmp_path / "elsewhere" / "as large" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + 1 for k, v in load_file(other).items()}, other)
    said = library.model_problem(StoreSnapshot(store))
    assert "is not there any more" in said
    assert "add the folder where it is now" in said
    store.set_model_folders([str(tmp_path / "elsewhere")])
    look_through(store, worker, session)
    said = library.model_problem(StoreSnapshot(store))
    assert f"data-name='{elsewhere}'" in said
    assert "as large" not in said
    with pytest.raises(StoreError, match="not the model"):
        store.move_model_of(session.id, str(tmp_path / "elsewhere" / "as large"))
    store.move_model_of(session.id, str(elsewhere))
    again = Worker(store, "cpu")
    while again.work():
        pass
    assert [one.id for one in store.waiting_pairs(session.id, 5)] == pairs
    assert library.model_problem(StoreSnapshot(store)) == ""


def test_a_round_is_not_begun_with_a_changed_model(
    store: Store, worker: Worker, session: Session
) -> None:
    while worker.work():
        pass
    settings = store.session(session.id).settings
    assert settings.model_hash
    with store.writing() as connection:  # as if its file had been another then
        write_settings(connection, session.id, replace(settings, model_hash="0" * 64))
    with pytest.raises(Exception, match="no longer the model"):
        worker.renderer.model_of(store.session(session.id))


# --- what is shown -------------------------------------------------------------------------------

MODEL = KnownModel(
    "/models/<i>/one", "<b>one", "sdxl", "Stable Diffusion XL", 1024, 6_900_000_000, 2
)


def test_models_are_shown_with_what_is_known(store: Store, session: Session) -> None:
    store.remember_model(replace(MODEL, base_hash="0123456789abcdef"))
    store.remember_model(replace(MODEL, base_model="/x", family="", problem="no"))
    shown = library.model_cards(StoreSnapshot(store)) + library.folder_list(
        StoreSnapshot(store), ["/models/<i>"]
    )
    assert "Stable Diffusion XL · 6.9 GB · 0123456789" in shown
    assert shown.count("data-event='use_known'") == 1
    assert "<i>" not in shown
    assert "<b>one" not in shown


@pytest.mark.parametrize(
    ("chosen", "after"),
    [({}, (20, 3.0)), ({"steps": 30}, (30, 3.0)), ({"guidance": 6.0}, (20, 6.0))],
)
def test_steps_and_guidance_of_klein_do_not_stay_with_the_next_model(
    store: Store, session: Session, chosen: dict, after: tuple[int, float]
) -> None:
    klein = KnownModel("/m/klein", "klein", "flux2_klein_4b", "FLUX.2 klein base 4B", 1024, 1, 1)
    one = KnownModel("/m/one.safetensors", "one", "sd1", "Stable Diffusion 1", 512, 1, 1)
    store.remember_models([klein, one])

    def drawn_with() -> tuple[int, float]:
        sampling = store.session(session.id).settings.sampling
        return sampling.steps, sampling.guidance

    model.use_model(store, store.session(session.id), klein)
    assert drawn_with() == (50, 4.0)
    store.change_settings(
        session.id, lambda now: replace(now, sampling=replace(now.sampling, **chosen))
    )
    model.use_model(store, store.session(session.id), one)
    assert drawn_with() == after


def test_a_model_that_is_looked_at_again_keeps_its_hash_if_its_weights_are_the_same(store: Store):
    store.remember_model(replace(MODEL, base_hash="abc"))
    store.remember_model(replace(MODEL, name="other"))
    again = replace(MODEL, name="other", base_hash="abc")
    assert store.known_model(MODEL.base_model) == again
    store.remember_model(replace(MODEL, mtime_ns=21))
    assert store.known_model(MODEL.base_model) == replace(MODEL, mtime_ns=21)
    assert store.known_model("/models/two") is None


def test_a_folder_that_is_left_out_takes_its_models_along(store: Store) -> None:
    store.remember_model(MODEL)
    store.remember_model(replace(MODEL, base_model="/models/<i>/two", base_hash="ab"))
    store.remember_model(replace(MODEL, base_model="/models/three"))
    gone = library.unused_inside("/models/<i>", store.known_models())
    assert gone == [MODEL.base_model]
    store.remember_models([], gone)
    assert len(store.usable_models()) == 2


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    assert library.with_folder(["/a"], f'"{tmp_path}"') == ["/a", str(tmp_path)]
    for text, sentence in ((" ", "Write the path"), (str(tmp_path / "x"), "There is no folder")):
        with pytest.raises(ValueError, match=sentence):
            library.with_folder([], text)


def test_only_pictures_of_known_models_are_served(store: Store, tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    PIL.Image.new("RGB", (700, 500)).save(picture)
    client = TestClient(build(store), base_url="http://127.0.0.1")
    store.remember_model(replace(MODEL, preview=str(picture)))
    found = client.get("/models/preview", params={"model": MODEL.base_model})
    assert found.status_code == 200
    assert found.headers["content-type"] == "image/jpeg"
    assert client.get("/models/preview", params={"model": str(picture)}).status_code == 404
    picture.write_bytes(b"no picture")
    assert client.get("/models/preview", params={"model": MODEL.base_model}).status_code == 404
