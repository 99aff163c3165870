"""The imports go one way, as the design's map has them; a change against it fails here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STUDIO = Path(__file__).resolve().parents[1] / "studio"

# Part of the studio: the parts that it may import, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "settings": set(),
    "messages": set(),  # in the artist's language
    "statistics": {"messages"},
    "swiss": set(),
    "families": set(),  # a table, for the pages too
    "files": set(),  # written whole or not at all
    "durations": {"messages"},  # in words
    "paths": set(),  # as people write them
    "verdict": {"messages", "statistics"},  # whether to go on
    "weights": set(),  # the headers of weight files by anybody
    "judges": set(),  # whoever else may pick
    "judging": {"judges", "pictures", "settings", "store"},
    "prompting": {"settings"},  # text in, text out
    "pictures": set(),
    "runtime": {"files"},
    "maths": set(),
    "store": {"files", "paths", "settings"},
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
    "worker": {  # whatever the studio does with a device
        "datasets",
        "durations",
        "engine",
        "families",
        "files",
        "judges",
        "judging",
        "lora",
        "models",
        "paths",
        "pictures",
        "prompting",
        "runtime",
        "settings",
        "statistics",
        "store",
        "swiss",
        "weights",
    },
    "ui": {
        "durations",
        "families",
        "files",
        "judges",
        "messages",
        "paths",
        "pictures",
        "prompting",
        "runtime",
        "settings",
        "statistics",
        "store",
        "verdict",
    },
    "bench": {  # measures all there is
        "engine",
        "families",
        "files",
        "judges",
        "lora",
        "maths",
        "models",
        "pictures",
        "prompting",
        "settings",
        "starter",
        "statistics",
        "store",
        "weights",
        "worker",
    },
    "starter": {"engine", "models", "settings"},  # the recipe: what it made is drawn with
    "cli": {
        "datasets",
        "durations",
        "engine",
        "judges",
        "judging",
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
    "peft": {"models"},
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


def tab_of(names: list[str]) -> str:
    """`train` for ui.tabs.train and what is in it, nothing for all else."""
    return names[2].removesuffix(".py") if names[:2] == ["ui", "tabs"] and len(names) > 2 else ""


def complaints(path: Path) -> Iterator[str]:
    part = part_of(path)
    tab = tab_of(list(path.relative_to(STUDIO).parts))
    for line, module in imports(path):
        library, *rest = module.split(".")
        if library == "studio":
            # `from studio import __version__` and the like are open to all.
            if rest and rest[0] in MAY_IMPORT and rest[0] not in MAY_IMPORT[part] | {part}:
                yield f"{path.relative_to(STUDIO.parent)}:{line}: {part} imports {rest[0]}"
            # What two tabs share stands in studio/ui.
            if tab and tab_of(rest) not in ("", tab):
                yield f"{path.relative_to(STUDIO.parent)}:{line}: {tab} imports {tab_of(rest)}"
        elif part not in ONLY_IN.get(library, {part}):
            yield f"{path.relative_to(STUDIO.parent)}:{line}: {part} imports {library}"


SOURCES = sorted(STUDIO.rglob("*.py"))


def test_every_part_is_on_the_map():
    assert {part_of(path) for path in SOURCES} <= set(MAY_IMPORT)


def test_no_import_goes_against_the_map():
    found = [complaint for path in SOURCES for complaint in complaints(path)]
    assert not found, "\n".join(found)


def test_nothing_is_granted_that_nobody_uses():
    used = {
        (part_of(path), library if library != "studio" else rest.partition(".")[0])
        for path in SOURCES
        for _, module in imports(path)
        for library, _, rest in [module.partition(".")]
    }
    granted = {(part, other) for part, others in MAY_IMPORT.items() for other in others}
    granted |= {(part, library) for library, parts in ONLY_IN.items() for part in parts}
    assert not granted - used


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
        ("ui/tabs/exam/x.py", "from studio.ui.tabs import prefer", "exam imports prefer"),
        ("ui/tabs/exam/x.py", "from studio.ui.tabs.prefer.state import y", "exam imports prefer"),
        ("ui/tabs/exam/x.py", "import studio.ui.tabs.train", "exam imports train"),
    ],
)
def test_such_an_import_would_be_noticed(name, source, complaint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STUDIO", tmp_path / "studio")
    path = tmp_path / "studio" / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert [found.split(": ")[1] for found in complaints(path)] == [complaint]


def test_a_tab_may_import_itself_and_what_tabs_share(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STUDIO", tmp_path / "studio")
    path = tmp_path / "studio" / "ui" / "tabs" / "exam" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("from studio.ui.tabs.exam import state\nfrom studio.ui import words\n")
    assert list(complaints(path)) == []


# Names with an underscore that libraries have for lack of public ones.
OF_LIBRARIES = {
    "_exit": "os",
    "_mapping": "a row of sqlalchemy",
    "_data": "an event of gradio",
    "_id": "a component of gradio",
    "_actions": "a parser of argparse",
    "_SubParsersAction": "argparse",
    "_get_submodule": "a patcher of ComfyUI's",
}


def is_private(name: str) -> bool:
    """`_` alone is gettext's mark of a message."""
    return name != "_" and name.startswith("_") and not name.startswith("__")


def defined_in(tree: ast.Module) -> set[str]:
    """Every name that a file gives to something of its own."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def pokes(path: Path) -> Iterator[str]:
    """Every use of a private name of another file of ours."""
    tree = ast.parse(path.read_text("utf-8"))
    own = defined_in(tree) | set(OF_LIBRARIES)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("studio", "tests"):
            names = {alias.name for alias in node.names if is_private(alias.name)}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = set() if of_itself else {node.attr} - own
        else:
            continue
        yield from (f"{path.name}:{node.lineno}: {name}" for name in sorted(names))


@pytest.mark.parametrize("folder", ["studio", "tests"])
def test_what_is_private_is_used_by_its_own_file_alone(folder):
    found = [poke for path in (STUDIO.parent / folder).rglob("*.py") for poke in pokes(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from studio.store import _rows", "x.py:1: _rows"),
        ("def f(store):\n    store._writing()", "x.py:2: _writing"),
        ("class A:\n    def _f(self): self._g()\ndef g(a): a._f()", None),
    ],
)
def test_such_a_use_would_be_noticed(source, complaint, tmp_path):
    path = tmp_path / "x.py"
    path.write_text(source)
    assert list(pokes(path)) == ([complaint] if complaint else [])


MOST_LINES, MOST_METHODS = 410, 20


def test_no_test_module_imports_another():
    """What several of them use lies in tests/support, or beside the browser's tests."""
    tests = Path(__file__).parent
    found = [
        f"{path.relative_to(tests)}:{line} {name}"
        for path in tests.rglob("*.py")
        for line, name in imports(path)
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert not found


def test_no_file_is_long_without_saying_why():
    long = [
        str(path.relative_to(STUDIO))
        for path in SOURCES
        if len(path.read_text("utf-8").splitlines()) > MOST_LINES
        and "long" not in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
    ]
    assert not long


def test_no_class_has_many_methods():
    many = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
                if len(methods) > MOST_METHODS:
                    many.append(f"{path.relative_to(STUDIO)}: {node.name}, {len(methods)}")
    assert not many


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
