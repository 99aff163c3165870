"""Models by their names on the hub: the real huggingface_hub, and a hub on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from studio import models
from studio.engine import sampling
from studio.models import ModelError, hub
from studio.settings import SamplingSettings, is_hub_id
from studio.store import Session, Store
from studio.worker.loop import Worker
from tests.support.hub_server import COMMIT, REPO, Hub

SETTINGS = SamplingSettings(steps=2, width_px=64, height_px=64, eta=0.0)
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def here(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and an empty cache."""
    folder = shutil.copytree(tiny_model, tmp_path / "there")
    # what many models hold besides, and nobody needs
    for name in ("unet/diffusion_pytorch_model.bin", "pytorch_lora.pt", "whole.ckpt", "run.py"):
        (folder / name).write_bytes(b"\x80\x02not to be fetched")
    (folder / "whole.safetensors").write_bytes(b"a second copy")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Hub(folder).serving() as serving:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", serving.url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            serving.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield serving


def fetch(inspect=lambda folder: None) -> tuple[Path, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return hub.download(REPO, lambda done, total: told.append((done, total)), inspect), told


def test_a_model_comes_with_progress_and_draws_as_its_folder_does(
    here: Hub, tiny_model: Path, tmp_path: Path
) -> None:
    seen = []
    folder, told = fetch(lambda folder: seen.append(here.fetched()))
    assert folder == tmp_path / "cache" / "models--someone--tiny-model" / "snapshots" / COMMIT
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    # configurations first, looked at before any weights; no pickle, program or second copy at all
    assert not any(name.endswith(".safetensors") for name in seen[0])
    fetched = here.fetched()
    assert len(fetched) == len(set(fetched))
    assert UNET in fetched
    assert {Path(name).suffix for name in fetched} <= {".json", ".txt", ".safetensors"}
    assert "whole.safetensors" not in fetched
    # from here on nothing is asked of anybody
    here.asked.clear()
    denoisers = [models.load(name, "cpu") for name in (REPO, str(tiny_model))]
    drawn = [sampling.sample(one, ["a cat"], [1], SETTINGS)[0].latents for one in denoisers]
    assert torch.equal(*drawn)
    assert denoisers[0].info.name == REPO
    assert here.asked == []
    # what other tools put beside it later does not make it another model
    before = models.weights_hash(folder)
    (folder / "whole.safetensors").write_bytes(b"by another tool")
    assert models.weights_hash(folder) == before == denoisers[0].base_hash


def test_a_connection_that_is_cut_goes_on_where_it_was(
    here: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    size = (tiny_model / UNET).stat().st_size
    here.cut[UNET] = size // 2
    folder, _ = fetch()
    assert (folder / UNET).read_bytes() == (tiny_model / UNET).read_bytes()
    ranges = [asked for method, path, asked in here.asked if method == "GET" and UNET in path]
    assert len(ranges) == 2
    assert ranges[0] == ""
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= size // 2


def test_what_came_whole_is_kept_when_it_is_left(here: Hub) -> None:
    class Left(Exception):
        pass

    def leave(done: int, total: int) -> None:
        if UNET in here.fetched():
            raise Left

    with pytest.raises(Left):
        hub.download(REPO, leave, lambda folder: None)
    with pytest.raises(ModelError, match="is incomplete"):
        models.inspect(REPO)
    before = set(here.fetched()) - {UNET}
    here.asked.clear()
    fetch()
    assert not before & set(here.fetched())
    assert models.inspect(REPO).family == "sd1"


def test_half_size_weights_are_taken_where_all_parts_have_them(here: Hub) -> None:
    for path in list(here.folder.rglob("*/*.safetensors")):
        shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    fetch()
    weights = [name for name in here.fetched() if name.endswith(".safetensors")]
    assert weights
    assert all(".fp16." in name for name in weights)
    before = models.load(REPO, "cpu").base_hash
    # whole ones, which another tool fetches later, do not take their place
    snapshot = models.base_path(REPO)
    for path in here.folder.rglob("*/*.safetensors"):
        if ".fp16." not in path.name:
            shutil.copy(path, snapshot / path.relative_to(here.folder))
    assert models.load(REPO, "cpu").base_hash == models.weights_hash(snapshot) == before


def test_what_cannot_be_used_is_refused_before_its_weights_come(here: Hub) -> None:
    index = here.folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    with pytest.raises(ModelError, match="FLUX"):
        fetch(lambda folder: models.inspect(str(folder)))
    assert not any(name.endswith(".safetensors") for name in here.fetched())


def test_what_killed_downloads_left_is_swept_away(here: Hub, tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "models--someone--tiny-model" / "blobs"
    blobs.mkdir(parents=True)
    for name, age_s in (("old", 2 * hub.ABANDONED_S), ("young", 1.0)):
        (blobs / f"{name}.1234.incomplete").touch()
        at_s = time.time() - age_s
        os.utime(blobs / f"{name}.1234.incomplete", (at_s, at_s))
    fetch()
    assert [path.name for path in blobs.glob("*.incomplete")] == ["young.1234.incomplete"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hub: setattr(hub, "gated", True), "agree to the terms"),
        (lambda hub: setattr(hub, "status", 401), "There is no model someone/tiny-model"),
        (lambda hub: setattr(hub, "status", 403), r"refused the request \(403\)"),
        (lambda hub: setattr(hub, "status", 404), "There is no model someone/tiny-model"),
        (lambda hub: setattr(hub, "status", 500), r"has a problem \(500\)"),
        (lambda hub: (hub.folder / UNET).unlink(), "no .safetensors file of its unet"),
        (lambda hub: (hub.folder / "model_index.json").unlink(), "not a diffusers model"),
    ],
)
def test_what_goes_wrong_is_a_sentence(here: Hub, change, words: str) -> None:
    change(here)
    with pytest.raises(ModelError, match=words):
        fetch()
    with pytest.raises(ModelError, match=r"is not on this computer yet|is incomplete"):
        models.load(REPO, "cpu")


def test_offline_is_a_sentence(here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    with pytest.raises(ModelError, match="could not be reached"):
        fetch()


def test_a_full_disk_is_a_sentence(here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SPARE_BYTES", 10**18)
    with pytest.raises(ModelError, match="has no room"):
        fetch()
    assert UNET not in here.fetched()


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("owner/name", True),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", True),
        ("starter", False),
        ("/models/x", False),
        ("./models/x", False),
        ("~/models", False),
        ("a/b/c", False),
        ("../x", False),
    ],
)
def test_what_is_a_name_on_the_hub(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("owner/name")


def test_the_worker_downloads_beside_its_other_work(
    here: Hub, store: Store, session: Session, tiny_model: Path
) -> None:
    store.set_last_session(session.id)
    settings = replace(
        session.settings, base_model=str(tiny_model), queue_target=2, sampling=SETTINGS
    )
    store.update_settings(session.id, settings)
    worker = Worker(store, "cpu")
    asked = store.add_job(session.id, "inspect", {"path": REPO})
    assert worker.work()
    assert "is not on this computer yet" in store.job(asked.id).message
    job = store.add_job(session.id, "download", {"repo": REPO})
    while worker.work():
        pass
    assert store.waiting_count(session.id) == 2  # drawn meanwhile, whichever was done first
    worker.downloads.wait()
    done = store.job(job.id)
    assert (done.state, done.progress) == ("done", 1.0)
    assert done.result["base_model"] == REPO
    assert store.known_model(REPO).family == "sd1"
    again = store.add_job(session.id, "inspect", {"path": REPO})
    while worker.work():
        pass
    assert store.job(again.id).state == "done"


def test_what_a_worker_before_left_is_gone_on_with_and_failure_is_said(
    here: Hub, store: Store, session: Session
) -> None:
    job = store.add_job(session.id, "download", {"repo": REPO})
    store.update_job(job.id, state="running")
    here.status = 500
    worker = Worker(store, "cpu")
    worker.downloads.poll()
    worker.downloads.wait()
    assert store.job(job.id).state == "failed"
    assert "has a problem (500)" in store.job(job.id).message
    here.status = 200
    left = store.add_job(session.id, "download", {"repo": REPO})
    store.cancel_job(left.id)
    worker.downloads.poll()
    assert not worker.downloads.is_running
    stopped = store.add_job(session.id, "download", {"repo": REPO})
    worker.stopping.set()
    worker.downloads.poll()
    worker.downloads.wait()
    assert store.job(stopped.id).state == "running"  # for the worker after this one


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("all_proxy", "socks://127.0.0.1:9"),
        ("HTTPS_PROXY", "http://[::1"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_what_the_environment_says_wrongly_of_the_network_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=f"environment variables: .*{name}"):
        hub.download("nobody/x", lambda *_: None, lambda _: None)
