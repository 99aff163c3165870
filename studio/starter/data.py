"""Drawings for the starter model: concepts x styles, composed on coloured grounds.

The drawings come from five openly licensed emoji sets, fetched as npm packages and rendered with
resvg. Grounds and placement are composed when the drawings are used, so one rendering serves every
colour and every scene.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from studio.starter.packages import fetch_package, icon_name, icon_svg, read_member, render
from studio.starter.recipe import RECIPES, Recipe

BUILD_PATH = Path("build/starter")
CONCEPTS_PATH = Path(__file__).with_name("concepts.txt")

# style word -> (npm package, version, licence); all five draw the same Unicode names
STYLES = {
    "soft": ("@iconify-json/noto", "1.2.9", "Apache-2.0, Google"),
    "sticker": ("@iconify-json/twemoji", "1.2.5", "CC BY 4.0, Twitter and jdecked"),
    "glossy": ("@iconify-json/fluent-emoji", "1.2.7", "MIT, Microsoft"),
    "flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT, Microsoft"),
    "ink": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT, Microsoft"),
}
NAMES_PACKAGE = ("unicode-emoji-json", "0.9.0")
KEYWORDS_PACKAGE = ("emojilib", "4.0.3")
LEFT_OUT_GROUPS = {"Flags", "People & Body", "Symbols"}

GROUNDS = {
    "white": (250, 250, 248),
    "yellow": (252, 208, 84),
    "red": (226, 92, 84),
    "green": (112, 184, 108),
    "blue": (74, 134, 222),
    "purple": (164, 122, 208),
}


@dataclass(frozen=True)
class Drawings:
    """rgba: (concepts, styles, 4, drawing_px, drawing_px) uint8, straight alpha."""

    rgba: torch.Tensor
    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    keywords: dict[str, tuple[str, ...]]  # of a concept, further words for it

    def only(self, concepts: Sequence[str]) -> Drawings:
        """Those of the named concepts, in that order."""
        rows = [self.concepts.index(name) for name in concepts]
        return replace(self, rgba=self.rgba[rows], concepts=tuple(concepts))

    def to(self, device: str) -> Drawings:
        return replace(self, rgba=self.rgba.to(device))


def concept_names(emoji: dict, icon_sets: list[dict]) -> dict[str, str]:
    """The emoji of each name that every set draws, in Unicode order."""
    names = {}
    for character, entry in emoji.items():
        if entry["group"] in LEFT_OUT_GROUPS:
            continue
        icon = icon_name(entry["name"])
        if all(icon_svg(icons, icon) for icons in icon_sets):
            names[entry["name"]] = character
    return names


def keywords_of(concept: str, words: list[str]) -> list[str]:
    """Its keywords, without the name itself and without what is no plain English word."""
    plain = [re.sub(r"[_\s]+", " ", word).strip().lower() for word in words]
    other = [word for word in plain if re.fullmatch(r"[a-z][a-z -]+", word)]
    return [word for word in dict.fromkeys(other) if icon_name(word) != icon_name(concept)]


def build(recipe: Recipe, folder: Path) -> Path:
    """Renders every concept in every style into `folder`/drawings.safetensors.

    A concept is one row of drawings, side by side, as lossless WebP: small enough to be carried to
    a machine that is lent.
    """
    target = folder / "drawings.safetensors"
    packages = folder / "packages"
    icon_sets = [
        read_member(fetch_package(package, version, packages), "icons.json")
        for package, version, _ in STYLES.values()
    ]
    emoji = read_member(fetch_package(*NAMES_PACKAGE, packages), "data-by-emoji.json")
    words = read_member(fetch_package(*KEYWORDS_PACKAGE, packages), "dist/emoji-en-US.json")
    concepts = concept_names(emoji, icon_sets)
    rows = {}
    for number, concept in enumerate(concepts):
        row = Image.new("RGBA", (len(STYLES) * recipe.drawing_px, recipe.drawing_px))
        for column, icons in enumerate(icon_sets):
            drawing = render(icon_svg(icons, icon_name(concept)), recipe.drawing_px)
            row.paste(drawing, (column * recipe.drawing_px, 0))
        stream = io.BytesIO()
        row.save(stream, "WEBP", lossless=True, method=4)
        rows[concept] = torch.frombuffer(stream.getbuffer(), dtype=torch.uint8)
        if number % 100 == 0:
            print(f"{number} of {len(concepts)} concepts rendered", flush=True)
    keywords = {name: keywords_of(name, words[emoji]) for name, emoji in concepts.items()}
    metadata = {"keywords": json.dumps(keywords), "styles": json.dumps(list(STYLES))}
    save_file(rows, target, metadata=metadata)
    return target


def load(folder: Path, only: Sequence[str] | None = None) -> Drawings:
    """The drawings that `build` made; `only` keeps the named concepts, in that order.

    Raises SystemExit with a sentence where there are none.
    """
    path = folder / "drawings.safetensors"
    if not path.exists():
        raise SystemExit(f"There is no {path}: run python -m studio.starter.data first.")
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        keywords = {name: tuple(w) for name, w in json.loads(metadata["keywords"]).items()}
        concepts = tuple(keywords if only is None else only)
        rows = [Image.open(io.BytesIO(file.get_tensor(name).tobytes())) for name in concepts]
        rgba = torch.from_numpy(np.stack([np.array(row.convert("RGBA")) for row in rows]))
    styles = tuple(json.loads(metadata["styles"]))
    rgba = rgba.unflatten(2, (len(styles), -1)).permute(0, 2, 4, 1, 3).contiguous()
    return Drawings(rgba, concepts, styles, keywords)


def load_for(recipe: Recipe, folder: Path) -> Drawings:
    """The drawings that the recipe's model is to know."""
    return load(folder, listed_concepts() if recipe.listed else None)


def listed_concepts() -> list[str]:
    return CONCEPTS_PATH.read_text(encoding="utf-8").split("\n")[:-1]


def _shown(first_px: torch.Tensor, side_px: torch.Tensor, drawing_px: int, size_px: int):
    """(B, size_px, drawing_px): how much of each of a drawing's rows each row of the picture shows.

    A drawing of `side_px` begins at `first_px`, both (B,); every pixel is the mean of what it
    covers.
    """
    scale = (drawing_px / side_px)[:, None]
    edges = (torch.arange(size_px + 1, device=scale.device) - first_px[:, None]) * scale
    start = torch.arange(drawing_px, device=scale.device)
    reach = edges[:, 1:, None].minimum(start + 1) - edges[:, :-1, None].maximum(start)
    return reach.clamp(min=0) / scale[:, :, None]


def compose(
    rgba: torch.Tensor, boxes_px: torch.Tensor, ground_rgb: torch.Tensor, size_px: int
) -> torch.Tensor:
    """Drawings on plain grounds, the later ones over the earlier.

    rgba: (B, N, 4, d, d) uint8; boxes_px: (B, N, 3), each drawing's top, left and side, at most d;
    what lies outside the picture is not drawn; ground_rgb: (B, 3) in 0..255. Returns
    (B, 3, size_px, size_px) in -1..1.
    """
    images = ground_rgb.float()[:, :, None, None].expand(-1, -1, size_px, size_px)
    for drawing, box in zip(rgba.unbind(1), boxes_px.float().unbind(1), strict=True):
        top, left, side = box.unbind(1)
        rows = _shown(top, side, rgba.shape[-1], size_px)[:, None]
        columns = _shown(left, side, rgba.shape[-1], size_px)[:, None].mT
        cover = drawing[:, 3:].float() / 255
        images = rows @ (drawing[:, :3] * cover) @ columns + images * (1 - rows @ cover @ columns)
    return images / 127.5 - 1


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every stage takes: the recipe, and the folder, `chosen` reads them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", choices=RECIPES, default="small")
    parser.add_argument("--folder", type=Path, help=f"of the build, default: {BUILD_PATH}/RECIPE")
    return parser


def chosen(args: argparse.Namespace) -> tuple[Recipe, Path]:
    return RECIPES[args.recipe], args.folder or BUILD_PATH / args.recipe


def main(argv: list[str] | None = None) -> None:
    parser = arguments("Render the starter model's drawings.")
    print(f"Wrote {build(*chosen(parser.parse_args(argv)))}")


if __name__ == "__main__":
    main()
