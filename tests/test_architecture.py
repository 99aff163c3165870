"""The imports go one way, as the design's map has them; a change against it fails here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STUDIO = Path(__file__).resolve().parents[1] / "studio"

EVERYTHING_BUT_UI = {
    "bench",
    "datasets",
    "engine",
    "families",
    "files",
    "lora",
    "maths",
    "models",
    "paths",
    "pictures",
    "prompting",
    "runtime",
    "settings",
    "starter",
    "statistics",
    "store",
    "weights",
}

# Part of the studio: the parts that it may import, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "settings": set(),
    "statistics": set(),
    "families": set(),  # a table, for the pages too
    "files": set(),  # written whole or not at all
    "paths": set(),  # as people write them
    "weights": set(),  # the headers of weight files by anybody
    "prompting": {"settings"},  # text in, text out
    "pictures": set(),
    "runtime": {"files"},
    "maths": set(),
    "store": {"engine", "files", "paths", "settings"},
    "models": {
        "families",
        "files",
        "lora",
        "maths",
        "paths",
        "prompting",
        "runtime",
        "settings",
        "weights",
    },
    "engine": {"maths", "settings"},  # is handed a denoiser
    "lora": {"families", "files", "pictures", "weights"},  # models put one into their weights
    "datasets": {"engine", "files", "pictures", "prompting", "settings", "store"},
    "worker": EVERYTHING_BUT_UI - {"bench", "starter"},
    "ui": {
        "families",
        "files",
        "paths",
        "pictures",
        "prompting",
        "runtime",
        "settings",
        "statistics",
        "store",
    },
    "bench": EVERYTHING_BUT_UI | {"worker"},  # measures all there is
    "starter": {"engine", "models", "settings"},  # the recipe: what it made is drawn with
    "cli": {
        "datasets",
        "engine",
        "lora",
        "models",
        "paths",
        "prompting",
        "runtime",
        "settings",
        "store",
        "ui",
    },
    "__main__": {"cli"},
    "__init__": set(),
}

# A library: the only parts of the studio that may import it.
ONLY_IN: dict[str, set[str]] = {
    "gradio": {"ui"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "sqlite3": {"store"},
    "diffusers": {"models", "starter", "bench"},
    "peft": {"lora", "models", "starter", "bench"},
}


def part_of(path: Path) -> str:
    """`store` for studio/store/rows.py, `settings` for studio/settings.py."""
    return path.relative_to(STUDIO).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports anywhere in it when it runs, with the line."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()  # names for a type, which nothing is imported for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it goes"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def complaints(path: Path) -> Iterator[str]:
    part = part_of(path)
    for line, module in imports(path):
        library, *rest = module.split(".")
        if library == "studio":
            # `from studio import __version__` and the like are open to all.
            if rest and rest[0] in MAY_IMPORT and rest[0] not in MAY_IMPORT[part] | {part}:
                yield f"{path.relative_to(STUDIO.parent)}:{line}: {part} imports {rest[0]}"
        elif part not in ONLY_IN.get(library, {part}):
            yield f"{path.relative_to(STUDIO.parent)}:{line}: {part} imports {library}"


SOURCES = sorted(STUDIO.rglob("*.py"))


def test_every_part_is_on_the_map():
    assert {part_of(path) for path in SOURCES} <= set(MAY_IMPORT)


def test_no_import_goes_against_the_map():
    found = [complaint for path in SOURCES for complaint in complaints(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("store/x.py", "import gradio as gr", "store imports gradio"),
        ("ui/tabs/x.py", "def f():\n    from studio.worker import loop", "ui imports worker"),
        ("ui/x.py", "from studio import engine", "ui imports engine"),
        ("settings.py", "import studio.store.rows", "settings imports store"),
        ("worker/x.py", "from sqlalchemy import text", "worker imports sqlalchemy"),
        ("engine/x.py", "from peft import LoraConfig", "engine imports peft"),
        ("engine/x.py", "from studio.models import load", "engine imports models"),
    ],
)
def test_such_an_import_would_be_noticed(name, source, complaint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STUDIO", tmp_path / "studio")
    path = tmp_path / "studio" / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert [found.split(": ")[1] for found in complaints(path)] == [complaint]


def imported_by(statement: str) -> set[str]:
    """All modules that are loaded after `statement`, in an interpreter of its own."""
    script = f"{statement}\nimport sys; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=STUDIO.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_the_web_process_imports_no_torch():
    loaded = imported_by(
        "import studio.ui.app, studio.runtime.logs, studio.cli.serve, studio.__main__"
    )
    assert "gradio" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "peft", "studio.engine"}


def test_the_worker_imports_no_gradio():
    loaded = imported_by("import studio.worker.__main__")
    assert "torch" in loaded
    assert "gradio" not in loaded


def test_the_command_line_can_be_read_before_anything_is_installed():
    standard = sys.stdlib_module_names | {"__main__", "studio", "launch"}
    loaded = imported_by("import sys; sys.path.insert(0, '.'); import launch, studio.__main__")
    before = imported_by("pass")  # what the interpreter itself loads, its site hooks among it
    foreign = {module.partition(".")[0] for module in loaded - before} - standard
    assert not foreign
