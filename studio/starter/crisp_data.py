"""Pictures of 256 px for the crisp starter model: concepts x styles x grounds.

Four styles are openly licensed emoji sets, three are made from them by image processing. A drawing
has one of five placements, so there are as many pictures as combinations, and the latents of all of
them fit into memory.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from studio.starter.data import (
    GROUNDS,
    NAMES_PACKAGE,
    STYLES,
    concept_names,
    fetch_package,
    icon_name,
    icon_svg,
    listed_concepts,
    read_member,
    render,
)

SIZE_PX = 256
DRAWING_PX = 216
BUILD_PATH = Path("build/starter/crisp")
RENDERS_PACKAGE = ("@lobehub/fluent-emoji-3d", "1.1.0")  # MIT, Microsoft's own renders

# style word -> the set of `STYLES` that it is drawn from; None for the renders of RENDERS_PACKAGE
SOURCES = {
    "flat": "flat",
    "ink": "ink",
    "3d": None,
    "sticker": "sticker",
    "pixel": "sticker",
    "neon": "flat",
    "watercolour": "soft",
}
SCENERY = ("sky", "sunset", "night", "paper", "pattern")
ALL_GROUNDS = (*GROUNDS, *SCENERY)
CONCEPTS_PATH = Path(__file__).with_name("crisp_concepts.txt")


@dataclass(frozen=True)
class Placement:
    side_px: int
    left_px: int
    top_px: int
    mirrored: bool
    share: float  # of the pictures in training


PLACEMENTS = (
    Placement(216, 20, 20, False, 0.34),
    Placement(216, 20, 20, True, 0.24),
    Placement(144, 56, 88, False, 0.14),
    Placement(144, 14, 76, False, 0.14),
    Placement(144, 98, 76, True, 0.14),
)


# --- styles --------------------------------------------------------------------------------------


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


def sticker(image: Image.Image) -> Image.Image:
    """A broad white border with a soft shadow around the drawing, a little smaller."""
    small = Image.new("RGBA", image.size)
    side = round(image.width * 0.9)
    margin = (image.width - side) // 2
    small.paste(image.resize((side, side), Image.Resampling.BOX), (margin, margin))
    rgb, cover = _values(small)
    wide = small.getchannel("A").filter(ImageFilter.MaxFilter(13))
    border = _blurred(np.asarray(wide, np.float32)[..., None] / 255, 1.5)
    border = ((border - 0.5) * 3 + 0.5).clip(0, 1)
    blurred = np.pad(_blurred(border, 3), ((4, 0), (3, 0), (0, 0)))
    shadow = 0.45 * blurred[: image.height, : image.width]  # falls to the right and down
    under = border + shadow * (1 - border)
    white = border / under.clip(1e-3)
    total = cover + under * (1 - cover)
    colours = (rgb * cover + white * under * (1 - cover)) / total.clip(1e-3)
    return _image(colours, total)


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


EFFECTS = {"sticker": sticker, "pixel": pixel, "neon": neon, "watercolour": watercolour}


# --- grounds -------------------------------------------------------------------------------------


def ground(name: str) -> np.ndarray:
    """(3, SIZE_PX, SIZE_PX) in 0..255; always the same for the same name."""
    if name in GROUNDS:
        return np.broadcast_to(
            np.array(GROUNDS[name], np.float32)[:, None, None], (3, SIZE_PX, SIZE_PX)
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


# --- built ---------------------------------------------------------------------------------------


def _row(task: tuple[int, dict[str, str], bytes]) -> np.ndarray:
    """All styles of one concept, (styles, 4, DRAWING_PX, DRAWING_PX) uint8."""
    seed, svgs, webp = task
    whole = Image.open(io.BytesIO(webp)).convert("RGBA").convert("RGBa")
    renders = whole.resize((DRAWING_PX,) * 2, Image.Resampling.LANCZOS).convert("RGBA")
    sets = {name: render(svg, DRAWING_PX) for name, svg in svgs.items()} | {None: renders}
    drawings = []
    for style, source in SOURCES.items():
        drawing = sets[source]
        if style == "watercolour":
            drawing = watercolour(drawing, seed)
        elif style in EFFECTS:
            drawing = EFFECTS[style](drawing)
        drawings.append(np.asarray(drawing).transpose(2, 0, 1))
    return np.stack(drawings)


def build(folder: Path) -> Path:
    """Renders every concept in every style into `folder`/drawings.npy."""
    target, packages = folder / "drawings.npy", folder / "packages"
    wanted = sorted({source for source in SOURCES.values() if source})
    icons = {
        name: read_member(fetch_package(*STYLES[name][:2], packages), "icons.json")
        for name in wanted
    }
    emoji = read_member(fetch_package(*NAMES_PACKAGE, packages), "data-by-emoji.json")
    characters = concept_names(emoji, list(icons.values()))
    tasks = []
    with tarfile.open(fetch_package(*RENDERS_PACKAGE, packages)) as archive:
        files = {member.name.rsplit("/", 1)[-1]: member for member in archive.getmembers()}
        for seed, concept in enumerate(listed_concepts()):
            points = [f"{ord(c):04x}" for c in characters[concept]]
            plain = [point for point in points if point != "fe0f"]
            file = files.get("-".join(points) + ".webp") or files["-".join(plain) + ".webp"]
            svgs = {name: icon_svg(icons[name], icon_name(concept)) for name in wanted}
            tasks.append((seed, svgs, archive.extractfile(file).read()))
    with Pool(os.cpu_count()) as pool:
        np.save(target, np.stack(pool.map(_row, tasks, 4)))
    return target


@dataclass(frozen=True)
class Pictures:
    """All combinations, numbered with the concept as the slowest index and the placement as the
    fastest."""

    rgba: np.ndarray  # (concepts, styles, 4, DRAWING_PX, DRAWING_PX) uint8
    grounds: np.ndarray  # (grounds, 3, SIZE_PX, SIZE_PX) float32
    concepts: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return len(self.concepts), len(SOURCES), len(ALL_GROUNDS), len(PLACEMENTS)

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
            rgba = torch.from_numpy(self.rgba[concept, style].astype(np.float32))
            images.append(pasted(image, rgba, PLACEMENTS[placement]))
        return torch.stack(images) / 127.5 - 1


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
    path = folder / "drawings.npy"
    if not path.exists():
        raise SystemExit(f"There is no {path}: run python -m studio.starter.crisp_data first.")
    grounds = np.stack([ground(name) for name in ALL_GROUNDS]).astype(np.float32)
    concepts = CONCEPTS_PATH.read_text(encoding="utf-8").splitlines()
    rows = [listed_concepts().index(name) for name in concepts]
    return Pictures(np.load(path, mmap_mode="r")[rows], grounds, tuple(concepts))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Render the crisp starter's drawings.")
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    print(f"Wrote {build(args.folder)}")


if __name__ == "__main__":
    main()
