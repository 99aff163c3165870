"""Picture sizes that fit a model."""

from __future__ import annotations

from html import escape

from studio.families import FAMILIES
from studio.messages import _
from studio.settings import STARTER_SIZE_PX, SamplingSettings
from studio.store.rows import KnownModel


def fitting_sizes(base_model: str, known: KnownModel | None) -> list[tuple[int, int]]:
    """(width, height) in pixels: the model's own first, then portrait and landscape ones.

    Empty until the worker has inspected the model.
    """
    if base_model == "starter":
        return [(STARTER_SIZE_PX, STARTER_SIZE_PX)]
    if known is None or not known.family:
        return []
    own_px, family = known.size_px, FAMILIES[known.family]
    if family.portrait_px and own_px == family.size_px:
        portrait = list(family.portrait_px)
    else:  # beyond 3:2, models of a smaller family begin to draw things twice
        portrait = [(own_px, own_px * 5 // 4), (own_px, own_px * 3 // 2)]
    fitting = [(width, height) for width, height in portrait if height % 8 == 0]
    return [(own_px, own_px), *fitting, *((height, width) for width, height in fitting)]


def size_chips(base_model: str, known: KnownModel | None, sampling: SamplingSettings) -> str:
    """The fitting sizes as buttons with their shapes; the current one is marked."""
    sizes = fitting_sizes(base_model, known)
    if not sizes:
        return ""
    current = (sampling.width_px, sampling.height_px)
    chips = "".join(
        f"<button type='button' class='chip shape' data-event='choose_size' "
        f"data-width='{width}' data-height='{height}' "
        f"aria-pressed='{str((width, height) == current).lower()}'>"
        f"<i style='{_outline(width, height)}' aria-hidden='true'></i>"
        f"{width} × {height}</button>"
        for width, height in sizes
    )
    name = escape(known.name if known else "")
    title = _("Sizes that fit {name}:", name=name)
    if base_model == "starter":
        title = _("Sizes that fit the starter model:")
    label = _("Sizes that fit the model")
    return (
        f"<p class='soft'>{title}</p>"
        f"<div class='chips' role='group' aria-label='{label}'>{chips}</div>"
    )


def _outline(width: int, height: int) -> str:
    """The style of a small rectangle of this shape, 14 pixels along its longer side."""
    longer = max(width, height)
    return f"width: {14 * width / longer:.0f}px; height: {14 * height / longer:.0f}px"
