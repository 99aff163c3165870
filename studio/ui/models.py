"""Facts about base models that more than one tab asks for."""

from __future__ import annotations

from studio.families import FAMILIES
from studio.store.rows import KnownModel


def reads_clip_skip(model: KnownModel | None) -> bool:
    """Whether clip skip changes this model's pictures; True until the model was inspected."""
    return model is None or not model.family or FAMILIES[model.family].reads_clip_skip
