"""What fits a model: the sizes of pictures that it was made for, and whether clip skip is read."""

from __future__ import annotations

from html import escape

from studio.settings import STARTER_SIZE_PX, SamplingSettings
from studio.store.rows import KnownModel

# SDXL learned from pictures of about a megapixel in these shapes (arXiv 2307.01952, appendix I).
XL_UPRIGHT = ((896, 1152), (832, 1216), (768, 1344), (640, 1536))

SHAPES_JS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-shape]");
  if (chosen) trigger("choose", { shape: chosen.dataset.shape });
});"""


def shapes(base_model: str, known: KnownModel | None) -> list[tuple[int, int]]:
    """(width, height) in pixels: the model's own first, then upright and lying ones; [] while
    nobody has looked at the model yet."""
    if base_model == "starter":
        return [(STARTER_SIZE_PX, STARTER_SIZE_PX)]
    if known is None or not known.family:
        return []
    own_px = known.size_px
    if known.family == "sdxl" and own_px == 1024:
        upright = list(XL_UPRIGHT)
    else:  # beyond 3:2, models of a smaller family begin to draw things twice
        upright = [(own_px, own_px * 5 // 4), (own_px, own_px * 3 // 2)]
    fitting = [(width, height) for width, height in upright if height % 8 == 0]
    return [(own_px, own_px), *fitting, *((height, width) for width, height in fitting)]


def reads_clip_skip(known: KnownModel | None) -> bool:
    """Stable Diffusion XL does not: it is always read before its last layers."""
    return known is None or known.family != "sdxl"


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
