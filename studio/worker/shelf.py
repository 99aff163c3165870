"""Base models as the store remembers them."""

from __future__ import annotations

from typing import Any

from studio import models
from studio.settings import is_hub_id
from studio.store import KnownModel, Store


def known(base_model: str, info: models.ModelInfo, base_hash: str = "") -> KnownModel:
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
        base_hash=base_hash,
    )


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
