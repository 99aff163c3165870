"""The guard before the studio, asked through real sockets: who is counted, and what is endured."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from studio.store import Store
from studio.ui import connections, guard
from studio.ui.app import build, server
from tests.browser.seed import export_files

AUTH = ("ada", "secret")
RIGHT, WRONG = (
    {"Authorization": "Basic " + b64encode(text).decode()} for text in (b"ada:secret", b"ada:x")
)
PATH = "/studio/favicon.svg"


@contextlib.contextmanager
def serving(store: Store, **options: object) -> Iterator[int]:
    """The port of the real server over `store`."""
    served = server(store, "127.0.0.1", 0, **options)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    while not served.started:
        assert thread.is_alive(), "the server ended"
        time.sleep(0.02)
    yield served.servers[0].sockets[0].getsockname()[1]
    served.should_exit = True
    thread.join()


@pytest.fixture
def port(store: Store) -> Iterator[int]:
    with serving(store, auth=AUTH) as found:
        yield found


@pytest.fixture(scope="module")
def open_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port; without a password, as on the artist's own machine."""
    home = tmp_path_factory.mktemp("home")
    with contextlib.closing(Store.open(home)) as store, serving(store) as found:
        yield found


def ask(port: int, headers: dict[str, str], path: str = PATH) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.body = answer.read()
        return answer


# --- what is served ------------------------------------------------------------------------------


def test_what_an_archive_brought_is_only_to_be_saved(store, session, monkeypatch):
    """Whatever its name says, it is bytes; a PNG is a PNG, whatever the system's table says."""
    monkeypatch.setattr("starlette.responses.guess_type", lambda *_: ("text/html", None))
    names = ("x.js", "x.mjs", "x.html", "x.svg", "x.xhtml", "x.css", "x.wasm", "x", "x.safetensors")
    paths = export_files(store, session, *names, "check.png")
    with serving(store) as port:
        answers = [ask(port, {}, path) for path in paths]
    for answer in answers:
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == guard.FOREIGN_POLICY
        assert answer.headers["Content-Disposition"].startswith("attachment")
    types = [answer.headers["Content-Type"] for answer in answers]
    assert types == ["application/octet-stream"] * len(names) + ["image/png"]


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        ("text/html", "application/octet-stream"),
        ("Text/HTML; charset=utf-8", "application/octet-stream"),
        ("text/javascript", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("text/xml", "application/octet-stream"),
        ("application/pdf", "application/octet-stream"),
        ("image/png", "image/png"),
        ("application/json", "application/json"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
    ],
)
def test_only_the_programs_own_files_have_a_type_that_runs(kind, served):
    """Whatever a route says, one that does not exist yet too."""

    async def says(scope, receive, send):
        await Response(b"<script>", media_type="x", headers={"content-type": kind})(
            scope, receive, send
        )

    client = TestClient(guard.Guard(says), base_url="http://127.0.0.1")
    for path in ("/exports/x", "/new", "/configs", "/studio", "//studio/x", "/images/studio/x"):
        headers = client.get(path).headers
        assert headers["content-type"] == served
        assert headers["content-security-policy"] == guard.FOREIGN_POLICY
        saved = headers.get("content-disposition") == "attachment"
        assert saved == (served == "application/octet-stream")
    assert client.get("/studio/x").headers["content-type"] == kind


def test_gradio_serves_no_file_of_its_cache(store, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # as it was, afterwards
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    with serving(store) as port:
        cache = Path(os.environ["GRADIO_TEMP_DIR"])
        cache.mkdir(exist_ok=True)
        (cache / "x.html").write_text("<script>canary</script>")
        for path in (
            f"/gradio_api/file={cache}/x.html",
            f"/gradio_api/file/{cache}/x.html",
            f"/gradio_api/%66ile={cache}/x.html",
            f"/file={cache}/x.html",
            f"//gradio_api/file={cache}/x.html",
            "/gradio_api/stream/x/y/1/playlist-file",
        ):
            answer = ask(port, {}, path)
            assert answer.status in (403, 404), path
            assert b"canary" not in answer.body


# --- how much is endured -------------------------------------------------------------------------


def opened(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(sent)
    return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side ends it, in whatever way."""
    parts = []
    with contextlib.suppress(ConnectionError), connection:
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


HALF = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ".encode()


@pytest.mark.parametrize("half", [b"", b"G", HALF, HALF + b"1\r\n", HALF + b"1\r\n\r\n" + HALF])
def test_half_requests_leave_it_reachable(store, half):
    """As many as there are files a process may open on many systems, and more."""
    with serving(store, auth=AUTH) as port, contextlib.ExitStack() as held:
        for _ in range(1300 if half == HALF else connections.MOST_CONNECTIONS + 20):
            held.enter_context(opened(port, half))
        assert ask(port, RIGHT).status == 200
        assert ask(port, {}).status == 401


def test_there_are_never_more_connections_than_there_is_room_for(store, monkeypatch):
    """And who was let in stays; the oldest of those who wait goes."""
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    with serving(store) as port, contextlib.ExitStack() as held:
        head = b"POST /parameters HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n"
        let_in = held.enter_context(opened(port, head + b"Expect: 100-continue\r\n\r\n"))
        assert let_in.recv(100).startswith(b"HTTP/1.1 100")
        first, second, third = (held.enter_context(opened(port, HALF)) for _ in range(3))
        assert all_of(first) == b""
        let_in.sendall(b"abcd")
        assert let_in.recv(1 << 16).startswith(b"HTTP/1.1 200")
        for one in (second, third):
            one.sendall(b"1\r\nConnection: close\r\n\r\n")
            assert all_of(one).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", HALF, HALF + b"1\r\n\r\n" + HALF])
def test_whoever_does_not_say_what_he_wants_is_not_waited_for(store, monkeypatch, sent):
    monkeypatch.setattr(connections, "PATIENCE_S", 0.2)
    with serving(store, auth=AUTH) as port:
        all_of(opened(port, sent))  # it ends: else the socket's patience does, with an error


def test_a_drop_at_a_time_is_too_slow_as_well(store, monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE_S", 0.2)
    sent = 0
    cut_off = contextlib.suppress(ConnectionError)
    with serving(store) as port, opened(port, HALF) as connection, cut_off:
        while sent < 1000:
            connection.sendall(b"x")
            sent += 1
            time.sleep(0.01)
    assert sent < 1000


def test_a_body_that_does_not_come_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(guard, "BODY_PATIENCE_S", 0.2)
    head = b"POST /parameters HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx"
    with serving(store) as port:
        assert b" 200 " not in all_of(opened(port, head))


CHUNK = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", PATH), ("POST", "/parameters"), ("POST", "/sessions")]
)
@pytest.mark.parametrize(
    ("framing", "code"),
    [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Transfer-Encoding: chunked", 411),
        ("Transfer-Encoding: gzip, chunked", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 1_0", 400),
    ],
)
def test_no_framing_carries_more_than_there_is_room_for(open_studio, method, path, framing, code):
    """300 MB are offered; what is not taken within a moment is not waited for."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}\r\n\r\n".encode()
    with contextlib.closing(opened(open_studio, head)) as connection:
        assert connection.recv(100).partition(b" ")[2].startswith(str(code).encode())
        taken = 0
        with contextlib.suppress(OSError):
            while taken < 300:
                connection.sendall(CHUNK)
                taken += 1
        assert taken < 60  # 16, and what the system's buffers hold


def test_before_the_password_no_body_is_read(store):
    head = b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 300000000\r\n\r\n"
    with serving(store, auth=AUTH) as port, opened(port, head) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401")
        taken = 0
        with contextlib.suppress(OSError):
            while taken < 300:
                connection.sendall(CHUNK)
                taken += 1
        assert taken < 60


def test_whoever_sent_too_much_still_sees_the_answer(open_studio):
    connection = http.client.HTTPConnection("127.0.0.1", open_studio, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/parameters", body=b"x" * (guard.LARGEST_BODY_BYTES + 1))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (413, b"This is too much at once.")


def test_a_body_of_no_said_length_is_counted():
    """Whatever server is in front: the guard counts what comes."""
    sent = []

    async def receive():
        sent.append(1)
        return {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}

    async def read() -> None:
        bounded = guard.bounded_body(receive, guard.LARGEST_BODY_BYTES)
        while (await bounded())["type"] == "http.request":
            pass

    asyncio.run(read())
    assert len(sent) == guard.LARGEST_BODY_BYTES // 1_000_000 + 1


# --- who asks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "x-forwarded-for"]
)
def test_wrong_passwords_are_counted_whatever_they_say_of_their_sender(port, name):
    said = [
        ask(port, {**WRONG, name: f"{'for=' * (name == 'Forwarded')}10.0.0.{number}"}).status
        for number in range(guard.MOST_ATTEMPTS + 5)
    ]
    assert said == [401] * guard.MOST_ATTEMPTS + [429] * 5


def test_nobody_locks_out_a_browser_that_knew_the_password(port):
    """From its own address too, as behind a proxy or on a machine where others log in."""
    first = ask(port, RIGHT)
    cookie = first.headers["Set-Cookie"].partition(";")[0]
    assert "HttpOnly; SameSite=Strict" in first.headers["Set-Cookie"]
    known = {"Cookie": f"theme=dark; {cookie}"}
    assert ask(port, RIGHT | known).headers["Set-Cookie"] is None  # one is enough
    for _ in range(guard.MOST_ATTEMPTS):
        assert ask(port, WRONG).status == 401
    assert ask(port, RIGHT).status == 429
    assert ask(port, RIGHT | known).status == 200
    name, _, signature = cookie.partition(".")
    forged = {"Cookie": f"{name}.{'0' * len(signature)}"}
    assert ask(port, RIGHT | forged).status == 429
    for _ in range(guard.MOST_ATTEMPTS):  # the cookie itself guesses no faster, and is no password
        assert ask(port, WRONG | known).status == 401
    assert ask(port, RIGHT | known).status == 429


def test_many_addresses_guess_no_faster_than_a_few(store, monkeypatch):
    app = build(store, auth=AUTH)

    def pair_queue(number: int) -> TestClient:
        return TestClient(app, base_url="http://studio.example", client=(f"10.0.0.{number}", 1))

    known = pair_queue(0)
    assert known.get(PATH, headers=RIGHT).status_code == 200
    attempts = range(1, guard.MOST_ATTEMPTS_OF_ALL + 6)
    said = [pair_queue(number).get(PATH, headers=WRONG).status_code for number in attempts]
    assert said == [401] * guard.MOST_ATTEMPTS_OF_ALL + [429] * 5
    assert known.get(PATH, headers=RIGHT).status_code == 200
    assert pair_queue(250).get(PATH, headers=RIGHT).status_code == 429
    monkeypatch.setattr(guard, "WAIT_S", 0.0)
    assert pair_queue(250).get(PATH, headers=RIGHT).status_code == 200


CLAIMS = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}


def test_what_a_request_says_of_its_sender_is_not_believed(store):
    """Gradio builds the addresses of a page's parts from such headers."""
    with serving(store) as port:
        told = ask(port, CLAIMS, "/config").body
    assert b"evil.example" not in told
    assert f"http://127.0.0.1:{port}".encode() in told


def test_a_proxy_that_was_named_is_believed_and_no_other(store):
    page = {**RIGHT, "Host": "studio.example", "X-Forwarded-Proto": "https"}
    with serving(store, auth=AUTH, proxy="127.0.0.1") as port:
        assert b"https://studio.example" in ask(port, page, "/config").body
        for number in range(guard.MOST_ATTEMPTS * 2):  # each is another's first
            assert ask(port, {**WRONG, "X-Forwarded-For": f"10.0.0.{number}"}).status == 401
        spoofed = [
            ask(port, {**WRONG, "X-Forwarded-For": f"10.1.0.{number}, 10.2.0.1"}).status
            for number in range(guard.MOST_ATTEMPTS + 1)
        ]
        assert spoofed[-1] == 429  # the proxy writes last: what stands before it is the client's
    with serving(store, auth=AUTH, proxy="192.0.2.1") as port:
        assert b"https://studio.example" not in ask(port, page, "/config").body
