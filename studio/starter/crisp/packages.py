"""Drawings of openly licensed emoji sets, fetched as npm packages and rendered with resvg."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import unicodedata
from pathlib import Path

from PIL import Image

# name -> (npm package, version, licence); all of them draw the same Unicode names
ICON_SETS = {
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0, Google"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "CC BY 4.0, Twitter and jdecked"),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT, Microsoft"),
    "fluent-ink": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT, Microsoft"),
}
RENDERS_PACKAGE = ("@lobehub/fluent-emoji-3d", "1.1.0")  # MIT, Microsoft's own renders, 256 px
NAMES_PACKAGE = ("unicode-emoji-json", "0.9.0")  # MIT


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


def characters_by_name(packages: Path) -> dict[str, str]:
    """The emoji of every Unicode name."""
    emoji = read_member(fetch_package(*NAMES_PACKAGE, packages), "data-by-emoji.json")
    return {entry["name"]: character for character, entry in emoji.items()}


def icon_set(name: str, packages: Path) -> dict:
    return read_member(fetch_package(*ICON_SETS[name][:2], packages), "icons.json")


def renders(characters: list[str], packages: Path) -> list[bytes]:
    """Microsoft's WebP of each emoji, which is named by its code points."""
    with tarfile.open(fetch_package(*RENDERS_PACKAGE, packages)) as archive:
        files = {member.name.rsplit("/", 1)[-1]: member for member in archive.getmembers()}
        found = []
        for character in characters:
            points = [f"{ord(point):04x}" for point in character]
            plain = [point for point in points if point != "fe0f"]
            file = files.get("-".join(points) + ".webp") or files["-".join(plain) + ".webp"]
            found.append(archive.extractfile(file).read())
    return found
