"""Copies an export into the folder where another tool looks for its LoRAs."""

from __future__ import annotations

import filecmp
import itertools
import shutil
from pathlib import Path

from studio.paths import expanded, typed
from studio.store.errors import StoreError
from studio.store.files import write_atomically

ENDINGS = (".json", ".png", ".safetensors")  # the LoRA last: a tool that finds it finds all


def tool_folder(written: str) -> Path:
    """The folder that the artist typed. Raises StoreError if it is not one."""
    folder = expanded(typed(written))
    if not folder.is_absolute():
        raise StoreError(f"Write the whole path of the folder, from its drive on, not {written!r}.")
    if not folder.is_dir():
        raise StoreError(
            f"There is no folder {folder}. It is the one in which your tool keeps its LoRAs, such "
            "as models/Lora in A1111 and Forge, or models/loras in ComfyUI."
        )
    return folder


def send(export: Path, name: str, folder: Path) -> Path:
    """Copy the files `name`.safetensors, .json and .png of an export; returns the LoRA's path.

    No file in `folder` is overwritten: if the names are taken by other files, the new ones get a
    number. Identical files are not copied again.
    """
    files = [export / f"{name}{ending}" for ending in ENDINGS]
    if not files[-1].is_file():
        raise StoreError(
            "This export has no file that other tools read: export the LoRA again, for A1111, "
            "Forge, ComfyUI and InvokeAI."
        )
    files = [file for file in files if file.is_file()]
    stem = next(
        stem
        for stem in itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        if all(_is_free_for(file, folder / f"{stem}{file.suffix}") for file in files)
    )
    for file in files:
        to = folder / f"{stem}{file.suffix}"
        if not to.exists():
            write_atomically(to, lambda path, file=file: shutil.copyfile(file, path))
    return folder / f"{stem}.safetensors"


def _is_free_for(file: Path, to: Path) -> bool:
    """Whether `to` does not exist, or has the same content already."""
    return not to.exists() or (to.is_file() and filecmp.cmp(file, to, shallow=False))
