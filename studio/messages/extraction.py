"""Collects the messages of the sources in the catalogues: `python -m studio.messages.extraction`.

Pages mark their messages: `_` and `ngettext` in Python and in scripts. In templates all that is
read is one. Elsewhere nothing is marked: there a sentence is a string of words with a stop, or any
string of words where it is raised or kept for the artist; values of f-strings become named places.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from babel.messages import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import write_po

from studio.messages.catalogues import LANGUAGES, SOURCE, path_of, read
from studio.messages.markup import messages_in

STUDIO = Path(__file__).parent.parent
MARKS: dict[str, tuple[int, ...] | None] = {"_": None, "N_": None, "ngettext": (1, 2)}

# Where sentences are not marked. The artist reads them in a page, as an error or as a message.
ENGLISH = (
    *("store", "worker", "engine", "models", "lora", "pictures", "prompting", "datasets"),
    *("settings.py", "families.py", "weights.py", "verdict.py", "judges.py", "judging.py"),
)
# What is said on the command line alone, or written into files.
UNREAD = frozenset(
    (
        *("lora/tools.py", "lora/merge.py", "lora/restate.py", "lora/metadata.py"),
        *("store/doctor.py", "store/mending.py", "store/snapshots.py", "store/lock.py"),
        *("datasets/pickapic.py", "worker/ending.py", "worker/follower.py"),
    )
)
# Whose strings need no stop: the steps of a wait, and what was checked.
PHRASES = re.compile(
    r"worker/(?!other_tools|__main__|progress)|engine/collapse|verdict|lora/(fuse|export|format)"
    r"|families|pictures/workflows|models/(inspecting|checkpoint|recognising|hub)|weights"
)
SENTENCE = re.compile(r"(?:[A-Z“]|\{).*[.:]$", re.DOTALL)
RAISED = re.compile(r"[A-Z“{].*[^\W\d_]{2}", re.DOTALL)
PHRASE = re.compile(r"[A-Z“{].*[^\W\d_]{2}|[a-z]+[, ]+[a-z{].*|Done\.", re.DOTALL)
WORDS = re.compile(
    r"[^\W\d_]{2,}[,.:;]? +[^\W\d_{“]|[^\W\d_]{3,}\.$|\} [^\W\d_]{2,}|[^\W\d_]{2,}[:,]? \{"
)
CODE = re.compile(
    r"[A-Z]{4,}|Pairs picked with|loading \{|\{(?:seed|unet|mix|odd)\}|"
    r"(?:Negative|Model|CFG|Clip|Eta|TI|VAE"
    r"|Source|Schedule|Noise|Zero|Euler|Node|Base M)\b(?!.*\.$)"
)
LOGS = frozenset(("debug", "info", "warning", "error", "exception", "execute", "text", "compile"))


def extracted() -> Catalog:
    """All messages of the sources, with the files they stand in."""
    catalog = Catalog()
    for path in sorted(STUDIO.rglob("*")):
        name = path.relative_to(STUDIO).as_posix()
        for message in _messages(path, name):
            catalog.add(message, locations=[(f"studio/{name}", 0)])
    return catalog


def _messages(path: Path, name: str) -> Iterator[str | tuple[str, ...]]:
    if path.suffix == ".html":
        yield from messages_in(path.read_text("utf-8"))
    elif path.suffix == ".js":
        yield from _scripted(path)
    elif path.suffix == ".py":
        yield from marked(path.read_text("utf-8"))
        is_english = name.split("/", maxsplit=1)[0] in ENGLISH and "migrations" not in name
        if is_english and name not in UNREAD:
            yield from sentences(path.read_text("utf-8"), bool(PHRASES.match(name)))


def _scripted(path: Path) -> Iterator[str | tuple[str, ...]]:
    with path.open("rb") as file:
        for _line, message, _comments, _context in extract("javascript", file, keywords=MARKS):
            yield message


def marked(source: str) -> Iterator[str | tuple[str, ...]]:
    """The marked messages of Python. Babel's own extractor sees none within an f-string."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="_" | "N_"), args=[ast.Constant(value=str(text)), *_]):
                yield text
            case ast.Call(
                func=ast.Name(id="ngettext"),
                args=[ast.Constant(value=str(one)), ast.Constant(value=str(many)), *_],
            ):
                yield one, many


def sentences(source: str, takes_phrases: bool = False) -> Iterator[str]:
    """The sentences of unmarked Python, with a named place for each value."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or _is_unread(node, parents):
            continue
        text = _template(node).strip()
        is_raised = any(isinstance(one, ast.Raise) for one in _around(node, parents))
        wanted = PHRASE if takes_phrases else RAISED if is_raised else SENTENCE
        if wanted.match(text) and WORDS.search(text) and not CODE.match(text):
            yield text


def _around(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while node in parents:
        node = parents[node]
        yield node


def _is_unread(node: ast.Constant | ast.JoinedStr, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether it is no text, documentation, a part of another string, or for the log."""
    if isinstance(node, ast.Constant) and not isinstance(node.value, str):
        return True
    if isinstance(parents.get(node), ast.Expr | ast.FormattedValue | ast.JoinedStr):
        return True
    for one in _around(node, parents):
        if isinstance(one, ast.Call):
            called = one.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            return name in LOGS
        if isinstance(one, ast.FormattedValue):
            return False
    return False


def _template(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value).replace("{}", "{sign}")  # one that `format` fills in
    text, names = "", dict[str, str]()
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
        elif isinstance(part, ast.FormattedValue):
            text += f"{{{_place(part.value, names)}}}"
    return text


def _place(value: ast.expr, names: dict[str, str]) -> str:
    """The name of a value's place: of two values with one name, the second has a number."""
    base = re.sub(r"\W+", "_", _name(value)).strip("_").lower() or "value"
    said, name, number = ast.unparse(value), base, 2
    while names.get(name, said) != said:
        name, number = f"{base}_{number}", number + 1
    names[name] = said
    return name


def _name(value: ast.expr) -> str:
    match value:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=ast.Name(id="len")):
            return "number"
        case ast.Call(args=[first, *_rest]):
            return _name(first)
        case ast.Call(func=called):
            return _name(called)
        case ast.Subscript(value=inner):
            return _name(inner)
        case _:
            return "value"


def update() -> None:
    """Bring the catalogues up to date: new messages stand in them without a translation."""
    found = extracted()
    for code in LANGUAGES:
        if code != SOURCE:
            catalog = read(code)
            catalog.update(found, no_fuzzy_matching=True)
            catalog.obsolete.clear()
            with path_of(code).open("wb") as file:
                write_po(file, catalog, width=100, sort_by_file=True, include_lineno=False)


if __name__ == "__main__":
    update()
