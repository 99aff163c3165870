"""Base models as the store remembers them, and the folders in which they are looked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import models
from studio.paths import expanded
from studio.settings import is_hub_id
from studio.store import KnownModel, Store
from studio.weights import SNAPSHOTS

log = logging.getLogger("studio.worker")

# Where tools keep their base models, below the folder that an artist knows them by.
OF_TOOLS = ("models/Stable-diffusion", "models/checkpoints", "Stable-diffusion", "checkpoints")
NO_MODELS = ("venv", "site-packages", "node_modules", "__pycache__")
MOST_FILES = 20_000  # that are looked at in one folder: nobody has more models
MOST_FOLDERS = 20_000  # likewise: a link can lead to the whole disk
AT_ONCE = 50  # remembered in one go
TOLD = 30  # of the files that are no base models


def known(base_model: str, info: models.ModelInfo) -> KnownModel:
    """What is to be remembered of a model that can be used. Raises OSError when it is gone."""
    size_bytes, mtime_ns = models.stamp(info.path)
    return KnownModel(
        base_model=base_model,
        name=info.name,
        family=info.family,
        words=info.words,
        size_px=info.size_px,
        bytes=size_bytes,
        mtime_ns=mtime_ns,
        base_hash=info.weights_hash,
        preview=_preview(info.path),
    )


def _preview(model: Path) -> str:
    """The picture beside a model, by the names that A1111, Forge and ComfyUI give it."""
    stem = model.name if model.is_dir() else model.stem
    for ending in (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg"):
        path = model.with_name(f"{stem}{ending}")
        if path.is_file():
            return str(path)
    return ""


def found(store: Store, asked: str) -> dict[str, Any]:
    """What is told of a model that was asked for, and the name under which a session takes it.

    Raises ModelError when it cannot be used.
    """
    info = models.inspect(asked)
    base_model = asked if is_hub_id(asked) else str(info.path.absolute())
    store.remember_model(known(base_model, info))
    return {
        "base_model": base_model,
        "name": info.name,
        "family": info.words,
        "size_px": info.size_px,
        "note": info.note,
    }


# --- the library ---------------------------------------------------------------------------------


def look_through(store: Store, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """Look at all models in the artist's folders; those that are as they were are not opened again.

    tell: is called with (done, total) now and then, and may raise to leave it. Gives how many can
    be used, how many files are something else, and what the first of those are.
    """
    places = dict.fromkeys(place for folder in store.model_folders() for place in models_in(folder))
    before = {one.base_model: one for one in store.known_models()}
    gone = [name for name in before if not _is_there(name)]
    seen: list[KnownModel] = []
    new: list[KnownModel] = []
    for number, place in enumerate(places):
        one = _looked_at(place, before.get(place))
        if one is None:
            continue
        seen.append(one)
        if one != before.get(place):
            new.append(one)
        if number % AT_ONCE == 0:
            store.remember_models(new)
            new = []
            tell(number, len(places))
    store.remember_models(new, gone)
    _read_what_may_be_missed(store, seen)
    others = [one.problem for one in seen if not one.family]
    return {"models": len(seen) - len(others), "others": len(others), "problems": others[:TOLD]}


def models_in(folder: str) -> Iterator[str]:
    """What may be a base model below a folder, as it would stand in a session's settings.

    Links to other folders are followed, to each folder once: so loops of them end.
    """
    root = expanded(folder)
    starts = [root / name for name in OF_TOOLS if (root / name).is_dir()] or [root]
    count = 0
    been: set[tuple[int, int]] = set()
    for start in starts:
        for place, folders, names in os.walk(start, followlinks=True):
            here = Path(place)
            if not _is_new(here, been):
                folders.clear()
                continue
            if len(been) > MOST_FOLDERS:
                log.warning("More than %d folders in %s are left out", MOST_FOLDERS, folder)
                return
            if "model_index.json" in names:
                folders.clear()
                yield _hub_id(here) or str(here)
                continue
            folders[:] = sorted(
                name for name in folders if name not in NO_MODELS and not name.startswith(".")
            )
            for name in sorted(names):
                lower = name.lower()
                if lower.endswith(".safetensors") and not lower.endswith(models.VAE_ENDING):
                    count += 1
                    if count > MOST_FILES:
                        log.warning("More than %d files in %s are left out", MOST_FILES, folder)
                        return
                    yield str(here / name)


def _is_new(folder: Path, been: set[tuple[int, int]]) -> bool:
    """Whether a folder has not been met before, under whatever name; it has been, then."""
    try:
        status = folder.stat()
    except OSError:  # it has gone meanwhile
        return False
    one = (status.st_dev, status.st_ino)
    if one in been:
        return False
    been.add(one)
    return True


def _hub_id(snapshot: Path) -> str:
    """The name of a model in the hub's cache, if this is the snapshot of it that is used."""
    owned = snapshot.parent.parent.name.split("--")
    if snapshot.parent.name != SNAPSHOTS or owned[0] != "models" or len(owned) != 3:
        return ""
    name = "/".join(owned[1:])
    try:
        used = models.base_path(name)
    except models.ModelError:
        return ""
    return name if is_hub_id(name) and used == snapshot else ""


def _is_there(base_model: str) -> bool:
    try:
        return models.base_path(base_model).exists()
    except (models.ModelError, OSError):
        return False


def _looked_at(place: str, before: KnownModel | None) -> KnownModel | None:
    """None for what has gone meanwhile, or whose name no text can hold."""
    size_bytes, mtime_ns = 0, 0
    try:
        place.encode()
        size_bytes, mtime_ns = models.stamp(models.base_path(place))
        if before is not None and (before.bytes, before.mtime_ns) == (size_bytes, mtime_ns):
            return replace(before, preview=_preview(models.base_path(place)))
        return known(place, models.inspect(place))
    except models.ModelError as error:
        path = Path(place)
        return KnownModel(place, path.stem, "", "", 0, size_bytes, mtime_ns, problem=str(error))
    except (OSError, UnicodeEncodeError):
        return None


def _read_what_may_be_missed(store: Store, seen: list[KnownModel]) -> None:
    """Read the weights of what is as large as the model of a session, and may be that, moved."""
    sizes = {one.settings.model_bytes for one in store.sessions()} - {0}
    for one in seen:
        if one.family and not one.base_hash and one.bytes in sizes:
            weights_hash = models.weights_hash(models.base_path(one.base_model))
            store.remember_model(replace(one, base_hash=weights_hash))
