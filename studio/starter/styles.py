"""Drawing styles: icon sets as they are, and others made from them by image processing.

All work on RGBA pictures with straight alpha.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

# style word -> the set of `packages.ICON_SETS` that it is drawn from; None for the renders
SOURCES = {
    "flat": "fluent-flat",
    "ink": "fluent-ink",
    "3d": None,
    "pixel": "twemoji",
    "neon": "fluent-flat",
    "watercolour": "noto",
}
STYLES = tuple(SOURCES)


def _values(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Colours (h, w, 3) and cover (h, w, 1), both in 0..1."""
    array = np.asarray(image.convert("RGBA"), np.float32) / 255
    return array[..., :3], array[..., 3:]


def _image(rgb: np.ndarray, cover: np.ndarray) -> Image.Image:
    array = np.concatenate([rgb, cover], 2).clip(0, 1)
    return Image.fromarray((array * 255).round().astype(np.uint8), "RGBA")


def _blurred(values: np.ndarray, radius_px: float) -> np.ndarray:
    """A mask (h, w, 1), blurred."""
    mask = Image.fromarray((values[..., 0].clip(0, 1) * 255).astype(np.uint8))
    blurred = mask.filter(ImageFilter.GaussianBlur(radius_px))
    return np.asarray(blurred, np.float32)[..., None] / 255


def _filled(image: Image.Image) -> np.ndarray:
    """Colours with those of the drawing spread over what it leaves transparent."""
    rgb, cover = _values(image)
    for radius_px in (4, 16):
        near = Image.fromarray((rgb * cover * 255).astype(np.uint8))
        near = np.asarray(near.filter(ImageFilter.GaussianBlur(radius_px)), np.float32) / 255
        near /= _blurred(cover, radius_px).clip(1e-2)
        rgb = np.where(cover > 0.5, rgb, near.clip(0, 1))
    return rgb


def pixel(image: Image.Image) -> Image.Image:
    """27 x 27 squares of few colours, each wholly there or not at all."""
    small = image.convert("RGBa").resize((27, 27), Image.Resampling.BOX).convert("RGBA")
    cover = small.getchannel("A").point(lambda value: 255 * (value > 110))
    few = small.convert("RGB").quantize(10, Image.Quantize.MEDIANCUT).convert("RGBA")
    few.putalpha(cover)
    return few.resize(image.size, Image.Resampling.NEAREST)


def neon(image: Image.Image) -> Image.Image:
    """Glowing lines on a dark body, along the edges of the drawing's colours."""
    rgb, cover = _values(image)
    seen = Image.fromarray(((rgb * cover + 0.5 * (1 - cover)) * 255).astype(np.uint8))
    grey = np.asarray(seen.filter(ImageFilter.GaussianBlur(1.2)), np.float32) / 255
    down, across = np.gradient(grey, axis=(0, 1))
    edges = np.sqrt(down**2 + across**2).max(2, keepdims=True)
    outline = np.abs(np.stack(np.gradient(_blurred(cover, 1.2)[..., 0]))).max(0)[..., None]
    line = (9 * np.maximum(edges - 0.015, 1.2 * outline)).clip(0, 1)
    line = (1.5 * _blurred(line, 1.0)).clip(0, 1)
    glow = (1.6 * _blurred(line, 5)).clip(0, 1)
    base = _filled(image)
    hue = base - 0.8 * base.min(2, keepdims=True)
    hue = np.where(hue.max(2, keepdims=True) < 0.15, np.array([0.2, 0.9, 1.0]), hue)
    hue = hue / hue.max(2, keepdims=True).clip(1e-3)
    dark = np.array([0.06, 0.04, 0.14])
    colours = dark + (hue - dark) * (0.55 * glow).clip(0, 1)
    colours = colours + (0.35 + 0.65 * hue - colours) * line
    body = np.maximum(cover, glow)
    return _image(colours, body)


def watercolour(image: Image.Image, seed: int = 0) -> Image.Image:
    """Pale washes with ragged, darker rims, through which the ground shines."""
    draw = np.random.default_rng(seed)

    def clouds(cells: int) -> np.ndarray:
        grid = Image.fromarray(draw.random((cells, cells), np.float32))
        return np.asarray(grid.resize(image.size, Image.Resampling.BICUBIC))[..., None]

    ragged = clouds(40) - 0.5
    rgb = np.asarray(
        Image.fromarray((_filled(image) * 255).astype(np.uint8)).filter(
            ImageFilter.MedianFilter(9)
        ),
        np.float32,
    )
    _, cover = _values(image)
    soft = _blurred(cover, 4)
    wash = ((soft + 0.35 * ragged - 0.45) * 6).clip(0, 1)
    inner = _blurred(wash, 5)
    rim = (wash * (1 - inner) * 2).clip(0, 1)
    pale = 1 - (1 - rgb / 255) * (0.55 + 0.45 * clouds(9))
    return _image(pale * (1 - 0.35 * rim), wash * (0.72 + 0.28 * rim))


EFFECTS = {"pixel": pixel, "neon": neon}
