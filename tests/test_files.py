"""Every file has its name only once it is on the disk, whoever writes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studio import files
from studio.lora import tools
from studio.lora.export import export_lora
from studio.lora.metadata import ExportInfo
from studio.lora.restate import restate

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
INFO = ExportInfo("sd1", "made here", picks=0, trained_at_s=0.0)
HALVES = {"lora_A": torch.ones(2, 4), "lora_B": torch.ones(4, 2)}

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs /proc to look a file up in"
)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """("sync", path) and ("name", path) as they happen; a path that is synced is the file that has
    it at the end."""
    done: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def renamed(draft: Path, path: Path) -> None:
        done[:] = [(what, Path(path) if at == Path(draft) else at) for what, at in done]
        done.append(("name", Path(path)))
        replace(draft, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return done


def write_blend(folder: Path) -> None:
    named = {f"unet.{LAYER}.{half}.weight": value for half, value in HALVES.items()}
    save_file(named, folder.parent / "one.safetensors")
    one = tools.read(folder.parent / "one.safetensors")
    tools.write(folder / "two.safetensors", one)


def strip(folder: Path) -> None:
    save_file({"lora_x": torch.ones(1)}, folder.parent / "one.safetensors")
    restate(folder.parent / "one.safetensors", folder / "two.safetensors", {}, strip=True)


def export(folder: Path) -> None:
    state = {f"{LAYER}.{half}.weight": value for half, value in HALVES.items()}
    export_lora(folder, "two", state, 2, 1.0, INFO)


def write(folder: Path) -> None:
    files.write_atomically(folder / "two", lambda draft: draft.write_text("x"))


@pytest.mark.parametrize("make", [write, write_blend, strip, export])
def test_a_power_cut_leaves_the_old_file_or_the_new_one(make, tmp_path, steps):
    folder = tmp_path / "made"
    make(folder)
    for path in folder.iterdir():
        named = steps.index(("name", path))
        assert ("sync", path) in steps[:named], f"{path.name} may be empty after a power cut"
        assert ("sync", folder) in steps[named:], f"{path.name} may be gone after a power cut"
    assert list(folder.iterdir())


def test_no_draft_has_its_name_before_all_are_on_the_disk(tmp_path, steps):
    moves = [(tmp_path / f"draft-{n}", tmp_path / f"file-{n}") for n in range(2)]
    for draft, _ in moves:
        draft.write_text("x")
    files.publish(*moves)
    assert [what for what, _ in steps] == ["sync", "sync", "name", "name", "sync"]


def test_what_fails_leaves_nothing_and_the_old_file(tmp_path):
    path = tmp_path / "folder"
    files.write_atomically(path, lambda draft: draft.write_text("old"))

    def fail(draft: Path) -> None:
        draft.mkdir()
        (draft / "half").write_text("x")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        files.write_atomically(path, fail)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]
