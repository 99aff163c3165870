"""npm packages of emoji that need not be downloaded: a few names, drawn as simple shapes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

# name -> (emoji, keywords, SVG)
SHAPES = {
    "red apple": ("🍎", ["red_apple", "fruit", "mac"], "<circle cx='16' cy='16' r='14'/>"),
    "man’s shoe": ("👞", ["brown", "clothing"], "<rect x='3' y='3' width='26' height='26'/>"),
    "owl": ("🦉", ["bird", "hoot", "3:30"], "<path d='M2 30 16 2l14 28z'/>"),
    "mouse": ("🐁", ["animal"], "<ellipse cx='16' cy='20' rx='15' ry='8'/>"),
}


def add_package(folder: Path, package: tuple[str, ...], member: str, content: dict) -> None:
    name, version, *_ = package
    path = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    body = json.dumps(content).encode()
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(f"package/{member}")
        entry.size = len(body)
        archive.addfile(entry, io.BytesIO(body))
