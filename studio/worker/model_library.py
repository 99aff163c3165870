"""The library of base models: the artist's model folders, and the models the store remembers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import models
from studio.families import key_of
from studio.paths import expanded
from studio.settings import StartLora, is_hub_id
from studio.store import KnownModel, Store
from studio.weights import SNAPSHOTS

log = logging.getLogger("studio.worker")

# Where other tools keep base models, below their own folder.
TOOL_FOLDERS = ("models/Stable-diffusion", "models/checkpoints", "Stable-diffusion", "checkpoints")
SKIPPED_FOLDERS = ("venv", "site-packages", "node_modules", "__pycache__")
MOST_FILES = 20_000  # per folder: nobody has more models
MOST_FOLDERS = 20_000  # per folder: a link can lead to the whole disk
MODELS_PER_WRITE = 50
MOST_PROBLEMS = 30  # shown of the files that are no base models


def known_model(base_model: str, info: models.ModelInfo) -> KnownModel:
    """The store's row for a usable model. Raises OSError if the model is gone."""
    size_bytes, mtime_ns = models.stamp(info.path)
    return KnownModel(
        base_model=base_model,
        name=info.name,
        family=key_of(info.family, info.prediction_type),
        words=info.words,
        size_px=info.size_px,
        bytes=size_bytes,
        mtime_ns=mtime_ns,
        base_hash=info.weights_hash,
        preview=_preview(info.path),
        licence=info.licence,
    )


def unusable_model(base_model: str, error: models.ModelError) -> KnownModel | None:
    """The store's row for a model that cannot be used; None if it is not there at all."""
    size_bytes, mtime_ns = 0, 0
    try:
        size_bytes, mtime_ns = models.stamp(models.base_path(base_model))
    except (models.ModelError, OSError):
        if not is_hub_id(base_model):  # that its file is gone, the pages see for themselves
            return None
    name = base_model if is_hub_id(base_model) else Path(base_model).stem
    return KnownModel(base_model, name, "", "", 0, size_bytes, mtime_ns, problem=str(error))


def _preview(model: Path) -> str:
    """The preview picture beside a model, by the names of A1111, Forge and ComfyUI."""
    stem = model.name if model.is_dir() else model.stem
    for ending in (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg"):
        path = model.with_name(f"{stem}{ending}")
        if path.is_file():
            return str(path)
    return ""


def describe(store: Store, path: str) -> dict[str, Any]:
    """Remember a model by its path or hub id; gives its description for the page, with the name
    that a session uses for it.

    Raises ModelError if it cannot be used.
    """
    info = models.inspect(path)
    base_model = path if is_hub_id(path) else str(info.path.absolute())
    store.remember_model(known_model(base_model, info))
    return {
        "base_model": base_model,
        "name": info.name,
        "family": info.words,
        "size_px": info.size_px,
        "note": info.note,
    }


def load_and_remember(
    store: Store, base_model: str, device: str, start: StartLora | None
) -> models.Denoiser:
    """Load a model, and tell the pages what it is, or why it cannot be used. Raises ModelError."""
    try:
        info = models.inspect(base_model)
    except models.ModelError as error:
        if unusable := unusable_model(base_model, error):
            store.remember_model(unusable)
        raise
    try:
        denoiser = models.load(base_model, device, start=start)
    except models.ModelError as error:
        if start is None:  # else the LoRA may be at fault
            store.remember_model(replace(known_model(base_model, info), problem=str(error)))
        raise
    store.remember_model(known_model(base_model, denoiser.info))
    return denoiser


# --- the library ---------------------------------------------------------------------------------


def scan(store: Store, report: Callable[[int, int], None]) -> dict[str, Any]:
    """Inspect all models in the artist's folders; unchanged ones are not opened again.

    report: called with (done, total) now and then; it may raise to stop the scan. Gives the number
    of usable models, the number of other files, and the problems of the first of those.
    """
    paths = dict.fromkeys(path for folder in store.model_folders() for path in models_in(folder))
    before = {model.base_model: model for model in store.known_models()}
    gone = [name for name in before if not _exists(name)]
    scanned: list[KnownModel] = []
    new: list[KnownModel] = []
    for number, path in enumerate(paths):
        model = _scan_model(path, before.get(path))
        if model is None:
            continue
        scanned.append(model)
        if model != before.get(path):
            new.append(model)
        if number % MODELS_PER_WRITE == 0:
            store.remember_models(new)
            new = []
            report(number, len(paths))
    store.remember_models(new, gone)
    _hash_moved_models(store, scanned)
    problems = [model.problem for model in scanned if not model.family]
    return {
        "models": len(scanned) - len(problems),
        "others": len(problems),
        "problems": problems[:MOST_PROBLEMS],
    }


def models_in(folder: str) -> Iterator[str]:
    """Possible base models below a folder, in the form of `SessionSettings.base_model`.

    Links are followed, but each folder is entered only once, so that loops end.
    """
    root = expanded(folder)
    starts = [root / name for name in TOOL_FOLDERS if (root / name).is_dir()] or [root]
    count = 0
    visited: set[tuple[int, int]] = set()
    for start in starts:
        for path, folders, names in os.walk(start, followlinks=True):
            here = Path(path)
            if not _visit(here, visited):
                folders.clear()
                continue
            if len(visited) > MOST_FOLDERS:
                log.warning("More than %d folders in %s are left out", MOST_FOLDERS, folder)
                return
            if "model_index.json" in names:
                folders.clear()
                yield _hub_id(here) or str(here)
                continue
            folders[:] = sorted(
                name for name in folders if name not in SKIPPED_FOLDERS and name[0] != "."
            )
            for name in sorted(names):
                lower = name.lower()
                if lower.endswith(".safetensors") and not lower.endswith(models.VAE_ENDING):
                    count += 1
                    if count > MOST_FILES:
                        log.warning("More than %d files in %s are left out", MOST_FILES, folder)
                        return
                    yield str(here / name)


def _visit(folder: Path, visited: set[tuple[int, int]]) -> bool:
    """Add a folder, under any of its names, to `visited`; False if it is there already."""
    try:
        status = folder.stat()
    except OSError:  # it was deleted meanwhile
        return False
    identity = (status.st_dev, status.st_ino)
    if identity in visited:
        return False
    visited.add(identity)
    return True


def _hub_id(snapshot: Path) -> str:
    """The hub id of a model in the hub's cache, if this is the snapshot in use; else ""."""
    parts = snapshot.parent.parent.name.split("--")
    if snapshot.parent.name != SNAPSHOTS or parts[0] != "models" or len(parts) != 3:
        return ""
    name = "/".join(parts[1:])
    try:
        used = models.base_path(name)
    except models.ModelError:
        return ""
    return name if is_hub_id(name) and used == snapshot else ""


def _exists(base_model: str) -> bool:
    try:
        return models.base_path(base_model).exists()
    except (models.ModelError, OSError):
        return False


def _scan_model(base_model: str, before: KnownModel | None) -> KnownModel | None:
    """None if it was deleted meanwhile, or if its name is not valid Unicode."""
    try:
        base_model.encode()
        stamp = models.stamp(models.base_path(base_model))
        if before is not None and (before.bytes, before.mtime_ns) == stamp:
            return replace(before, preview=_preview(models.base_path(base_model)))
        return known_model(base_model, models.inspect(base_model))
    except models.ModelError as error:
        return unusable_model(base_model, error)
    except (OSError, UnicodeEncodeError):
        return None


def _hash_moved_models(store: Store, scanned: list[KnownModel]) -> None:
    """Hash the weights of models as large as a session's model: they may be that one, moved."""
    sizes = {session.settings.model_bytes for session in store.sessions()} - {0}
    for model in scanned:
        if model.family and not model.base_hash and model.bytes in sizes:
            weights_hash = models.weights_hash(models.base_path(model.base_model))
            store.remember_model(replace(model, base_hash=weights_hash))
