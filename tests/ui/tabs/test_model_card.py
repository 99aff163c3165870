"""The card of the model in its states, and where a dropped model is found."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studio import models
from studio.settings import SettingsError, StartLora
from studio.store import Image, KnownModel, Session, Store
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt import dropped
from studio.ui.tabs.prompt.model_card import model_card
from studio.worker.loop import Worker

HASH = "0123456789abcdef"


@pytest.fixture
def known(store: Store, session: Session, tmp_path: Path) -> KnownModel:
    """A file of some size, known to the library, and used by the session."""
    path = tmp_path / "<my> model.safetensors"
    path.write_bytes(b"12345")
    model = KnownModel(
        str(path), "<my> model", "sd1", "Stable Diffusion 1", 512, 5, 1, HASH, licence="CC0-1.0"
    )
    store.remember_model(model)
    use(store, session, str(path), model_hash=HASH)
    return model


def use(store: Store, session: Session, base_model: str, **changes: object) -> None:
    store.set_last_session(session.id)
    store.change_settings(session.id, lambda now: replace(now, base_model=base_model, **changes))


def shown(store: Store) -> str:
    return model_card(StoreSnapshot(store))


def draw(store: Store, session: Session, prompt: str, base_hash: str, adapter_id=None) -> Image:
    return store.add_image(
        Image(
            id=store.new_image_id(),
            session_id=session.id,
            purpose="preview",
            prompt=prompt,
            seed=1,
            adapter_id=adapter_id,
            strength=1.0,
            sampling=session.settings.sampling,
            base_hash=base_hash,
            created_at_s=time.time(),
        )
    )


# --- the card ------------------------------------------------------------------------------------


def test_the_starter_says_what_it_is(store: Store, session: Session) -> None:
    store.set_last_session(session.id)
    said = shown(store)
    assert "Starter model</h2>" in said
    assert "In the box" in said
    assert "problem" not in said


def test_a_known_model_has_its_name_family_and_licence(store: Store, known: KnownModel) -> None:
    said = shown(store)
    assert "&lt;my&gt; model</h2>" in said
    assert "Stable Diffusion 1 · 0 MB · 0123456789 · licence CC0-1.0" in said
    assert "problem" not in said
    assert "<my>" not in said


def test_a_picture_drawn_with_it_comes_before_the_one_beside_its_file(
    store: Store, session: Session, known: KnownModel
) -> None:
    assert "<img" not in shown(store)
    draw(store, session, "a red apple", "of another model")
    assert "<img" not in shown(store)
    store.remember_model(replace(known, preview="/models/my.png"))
    assert "/models/preview?model=" in shown(store)
    first = draw(store, session, "a red apple", HASH)
    draw(store, session, "a lion", HASH)
    assert f"/images/{first.id}/thumbnail" in shown(store)
    assert "/models/preview" not in shown(store)


def test_the_lora_that_it_starts_from_is_named_and_missed(
    store: Store, session: Session, known: KnownModel, tmp_path: Path
) -> None:
    lora = tmp_path / "style.safetensors"
    lora.touch()
    use(store, session, known.base_model, start=StartLora(str(lora), 0.8))
    assert "Starts from the LoRA <b>style.safetensors</b> at strength 0.8" in shown(store)
    lora.unlink()
    assert "style.safetensors, is not there any more" in shown(store)


def test_a_file_that_is_gone_is_said(store: Store, known: KnownModel) -> None:
    Path(known.base_model).unlink()
    said = shown(store)
    assert "The model of this session is not there any more" in said
    assert "press Change and add the folder" in said


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"lora_unet_x.lora_down.weight": 1}, "is a LoRA, not a base model: choose the model"),
        ({"model.diffusion_model.double_blocks.0.x": 1}, "is a FLUX model"),
        ({"first_stage_model.decoder.conv_in.weight": 1}, "is only a VAE: choose a file with the"),
        ({"something": 1}, "does not hold a Stable Diffusion model"),
    ],
)
def test_what_is_no_model_is_said_before_anything_is_drawn(
    store: Store, session: Session, tmp_path: Path, tensors, sentence: str
) -> None:
    """As of a session that came from another computer: nobody looked at its model before."""
    path = tmp_path / "wrong.safetensors"
    save_file({name: torch.zeros(size) for name, size in tensors.items()}, path)
    use(store, session, str(path))
    assert "looked at before the first picture" in shown(store)
    with pytest.raises(models.ModelError, match=sentence):
        Worker(store, "cpu").work()
    said = shown(store)
    assert sentence in said
    assert "Press Change to choose another model" in said
    assert store.usable_models() == []


def test_a_model_of_the_hub_that_is_not_here_is_offered(store: Store, session: Session) -> None:
    use(store, session, "someone/not-here")
    with pytest.raises(models.ModelError):
        Worker(store, "cpu").work()
    said = shown(store)
    assert "someone/not-here</h2>" in said
    assert "data-event='download_model' data-name='someone/not-here'" in said


def test_a_model_without_room_is_said_and_stays_in_the_library(
    store: Store, session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    use(store, session, str(tiny_model))
    with monkeypatch.context() as patch:
        patch.setattr(models, "load_folder", full)
        with pytest.raises(models.ModelError):
            Worker(store, "cpu").work()
    assert "does not fit into the memory of this device" in shown(store)
    assert "Press Change to choose another model" in shown(store)
    assert [model.base_model for model in store.usable_models()] == [str(tiny_model)]
    Worker(store, "cpu").renderer.model_of(store.session(session.id))
    assert "problem" not in shown(store)


# --- a dropped model -----------------------------------------------------------------------------


def find(path: Path, known: list[KnownModel], *folders: Path, size_bytes: int = 5) -> str:
    return dropped.find(path.name, size_bytes, known, map(str, folders))


def test_a_dropped_file_is_found_by_its_name_and_size(
    known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(known.base_model)
    assert find(path, [known]) == known.base_model
    beside = tmp_path / "new.safetensors"
    beside.write_bytes(b"54321")
    assert find(beside, [known]) == str(beside)
    assert find(beside, [], tmp_path) == str(beside)
    monkeypatch.setattr(dropped, "DOWNLOADS", tmp_path)
    assert find(beside, []) == str(beside)
    with pytest.raises(SettingsError, match="Copy its path in the file manager and paste it"):
        find(beside, [known], size_bytes=6)


def test_several_are_named(known: KnownModel, tmp_path: Path) -> None:
    path, other = Path(known.base_model), tmp_path / "other"
    other.mkdir()
    (other / path.name).write_bytes(b"54321")
    with pytest.raises(SettingsError, match=r"There are 2 of this name and size: .* and .*other"):
        find(path, [known], other)
    (other / path.name).unlink()
    (other / path.name).symlink_to(path)
    assert find(path, [known], other) == known.base_model  # one and the same


def test_a_dropped_folder_is_found_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    with pytest.raises(SettingsError, match="A browser does not tell"):
        find(folder, [], tmp_path, size_bytes=dropped.FOLDER)
    (folder / "model_index.json").touch()
    assert find(folder, [], tmp_path, size_bytes=dropped.FOLDER) == str(folder)


@pytest.mark.parametrize("name", ["", "..", "../x.safetensors", "a/b.safetensors", "a\\b", "a\0b"])
def test_no_other_place_is_looked_into(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        dropped.find(name, 5, [], [str(tmp_path)])


def test_other_kinds_of_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="convert it to"):
        dropped.find("old.ckpt", 5, [], [])
