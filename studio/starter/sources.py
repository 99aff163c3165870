"""The packages that the starter's drawings come from."""

from __future__ import annotations

import tarfile
from pathlib import Path

from studio.starter.packages import fetch_package, read_member

# name -> (npm package, version, licence); all of them draw the same Unicode names
ICON_SETS = {
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0, Google"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "CC BY 4.0, Twitter and jdecked"),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT, Microsoft"),
    "fluent-ink": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT, Microsoft"),
}
NAMES_PACKAGE = ("unicode-emoji-json", "0.9.0")  # MIT
RENDERS_PACKAGE = ("@lobehub/fluent-emoji-3d", "1.1.0")  # MIT, Microsoft's own renders, 256 px


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
