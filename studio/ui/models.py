"""Facts about base models that more than one tab asks for."""

from __future__ import annotations

from studio.families import FAMILIES, SD1, Family
from studio.store.rows import KnownModel


def family_of(model: KnownModel | None) -> Family:
    """The family of a model; until it was inspected, the oldest, of which nothing special holds."""
    return FAMILIES[model.family] if model is not None and model.family else SD1
