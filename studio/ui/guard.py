"""What keeps other web pages, and other people, out of the studio.

A page anywhere on the web can send requests to a server on the artist's own machine. So a request
must name this machine as its host (against DNS rebinding), must not come from another origin, and
must not be embedded. When the studio listens beyond this machine, a name and a password are asked
for instead of the host, for every route there is: pages, pictures and downloads.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})

# Gradio compiles its templates in the browser, hence 'unsafe-eval'; it styles elements in place.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware around the whole studio. `auth` is (user, password) beyond loopback."""

    def __init__(self, app: ASGIApp, auth: tuple[str, str] | None = None) -> None:
        self.app = app
        self.auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope.get("method", "GET"))
        if scope["type"] != "http":  # gradio opens no websocket; what refuses has no answer there
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, headers: Headers, method: str) -> Response | None:
        """The answer to a request that is not let in; None lets it in."""
        host = headers.get("host", "")
        if self.auth is None:
            if _name(host) not in LOOPBACK_NAMES:
                return PlainTextResponse("The studio answers only on this machine.", 403)
        elif not self._knows(headers.get("authorization", "")):
            return PlainTextResponse(
                "This studio asks for a name and a password.",
                401,
                {"WWW-Authenticate": 'Basic realm="D3PO Studio", charset="UTF-8"'},
            )
        if not _same_origin(headers, host, method):
            return PlainTextResponse("The studio does not answer other pages.", 403)
        return None

    def _knows(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        if self.auth is None or scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return secrets.compare_digest(given, ":".join(self.auth).encode())


def _same_origin(headers: Headers, host: str, method: str) -> bool:
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return False
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # A link elsewhere may open the studio in a tab; nothing else may reach into it.
    opens_a_tab = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return opens_a_tab == ("navigate", "document") and method == "GET"


def _name(host: str) -> str:
    """`localhost` of `localhost:7860`, `[::1]` of `[::1]:7860`."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host.lower()
