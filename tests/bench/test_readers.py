"""The command that asks who reads our LoRA files, with the one reader that is always here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.bench import readers


def test_diffusers_takes_every_key_and_a_mistake_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(readers, "FAMILIES", ("sd1",))
    assert readers.main(["--json", str(tmp_path / "readers.json")]) == 0
    figures = json.loads((tmp_path / "readers.json").read_text())
    right = {"offered": 426, "taken": 426, "layers": 142, "right": 142}
    assert figures["families"]["sd1"] == {"diffusers": right}
    assert set(figures["absent"]) == {"ComfyUI", "sd-scripts", "InvokeAI"}
    mistakes = figures["mistakes"]["sd1"]
    assert all(rows["our check"] for rows in mistakes.values())
    assert mistakes["wrong alpha"]["diffusers"] == right | {"right": 0}  # counting shows nothing
    assert mistakes["wrong prefix"]["diffusers"].get("right", 0) == 0
    assert mistakes["up and down"]["diffusers"]["right"] < 142
    assert "426     426   142 of 142" in capsys.readouterr().out


def test_a_reader_that_cannot_be_imported_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(readers, "FAMILIES", ())
    readers.main(["--comfyui", str(tmp_path)])
    assert "absent: ComfyUI (ModuleNotFoundError" in capsys.readouterr().out
