"""The pictures that the starter model learns: concepts x styles x grounds x placements, 256 px.

There are as many pictures as combinations, a few ten thousand, so that the latents of all of them
fit into memory.
"""

from __future__ import annotations

import argparse
import io
import os
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from studio.starter import sources
from studio.starter.packages import icon_name, icon_svg, render
from studio.starter.styles import EFFECTS, SOURCES, STYLES, watercolour

SIZE_PX = 256
DRAWING_PX = 216
BUILD_PATH = Path("build/starter")
CONCEPTS_PATH = Path(__file__).with_name("concepts.txt")

COLOURS = {
    "white": (250, 250, 248),
    "yellow": (252, 208, 84),
    "red": (226, 92, 84),
    "green": (112, 184, 108),
    "blue": (74, 134, 222),
    "purple": (164, 122, 208),
}
SCENERY = ("sky", "sunset", "night", "paper", "pattern")
GROUNDS = (*COLOURS, *SCENERY)


@dataclass(frozen=True)
class Placement:
    side_px: int
    left_px: int
    top_px: int
    mirrored: bool
    share: float  # of the pictures in training


PLACEMENTS = (
    Placement(216, 20, 20, False, 0.7),
    Placement(216, 20, 20, True, 0.3),
)


def concepts() -> tuple[str, ...]:
    return tuple(CONCEPTS_PATH.read_text(encoding="utf-8").splitlines())


# --- grounds -------------------------------------------------------------------------------------


def ground(name: str) -> np.ndarray:
    """(3, SIZE_PX, SIZE_PX) in 0..255; always the same for the same name."""
    if name in COLOURS:
        return np.broadcast_to(
            np.array(COLOURS[name], np.float32)[:, None, None], (3, SIZE_PX, SIZE_PX)
        ).copy()
    draw = np.random.default_rng(len(name))
    down, across = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32) / (SIZE_PX - 1)

    def between(*colours: tuple[int, int, int]) -> np.ndarray:
        stops = np.linspace(0, 1, len(colours))
        channels = [np.interp(down, stops, [c[i] for c in colours]) for i in range(3)]
        return np.stack(channels).astype(np.float32)

    def discs(centres: list[tuple[float, float, float]], soft: float) -> np.ndarray:
        cover = np.zeros_like(down)
        for y, x, radius in centres:
            distance = np.hypot(down - y, across - x)
            cover = np.maximum(cover, ((radius - distance) / soft + 0.5).clip(0, 1))
        return cover

    if name == "sky":
        clouds = [(0.14, 0.1, 0.07), (0.12, 0.18, 0.09), (0.15, 0.27, 0.06)]
        clouds += [(0.84, 0.74, 0.07), (0.82, 0.83, 0.09), (0.85, 0.92, 0.06)]
        sky = between((96, 176, 240), (198, 230, 252))
        return sky + (255 - sky) * discs(clouds, 0.03)
    if name == "sunset":
        return between((88, 44, 120), (214, 78, 110), (250, 148, 78), (255, 214, 120))
    if name == "night":
        places = draw.random((60, 2))
        stars = [
            (y, x, r) for (y, x), r in zip(places, draw.uniform(0.003, 0.009, 60), strict=True)
        ]
        night = between((10, 14, 44), (34, 38, 92))
        return night + (np.array([255, 250, 220])[:, None, None] - night) * discs(stars, 0.006)
    if name == "paper":
        lines = ((np.arange(SIZE_PX) % 32) < 2).astype(np.float32)[:, None] * np.ones(SIZE_PX)
        sheet = np.array([244, 236, 214], np.float32)[:, None, None] * np.ones((1, *down.shape))
        sheet = sheet + (np.array([150, 180, 214])[:, None, None] - sheet) * 0.7 * lines
        margin = ((np.arange(SIZE_PX) >= 22) & (np.arange(SIZE_PX) < 24)).astype(np.float32)
        return sheet + (np.array([224, 110, 110])[:, None, None] - sheet) * 0.8 * margin
    if name == "pattern":
        dots = [
            ((2 * row + 1) / 16, (2 * column + 1 + row % 2) / 16 - 0.03, 0.026)
            for row in range(8)
            for column in range(9)
        ]
        plain = np.array([250, 222, 226], np.float32)[:, None, None] * np.ones((1, *down.shape))
        return plain + (np.array([92, 190, 184])[:, None, None] - plain) * discs(dots, 0.006)
    raise KeyError(name)


# --- drawings ------------------------------------------------------------------------------------


def _drawings(task: tuple[int, dict[str, str], bytes]) -> np.ndarray:
    """All styles of one concept, (styles, 4, DRAWING_PX, DRAWING_PX) uint8."""
    seed, svgs, webp = task
    whole = Image.open(io.BytesIO(webp)).convert("RGBA").convert("RGBa")
    shaded = whole.resize((DRAWING_PX,) * 2, Image.Resampling.LANCZOS).convert("RGBA")
    sets = {name: render(svg, DRAWING_PX) for name, svg in svgs.items()}
    sets[None] = shaded
    drawings = []
    for style, source in SOURCES.items():
        drawing = sets[source]
        if style == "watercolour":
            drawing = watercolour(drawing, seed)
        elif style in EFFECTS:
            drawing = EFFECTS[style](drawing)
        drawings.append(np.asarray(drawing).transpose(2, 0, 1))
    return np.stack(drawings)


def build(folder: Path, names: tuple[str, ...]) -> Path:
    """Renders the named concepts in every style into `folder`/drawings.npz.

    The packages are fetched into `folder`/packages.
    """
    cache = folder / "packages"
    sets = {name: sources.icon_set(name, cache) for name in SOURCES.values() if name}
    characters = sources.characters_by_name(cache)
    webps = sources.renders([characters[name] for name in names], cache)
    tasks = []
    for seed, (name, webp) in enumerate(zip(names, webps, strict=True)):
        icon = icon_name(name)
        svgs = {source: icon_svg(icons, icon) for source, icons in sets.items()}
        tasks.append((seed, svgs, webp))
    with Pool(os.cpu_count()) as pool:
        rgba = np.stack(pool.map(_drawings, tasks, 4))
    np.savez(folder / "drawings.npz", rgba=rgba, concepts=names)
    return folder / "drawings.npz"


@dataclass(frozen=True)
class Pictures:
    """All combinations, numbered with the concept as the slowest index and the placement as the
    fastest."""

    rgba: np.ndarray  # (concepts, styles, 4, DRAWING_PX, DRAWING_PX) uint8
    grounds: np.ndarray  # (grounds, 3, SIZE_PX, SIZE_PX) float32
    concepts: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return len(self.concepts), len(STYLES), len(GROUNDS), len(PLACEMENTS)

    @property
    def count(self) -> int:
        return int(np.prod(self.sizes))

    def parts(self, numbers: np.ndarray) -> tuple[np.ndarray, ...]:
        """Indices of concept, style, ground and placement."""
        return np.unravel_index(numbers, self.sizes)

    def drawn(self, numbers: np.ndarray) -> torch.Tensor:
        """(B, 3, SIZE_PX, SIZE_PX) in -1..1."""
        images = []
        for concept, style, ground_index, placement in zip(*self.parts(numbers), strict=True):
            image = torch.from_numpy(self.grounds[ground_index].copy())
            rgba = self.drawing(concept, style, ground_index)
            images.append(pasted(image, rgba, PLACEMENTS[placement]))
        return torch.stack(images) / 127.5 - 1

    def drawing(self, concept: int, style: int, ground_index: int) -> torch.Tensor:
        """(4, DRAWING_PX, DRAWING_PX) in 0..255. Ink is white at night, where black is not seen."""
        rgba = torch.from_numpy(self.rgba[concept, style].astype(np.float32))
        if STYLES[style] == "ink" and GROUNDS[ground_index] == "night":
            rgba[:3] = 255 - rgba[:3]
        return rgba


def pasted(image: torch.Tensor, rgba: torch.Tensor, placement: Placement) -> torch.Tensor:
    """A drawing (4, DRAWING_PX, DRAWING_PX) over an image (3, SIZE_PX, SIZE_PX), in its place."""
    cover = rgba[3:] / 255
    layers = torch.cat([rgba[:3] * cover, cover])
    if placement.side_px != DRAWING_PX:
        size = (placement.side_px,) * 2
        layers = F.interpolate(layers[None], size, mode="bilinear", antialias=True)[0]
    if placement.mirrored:
        layers = layers.flip(2)
    rows = slice(placement.top_px, placement.top_px + placement.side_px)
    columns = slice(placement.left_px, placement.left_px + placement.side_px)
    image[:, rows, columns] = layers[:3] + image[:, rows, columns] * (1 - layers[3:])
    return image


def load(folder: Path) -> Pictures:
    """Raises SystemExit with a sentence where nothing was built."""
    path = folder / "drawings.npz"
    if not path.exists():
        raise SystemExit(f"There is no {path}: run python -m studio.starter.pictures first.")
    grounds = np.stack([ground(name) for name in GROUNDS]).astype(np.float32)
    built = np.load(path)
    return Pictures(built["rgba"], grounds, tuple(built["concepts"].tolist()))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Render the starter model's drawings.")
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Wrote {build(folder, concepts())}")


if __name__ == "__main__":
    main()
