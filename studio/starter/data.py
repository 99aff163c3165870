"""Drawings and captions for the starter model: concepts x styles, composed on coloured grounds.

The drawings come from five openly licensed emoji sets, fetched as npm packages and rendered with
resvg. Grounds and placement are composed when the drawings are used, so one rendering serves every
colour.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

BUILD_PATH = Path("build/starter")
CONCEPTS_PATH = Path(__file__).with_name("concepts.txt")
SIZE_PX = 64
DRAWING_PX = 54  # leaves a margin in which a drawing is moved about

# style word -> (npm package, version, licence); all five draw the same Unicode names
STYLES = {
    "soft": ("@iconify-json/noto", "1.2.9", "Apache-2.0, Google"),
    "sticker": ("@iconify-json/twemoji", "1.2.5", "CC BY 4.0, Twitter and jdecked"),
    "glossy": ("@iconify-json/fluent-emoji", "1.2.7", "MIT, Microsoft"),
    "flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT, Microsoft"),
    "ink": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT, Microsoft"),
}
NAMES_PACKAGE = ("unicode-emoji-json", "0.9.0")
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
    """rgba: (concepts, styles, 4, DRAWING_PX, DRAWING_PX) uint8, straight alpha."""

    rgba: torch.Tensor
    concepts: tuple[str, ...]
    styles: tuple[str, ...]


def fetch_package(name: str, version: str, folder: Path) -> Path:
    """The npm package's tarball in `folder`, downloaded with `npm pack` unless it is there."""
    tarball = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True)
    return tarball


def read_member(tarball: Path, name: str) -> dict:
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile(f"package/{name}"))


def icon_name(unicode_name: str) -> str:
    plain = unicodedata.normalize("NFKD", unicode_name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("&", "and")).strip("-")


def icon_svg(icons: dict, name: str) -> str | None:
    """The SVG of one icon of an Iconify set, following its aliases; None if it has none."""
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{DRAWING_PX}" height="{DRAWING_PX}">'
        f"{icon['body']}</svg>"
    )


def render(svg: str) -> torch.Tensor:
    """(4, DRAWING_PX, DRAWING_PX) uint8, rendered at four times the size and reduced."""
    import numpy as np
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * DRAWING_PX, height=4 * DRAWING_PX))
    image = Image.open(io.BytesIO(png)).convert("RGBA").convert("RGBa")
    image = image.resize((DRAWING_PX, DRAWING_PX), Image.Resampling.BOX).convert("RGBA")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def concept_names(emoji: dict, icon_sets: list[dict]) -> list[str]:
    """Names that every set draws, in Unicode order."""
    names = []
    for entry in emoji.values():
        if entry["group"] in LEFT_OUT_GROUPS:
            continue
        icon = icon_name(entry["name"])
        if all(icon_svg(icons, icon) for icons in icon_sets):
            names.append(entry["name"])
    return names


def build(folder: Path) -> Path:
    """Renders every concept in every style into `folder`/drawings.safetensors."""
    target = folder / "drawings.safetensors"
    packages = folder / "packages"
    icon_sets = [
        read_member(fetch_package(package, version, packages), "icons.json")
        for package, version, _ in STYLES.values()
    ]
    emoji = read_member(fetch_package(*NAMES_PACKAGE, packages), "data-by-emoji.json")
    concepts = concept_names(emoji, icon_sets)
    rgba = torch.empty(len(concepts), len(STYLES), 4, DRAWING_PX, DRAWING_PX, dtype=torch.uint8)
    for row, concept in enumerate(concepts):
        for column, icons in enumerate(icon_sets):
            rgba[row, column] = render(icon_svg(icons, icon_name(concept)))
        if row % 100 == 0:
            print(f"{row} of {len(concepts)} concepts rendered", flush=True)
    metadata = {"concepts": json.dumps(concepts), "styles": json.dumps(list(STYLES))}
    save_file({"rgba": rgba}, target, metadata=metadata)
    return target


def load(
    path: Path = BUILD_PATH / "drawings.safetensors", only: list[str] | None = None
) -> Drawings:
    """The drawings; `only` keeps the named concepts, in that order."""
    with safe_open(path, "pt") as file:
        rgba, metadata = file.get_tensor("rgba"), file.metadata()
    concepts = json.loads(metadata["concepts"])
    if only is not None:
        rgba = rgba[[concepts.index(name) for name in only]]
        concepts = only
    return Drawings(rgba, tuple(concepts), tuple(json.loads(metadata["styles"])))


def listed_concepts() -> list[str]:
    return CONCEPTS_PATH.read_text(encoding="utf-8").split("\n")[:-1]


def compose(rgba: torch.Tensor, ground_rgb: torch.Tensor, shift_px: torch.Tensor) -> torch.Tensor:
    """Drawings on plain grounds.

    rgba: (B, 4, DRAWING_PX, DRAWING_PX) uint8; ground_rgb: (B, 3) in 0..255; shift_px: (B, 2) rows
    and columns from the top left, 0 .. SIZE_PX - DRAWING_PX. Returns (B, 3, SIZE_PX, SIZE_PX) in
    -1..1.
    """
    images = ground_rgb.float()[:, :, None, None].expand(-1, -1, SIZE_PX, SIZE_PX).clone()
    colour, alpha = rgba[:, :3].float(), rgba[:, 3:].float() / 255
    for image, drawn, cover, (top, left) in zip(
        images, colour, alpha, shift_px.tolist(), strict=True
    ):
        window = image[:, top : top + DRAWING_PX, left : left + DRAWING_PX]
        window.copy_(drawn * cover + window * (1 - cover))
    return images / 127.5 - 1


def caption(concept: str, style: str | None, ground: str | None) -> str:
    """A prompt's words: "octopus, ink style, blue background"; style and ground may be None."""
    parts = [concept]
    if style:
        parts.append(f"{style} style")
    if ground:
        parts.append(f"{ground} background")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the starter model's drawings.")
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    folder = parser.parse_args().folder
    print(f"Wrote {build(folder)}")


if __name__ == "__main__":
    main()
