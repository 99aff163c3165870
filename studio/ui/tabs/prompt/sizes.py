"""Sizes of pictures that fit a model, and whether it reads clip skip."""

from __future__ import annotations

from html import escape

from studio.families import family_of
from studio.settings import STARTER_SIZE_PX, SamplingSettings
from studio.store.rows import KnownModel


def shapes(base_model: str, known: KnownModel | None) -> list[tuple[int, int]]:
    """(width, height) in pixels: the model's own first, then upright and lying ones; [] while
    nobody has looked at the model yet."""
    if base_model == "starter":
        return [(STARTER_SIZE_PX, STARTER_SIZE_PX)]
    if known is None or not known.family:
        return []
    own_px, family = known.size_px, family_of(known.family)
    if family.portrait_px and own_px == family.size_px:
        upright = list(family.portrait_px)
    else:  # beyond 3:2, models of a smaller family begin to draw things twice
        upright = [(own_px, own_px * 5 // 4), (own_px, own_px * 3 // 2)]
    fitting = [(width, height) for width, height in upright if height % 8 == 0]
    return [(own_px, own_px), *fitting, *((height, width) for width, height in fitting)]


def reads_clip_skip(known: KnownModel | None) -> bool:
    """Whether the model heeds it; yes while nobody has looked at the model yet."""
    return known is None or not known.family or family_of(known.family).reads_clip_skip


def shape_chips(base_model: str, known: KnownModel | None, sampling: SamplingSettings) -> str:
    """The shapes to choose from, each drawn small, and the one in use marked."""
    offered = shapes(base_model, known)
    if not offered:
        return ""
    now = (sampling.width_px, sampling.height_px)
    chips = "".join(
        f"<button type='button' class='chip shape' data-shape='{width}x{height}' "
        f"aria-pressed='{str((width, height) == now).lower()}'>"
        f"<i style='{_drawn(width, height)}' aria-hidden='true'></i>"
        f"{width} × {height}</button>"
        for width, height in offered
    )
    name = "the starter model" if base_model == "starter" else escape(known.name if known else "")
    return (
        f"<p class='soft'>Sizes that fit {name}:</p>"
        f"<div class='chips' role='group' aria-label='Sizes that fit the model'>{chips}</div>"
    )


def _drawn(width: int, height: int) -> str:
    """The shape, 14 pixels along its longer side."""
    longer = max(width, height)
    return f"width: {14 * width / longer:.0f}px; height: {14 * height / longer:.0f}px"
