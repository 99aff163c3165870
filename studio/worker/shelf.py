"""Base models as the store remembers them."""

from __future__ import annotations

from studio import models
from studio.store import KnownModel


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
