"""Exports in the folder of another tool: under which names, and that nothing there is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.store import Store, StoreError
from studio.store.sending import send, tool_folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    for ending in (".safetensors", "-diffusers.safetensors", ".json", ".png"):
        (folder / f"Blue{ending}").write_text(f"of Blue{ending}")
    return folder


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    folder = tmp_path / "Lora"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_other_tools_read_is_sent_and_only_once(export, tool):
    for _ in range(2):
        assert send(export, "Blue", tool) == tool / "Blue.safetensors"
        assert names(tool) == ["Blue.json", "Blue.png", "Blue.safetensors"]
    assert (tool / "Blue.safetensors").read_text() == "of Blue.safetensors"


@pytest.mark.parametrize("taken", ["Blue.safetensors", "Blue.json", "Blue.png"])
def test_nothing_there_is_written_over(export, tool, taken):
    (tool / taken).write_text("somebody else's")
    assert send(export, "Blue", tool) == tool / "Blue-2.safetensors"
    assert (tool / taken).read_text() == "somebody else's"
    assert send(export, "Blue", tool) == tool / "Blue-2.safetensors"
    (export / "Blue.safetensors").write_text("of another round")
    assert send(export, "Blue", tool) == tool / "Blue-3.safetensors"


def test_an_export_for_diffusers_alone_is_not_sent(export, tool):
    (export / "Blue.safetensors").unlink()
    with pytest.raises(StoreError, match="export the LoRA again"):
        send(export, "Blue", tool)
    assert names(tool) == []


@pytest.mark.parametrize(
    ("written", "sentence"),
    [("models/Lora", "the whole path"), ("/no/such/folder", "There is no folder")],
)
def test_what_is_no_folder_is_said(written, sentence, store: Store):
    with pytest.raises(StoreError, match=sentence):
        tool_folder(written)
    with pytest.raises(StoreError, match=sentence):
        store.set_lora_folder(written)
    assert store.lora_folder() == ""


def test_the_folder_is_remembered_until_it_is_taken_away(store: Store, tool, session):
    store.set_lora_folder(f" {tool} ")
    assert store.lora_folder() == str(tool)
    with pytest.raises(StoreError, match="not there any more"):
        store.send_export(session.id, "none")
    store.set_lora_folder("")
    assert store.lora_folder() == ""
