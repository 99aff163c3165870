"""A hub on this machine: the few things that huggingface_hub asks for, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-model"


class Hub:
    """Serves the files of a folder as the model `REPO`. asked: every (method, path, range).

    cut: the connection ends once after so many bytes of a file. status: what every question is
    answered with, where it is not 200. gated: everybody may see it, nobody may have it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, str]] = []
        self.cut: dict[str, int] = {}
        self.status = 200
        self.gated = False
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield self
        server.shutdown()
        server.server_close()

    def names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        start = f"/{REPO}/resolve/"
        paths = [path for method, path, _ in self.asked if method == "GET"]
        return [path.removeprefix(start).split("/", 1)[1] for path in paths if start in path]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                path = unquote(urlparse(self.path).path)
                hub.asked.append((self.command, path, self.headers.get("Range", "")))
                if hub.status != 200:
                    return self._refuse(hub.status, "")
                if path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/main"):
                    return self._send(json.dumps(self._about()).encode(), with_body, {})
                start = f"/{REPO}/resolve/"
                if not path.startswith(start):
                    return self._refuse(404, "RepoNotFound")
                if hub.gated:
                    return self._refuse(403, "GatedRepo")
                name = path.removeprefix(start).split("/", 1)[1]
                if name not in hub.names():
                    return self._refuse(404, "EntryNotFound")
                content = (hub.folder / name).read_bytes()
                headers = {
                    "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                }
                return self._send(content, with_body, headers, name)

            def _about(self) -> dict[str, object]:
                siblings = [
                    {"rfilename": name, "size": (hub.folder / name).stat().st_size}
                    for name in hub.names()
                ]
                return {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings}

            def _send(
                self, content: bytes, with_body: bool, headers: dict[str, str], name: str = ""
            ) -> None:
                first, status = 0, 200
                if asked := self.headers.get("Range", ""):
                    first, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
                    headers = headers | {
                        "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"
                    }
                body = content[first:]
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if not with_body:
                    return
                if (at := hub.cut.pop(name, None)) is not None:
                    self.wfile.write(body[:at])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(body)

            def _refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
