"""The pages' own files: style sheets, scripts and templates, which lie in `assets`.

The address of each file names a version, which changes with the content of any of them. So a
browser may cache a file for ever, and never mixes two versions. Scripts are ES modules: they import
each other by relative addresses, which stay within one version.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from studio.messages import LANGUAGES, language
from studio.messages.catalogues import script_messages

ASSETS = Path(__file__).parent / "assets"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_GOOD = {"Cache-Control": "private, max-age=31536000, immutable"}

# The order is that of the cascade.
STYLES = (
    "base/tokens.css",
    "base/ground.css",
    "shared/buttons.css",
    "shared/parts.css",
    "shared/header.css",
    "shared/dialogs.css",
    "shared/fields.css",
    "prompt/prompt.css",
    "prompt/triage.css",
    "prefer/prefer.css",
    "prefer/pictures.css",
    "prefer/strip.css",
    "train/train.css",
    "compare/compare.css",
    "compare/grid.css",
    "compare/story.css",
    "compare/best.css",
    "shared/dropin.css",
    "exam/exam.css",
    "export/export.css",
    "gallery/gallery.css",
    "tour/tour.css",
)
ICON = "favicon.svg"  # always at one address, which bookmarks keep
THEME = "base/theme.js"  # a plain script: it runs before the first paint, so nothing flashes
LANGUAGE = "base/language.js"  # plain too: gradio's own scripts come after it
MESSAGES = "messages/"  # and the language: what the scripts say, a module a language


def _read() -> dict[str, bytes]:
    """The served files by name. They are read once: a later change belongs to another version."""
    paths = sorted(path for path in ASSETS.rglob("*") if path.suffix in TYPES)
    files = {path.relative_to(ASSETS).as_posix(): path.read_bytes() for path in paths}
    for code in LANGUAGES:
        said = json.dumps(script_messages(code), ensure_ascii=False)
        files[f"{MESSAGES}{code}.js"] = f"export default {said};\n".encode()
    return files


def version_of(files: dict[str, bytes]) -> str:
    """A hash of the names and contents of all files."""
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


FILES = _read()
VERSION = version_of(FILES)


def address(name: str) -> str:
    """The address of one file."""
    return f"/studio/{VERSION}/{name}"


def head() -> str:
    """The head of every page."""
    modules = [
        name
        for name in FILES
        if name.endswith(".js") and name not in (THEME, LANGUAGE) and not name.startswith(MESSAGES)
    ]
    return "\n".join(
        (
            '<meta name="color-scheme" content="light dark">',
            f'<link rel="icon" href="/studio/{ICON}" type="image/svg+xml">',
            *(f'<link rel="stylesheet" href="{address(name)}">' for name in STYLES),
            f'<script src="{address(THEME)}"></script>',
            *(f'<link rel="modulepreload" href="{address(name)}">' for name in modules),
            f'<script type="module" src="{address("shared/page.js")}"></script>',
        )
    )


def page_head() -> str:
    """What a page of this language needs before all else."""
    said = address(f"{MESSAGES}{language()}.js")
    return f'<script src="{address(LANGUAGE)}"></script><link rel="modulepreload" href="{said}">'


def template(name: str) -> str:
    """The markup of a component, for `html_template` of `gr.HTML`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def script(name: str, *events: str) -> str:
    """Runs a module's `begin` on a component: for `js_on_load` of `gr.HTML`.

    `events`: the events that the module triggers. Gradio knows an event only if its name is written
    in quotes in the script.
    """
    sends = f" // sends {', '.join(repr(event) for event in events)}" if events else ""
    given = "{ element, props, server, trigger, watch }"
    return f'import("{address(name)}").then((module) => module.begin({given}));{sends}'


def routes() -> APIRouter:
    """The files of this version, by name; another version is not found."""
    router = APIRouter()

    @router.get(f"/studio/{ICON}")
    def icon() -> Response:
        return Response(
            FILES[ICON], media_type=TYPES[".svg"], headers={"Cache-Control": "no-cache"}
        )

    @router.get("/studio/{version}/{name:path}")
    def own(version: str, name: str) -> Response:
        if version != VERSION or name not in FILES:
            raise HTTPException(404, "The studio has no such file.")
        return Response(FILES[name], media_type=TYPES[Path(name).suffix], headers=FOR_GOOD)

    return router
