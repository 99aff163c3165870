"""The pages' own files: all of them are there, with a type, for good, and of one version."""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio.ui import static

IMPORT = re.compile(r'^import .*? from "([^"]+)";$', re.MULTILINE)
MODULES = [name for name in static.FILES if name.endswith(".js") and name != static.THEME]


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(static.routes())
    return TestClient(app)


@pytest.mark.parametrize("name", [name for name in static.FILES if "messages/" not in name])
def test_each_file_has_its_type_and_is_kept_for_good(client, name):
    answer = client.get(static.address(name))
    assert answer.content == (static.ASSETS / name).read_bytes()
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].partition(";")[0] == kinds[name[name.rindex(".") :]]
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "/studio/0000000000000000/base/tokens.css",
        f"/studio/{static.VERSION}/base/none.css",
        f"/studio/{static.VERSION}/prefer/prefer.html",
        f"/studio/{static.VERSION}/../static.py",
        f"/studio/{static.VERSION}/%2e%2e/static.py",
        f"/studio/{static.VERSION}//etc/passwd",
        f"/studio/{static.VERSION}",
    ],
)
def test_nothing_else_is_there(client, path):
    assert client.get(path).status_code == 404


def test_the_version_is_that_of_the_content():
    files = {"a.js": b"1", "b.js": b"2"}
    assert static.version_of(files) == static.version_of(dict(files))
    for other in ({"a.js": b"12", "b.js": b""}, {"a.js": b"1", "c.js": b"2"}, {"a.js": b"1"}):
        assert static.version_of(other) != static.version_of(files)


def test_the_page_loads_each_style_sheet_in_its_order():
    sheets = {name for name in static.FILES if name.endswith(".css")}
    assert set(static.STYLES) == sheets
    assert len(static.STYLES) == len(sheets)
    linked = re.findall(r'rel="stylesheet" href="([^"]+)"', static.head())
    assert linked == [static.address(name) for name in static.STYLES]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_is_there(name):
    content = static.FILES[name].decode()
    assert len(IMPORT.findall(content)) == len(re.findall(r"^import\b", content, re.MULTILINE))
    for address in IMPORT.findall(content):
        found = normpath(join(dirname(name), address))
        assert found in MODULES, f"{name} imports {address}"


def test_no_module_imports_itself_by_way_of_others():
    def imports(name: str) -> list[str]:
        found = IMPORT.findall(static.FILES[name].decode())
        return [normpath(join(dirname(name), address)) for address in found]

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        for one in imports(name):
            walk(one, (*way, name))

    for name in MODULES:
        walk(name, ())
