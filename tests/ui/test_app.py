"""The web application without a browser: the guard before every route, and the pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from base64 import b64encode
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from studio.store import Store
from studio.ui import guard, static
from studio.ui.app import build, serve, server

LOCAL = {"host": "127.0.0.1:7860"}
STYLES, SCRIPT = static.address("base/tokens.css"), static.address("shared/page.js")


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory):
    store = Store.open(tmp_path_factory.mktemp("home"))
    yield store
    store.close()


@pytest.fixture(scope="module")
def client(module_store: Store) -> TestClient:
    """The studio as others reach it on this machine."""
    return TestClient(build(module_store), base_url="http://127.0.0.1:7860")


@pytest.fixture(scope="module")
def guarded_app(module_store: Store):
    return build(module_store, auth=("ada", "secret: x"))


@pytest.fixture
def guarded_client(guarded_app) -> TestClient:
    """The studio when it listens beyond this machine; each test comes from another address."""
    address = (uuid.uuid4().hex, 50_000)
    return TestClient(guarded_app, base_url="http://studio.example:7860", client=address)


# --- the guard -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860"])
def test_names_of_this_machine_are_let_in(client, host):
    assert client.get(STYLES, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil:80",
        "",
        "[::]",
    ],
)
def test_any_other_host_is_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 403
    assert "only on this machine" in answer.text


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:3000", "http://127.0.0.1:7861", "null", "file://"],
)
def test_another_origin_is_refused(client, origin):
    answer = client.post(
        "/gradio_api/run/predict", json={"data": []}, headers={**LOCAL, "origin": origin}
    )
    assert answer.status_code == 403


def test_its_own_origin_is_let_in(client):
    headers = {**LOCAL, "origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert client.get(SCRIPT, headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "destination", "method", "status"),
    [
        ("navigate", "document", "GET", 200),  # a link in a mail opens the studio
        ("navigate", "document", "POST", 403),  # a form on another page does not
        ("navigate", "iframe", "GET", 403),
        ("no-cors", "image", "GET", 403),
        ("cors", "empty", "GET", 403),
    ],
)
def test_other_pages_may_only_link(client, site, mode, destination, method, status):
    headers = {
        **LOCAL,
        "sec-fetch-site": site,
        "sec-fetch-mode": mode,
        "sec-fetch-dest": destination,
    }
    assert client.request(method, "/", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/", STYLES, SCRIPT, "/images/none", "/config"])
def test_every_answer_carries_the_security_headers(client, path):
    headers = client.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    expected = "default-src 'none'; sandbox" if "none" in path else "default-src 'self'"
    assert expected in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


PATHS = ("/", "/config", "/images/none", "/exports/a/b/c", STYLES, "/gradio_api/info")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [None, "Basic", "Basic ???", "Bearer x", "Basic " + b64encode(b"ada:wrong").decode()],
)
def test_beyond_this_machine_every_route_asks_for_the_password(guarded_client, path, authorization):
    headers = {"authorization": authorization} if authorization else {}
    answer = guarded_client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_with_the_password_one_is_let_in_under_any_host(guarded_client):
    headers = {"authorization": "Basic " + b64encode(b"ada:secret: x").decode()}
    assert guarded_client.get(STYLES, headers=headers).status_code == 200
    headers["origin"] = "http://evil.example"
    assert guarded_client.get(STYLES, headers=headers).status_code == 403


def test_wrong_passwords_are_counted(module_store, monkeypatch):
    app = build(module_store, auth=("ada", "secret"))
    client = TestClient(app, base_url="http://studio.example:7860", client=("10.0.0.1", 1))
    other = TestClient(app, base_url="http://studio.example:7860", client=("10.0.0.2", 1))
    right, wrong = (
        {"authorization": "Basic " + b64encode(text).decode()} for text in (b"ada:secret", b"ada:x")
    )
    path = STYLES
    for _ in range(guard.MOST_ATTEMPTS * 2):
        assert client.get(path).status_code == 401  # a browser that asks for the password
    for _ in range(guard.MOST_ATTEMPTS):
        assert client.get(path, headers=wrong).status_code == 401
    for headers in (wrong, right):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "60"
    assert other.get(path, headers=right).status_code == 200
    monkeypatch.setattr(guard, "WAIT_S", 0.0)
    assert client.get(path, headers=right).status_code == 200


def routes_of(routes) -> list[tuple[str, str]]:
    """Every (method, path) that an app answers, the mounted ones among them."""
    found = []
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            found += routes_of(inner.routes)
        else:
            path = re.sub(r"\{(\w+)(:path)?\}", "x", route.path)
            found += [(method, path) for method in sorted(route.methods)]
    return found


ATTACKS = {
    "rebinding": {"host": "evil.example:7860"},
    "no host": {"host": ""},
    "a foreign origin": {"origin": "http://evil.example"},
    "a null origin": {"origin": "null"},
    "another port": {"origin": "http://127.0.0.1:7861"},
    "a cross-site fetch": {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "cors",
        "sec-fetch-dest": "empty",
    },
    "a frame": {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "iframe",
    },
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_route_refuses_every_attack(client, attack):
    found = routes_of(client.app.routes)
    assert len(found) > 60  # the walk goes through gradio's own routes too
    for known in (("GET", "/images/x"), ("POST", "/gradio_api/queue/join"), ("GET", "/config")):
        assert known in found
    for method, path in found:
        answer = client.request(method, path, headers={**LOCAL, **ATTACKS[attack]})
        assert answer.status_code == 403, (method, path)


def test_beyond_this_machine_every_route_there_is_asks_for_the_password(guarded_client):
    for method, path in routes_of(guarded_client.app.routes):
        assert guarded_client.request(method, path).status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=studio.sqlite",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://evil.example/",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/svelte/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/studio/..%2fapp.py",
        "/images/..%2f..%2fstudio.sqlite/master",
        "/gradio_api/custom_component/x/server/component/../../../../etc/passwd",
    ],
)
def test_no_file_is_read_but_what_the_store_names(client, path):
    answer = client.get(path, headers=LOCAL)
    assert answer.status_code in (400, 403, 404), path
    assert b"root:" not in answer.content
    assert b"SQLite format" not in answer.content


def test_nothing_can_be_uploaded_and_nothing_endless_sent(client):
    files = {"files": ("x.png", b"x")}
    assert client.post("/gradio_api/upload", files=files, headers=LOCAL).status_code == 404
    join = "/gradio_api/queue/join"
    large = b"x" * (guard.LARGEST_BODY_BYTES + 1)
    assert client.post(join, content=large, headers=LOCAL).status_code == 413
    endless = client.post(join, content=(b"x" for _ in range(3)), headers=LOCAL)
    assert endless.status_code == 411


def test_a_page_runs_only_the_scripts_that_it_was_served_with(client):
    page = client.get("/", headers=LOCAL)
    policy = page.headers["content-security-policy"]
    [scripts] = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert "unsafe-inline" not in scripts
    inline = re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page.text)
    assert inline
    assert scripts.count("sha256-") == len(inline)
    elsewhere = client.get("/images/none", headers=LOCAL).headers["content-security-policy"]
    assert "sha256-" not in elsewhere


def test_listening_to_others_without_a_password_is_refused(store):
    with pytest.raises(ValueError, match="password"):
        serve(store, host="0.0.0.0", port=0)


def test_what_a_killed_studio_left_unfinished_is_gone(store, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # as it was, afterwards
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    left = store.home / "temporary" / "half a file"
    left.parent.mkdir()
    left.touch()
    server(store, "127.0.0.1", 0)
    assert not left.exists()
    assert Path(os.environ["GRADIO_TEMP_DIR"]) == left.parent


def test_a_click_before_the_page_shows_anything_does_nothing(client, module_store):
    """The forms hold no session's values yet: they must not be taken for anybody's."""
    config = client.get("/config").json()
    parts = {one["id"]: one["props"] for one in config["components"]}
    ids = {props.get("elem_id"): id_ for id_, props in parts.items()}
    save = next(
        one for one in config["dependencies"] if [ids["export-make"], "click"] in one["targets"]
    )
    before = module_store.version()
    body = {
        "data": [parts[id_].get("value") for id_ in save["inputs"]],
        "fn_index": save["id"],
        "session_hash": uuid.uuid4().hex,
    }
    answer = client.post("/gradio_api/run/predict", json=body, headers=LOCAL)
    assert answer.status_code == 200
    assert "The page was still loading" in answer.text
    assert module_store.version() == before


def test_gradios_own_doors_are_shut(client):
    for path in ("/docs", "/openapi.json", "/redoc", "/monitoring"):
        assert client.get(path).status_code in (403, 404), path


def test_building_the_app_imports_no_torch(tmp_path):
    script = (
        "import sys; from pathlib import Path; from studio.store import Store; "
        "from studio.ui.app import build; build(Store.open(Path(sys.argv[1]))); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split()[-1] == "False"


def test_the_page_asks_for_nothing_from_another_machine(client):
    page = client.get("/").text
    for attribute in ('src="http', "src='http", 'href="http', "href='http"):
        assert attribute not in page
