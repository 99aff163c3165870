"""What the pages say is marked as a message: in Python, in scripts, and in markup within Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.messages.markup import messages_in

UI = Path(__file__).resolve().parents[2] / "studio" / "ui"
SILENT = {"guard.py", "theme.py", "static.py", "connections.py"}  # what they say is read nowhere
MARKS = {"_", "N_", "ngettext"}
UNREAD = {"exception", "warning", "info", "ValueError", "PlainTextResponse", "compile", "search"}
SENTENCE = re.compile(r"[A-Z“].*[a-z]{2,}[,.:]? [a-z“{]", re.DOTALL)
PLACE = re.compile(r"\{\w*\}")
# Names, and what is written into pictures for other programs to read.
SAME = re.compile(r"D3PO Studio|CreativeML|Segoe UI|a red apple")


def strings(source: str) -> Iterator[tuple[int, str]]:
    """The unmarked strings of Python; an f-string without the values in it."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        above = parents.get(node)
        if isinstance(above, ast.Expr | ast.JoinedStr) or _is_marked(node, parents):
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [part.value for part in parts if isinstance(part, ast.Constant)]
        if texts and all(isinstance(text, str) for text in texts):
            yield node.lineno, "{}".join(texts)


def _is_marked(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in MARKS | UNREAD:
                return True
        if isinstance(node, ast.FormattedValue):
            return False
    return False


def unmarked(source: str) -> list[str]:
    found = []
    for line, text in strings(source):
        if SAME.search(text):
            continue
        if "<" in text:
            found += [f"{line}: {words}" for words in messages_in(PLACE.sub("", text))]
        elif SENTENCE.match(text):
            found.append(f"{line}: {text}")
    return found


PAGES = [path for path in sorted(UI.rglob("*.py")) if path.name not in SILENT]
SCRIPTS = sorted((UI / "assets").rglob("*.js"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(UI).as_posix())
def test_python_marks_what_it_says(path: Path):
    assert unmarked(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(UI).as_posix())
def test_scripts_mark_what_they_say(path: Path):
    source = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text("utf-8"), flags=re.DOTALL)
    marked = re.sub(r"\b(?:_|ngettext)\((?:\s*\"[^\"]*\"\s*[+,]?)+", "", source)
    assert [text for text in re.findall(r'"([^"\n]*)"', marked) if SENTENCE.match(text)] == []


def test_the_check_finds_what_is_not_marked():
    assert unmarked('raise SettingsError("Nothing is marked here.")') != []
    assert unmarked('x = f"<p>Nothing is marked {here}</p>"') != []
    assert unmarked('x = f"<p>{_(\'This is marked.\')}</p>"; _("And this is.")') == []
