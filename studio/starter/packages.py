"""npm packages of openly licensed emoji sets: fetched, read, and rendered with resvg."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import unicodedata
from pathlib import Path

from PIL import Image


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
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def render(svg: str, size_px: int) -> Image.Image:
    """RGBA, rendered at four times the size and reduced."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * size_px, height=4 * size_px))
    image = Image.open(io.BytesIO(png)).convert("RGBA").convert("RGBa")
    return image.resize((size_px, size_px), Image.Resampling.BOX).convert("RGBA")
