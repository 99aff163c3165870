"""The guard: keeps other web pages, and other people, out of the studio.

A page anywhere on the web can send requests to a server on the artist's own machine. So a request
must name this machine as its host (against DNS rebinding), must not come from another origin, and
must not be embedded. When the studio listens beyond this machine, every route asks for a name and a
password instead: pages, pictures and downloads. The sender of a request is the address of its
socket; headers about the sender are believed only from the named proxy.

If foreign markup ever gets into a page, the browser runs no script in it. It runs only the scripts
that were in the page when it was served, by their checksums. Files from an artist or an archive
cannot be scripts either: all but the program's own files are served with a type that cannot run.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import math
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from studio.ui.connections import LET_IN

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})

# Gradio compiles its templates in the browser, hence 'unsafe-eval'; it styles elements in place.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-eval' blob:{scripts}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "frame-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

# The program's own files lie under these paths; any other file may come from anybody.
OWN_PATHS = re.compile(r"/(?:$|(?:assets|gradio_api|static|studio|svelte)/|config/?$|theme\.css$)")
FOREIGN_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
FOREIGN_TYPES = frozenset(
    (
        *("image/png", "image/jpeg", "image/webp", "image/gif"),
        *("application/json", "application/zip", "text/plain"),
    )
)
BYTES = "application/octet-stream"

SECURITY_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# Routes of gradio that the studio never uses: such a request comes from elsewhere.
UNUSED_PATHS = re.compile(
    r"/(?:gradio_api/(?:upload|file|proxy|stream|custom_component|process_recording|dev|deep_link"
    r"|token|runs|openapi|vibe|undo-vibe)|login|logout|monitoring|pwa_icon|manifest\.json)"
)
LARGEST_BODY_BYTES = 16_000_000  # room for all prompts of the largest session, and more
MOST_DIGITS = 20
BODY_PATIENCE_S = 60.0  # for the next part of a body
LINGER_S = 2.0  # reads on after a refusal: else the sender may not see the answer
ARCHIVES_PATH = "/sessions"  # a session with its pictures may be larger: as the disk has room
INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script", re.DOTALL | re.IGNORECASE)

MOST_ATTEMPTS = 10  # wrong passwords from one address before it has to wait
MOST_ATTEMPTS_OF_ALL = 100  # from all addresses together before every new sender has to wait
WAIT_S = 60.0
MOST_SENDERS = 10_000
EVERYBODY = "everybody"
COOKIE = re.compile(r"(?:^|; )d3po-studio=([0-9a-f]{32}\.[0-9a-f]{64})(?:;|$)")
COOKIE_RULES = "Path=/; HttpOnly; SameSite=Strict"
FORWARDED = re.compile(rb"forwarded$|x-forwarded-|x-real-ip$|x-client-ip$", re.IGNORECASE)


class Forwarded:
    """ASGI middleware: drops the forwarding headers of everybody but `proxy`, an address.

    Otherwise gradio would build its URLs from such headers, and uvicorn would take the sender's
    address from them.
    """

    def __init__(self, app: ASGIApp, proxy: str | None = None) -> None:
        self.app = app
        self.believing = ProxyHeadersMiddleware(app, trusted_hosts=[proxy]) if proxy else None
        self.proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.believing and scope.get("client") and scope["client"][0] == self.proxy:
            await self.believing(scope, receive, send)
            return
        if "headers" in scope:
            kept = [header for header in scope["headers"] if not FORWARDED.match(header[0])]
            scope = {**scope, "headers": kept}
        await self.app(scope, receive, send)


class LoginThrottle:
    """Counts wrong passwords; a sender of too many has to wait.

    They are counted by sender and all together, so that many addresses guess no faster than a few.
    A browser that once sent the right password holds a cookie, signed for this run of the studio,
    and is counted by its cookie. So others cannot make it wait, from its own address or from many.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._wrong: dict[str, tuple[int, float]] = {}  # sender: (count, time of the last one)

    def new_cookie(self) -> str:
        return self._signed(secrets.token_hex(16))

    def sender(self, address: str, cookie: str) -> str:
        """The key to count by: a cookie of ours, or else the address."""
        return cookie if self.is_ours(cookie) else address

    def is_ours(self, cookie: str) -> bool:
        return secrets.compare_digest(cookie, self._signed(cookie.partition(".")[0]))

    def is_blocked(self, sender: str) -> bool:
        """Whether this sender has to wait."""
        if self._count(sender) >= MOST_ATTEMPTS:
            return True
        return not self.is_ours(sender) and self._count(EVERYBODY) >= MOST_ATTEMPTS_OF_ALL

    def add(self, sender: str) -> None:
        """Count a wrong password."""
        for key in (sender, *(() if self.is_ours(sender) else (EVERYBODY,))):
            count = self._count(key)
            self._wrong.pop(key, None)
            if len(self._wrong) >= MOST_SENDERS:  # a flood from many senders: drop the oldest
                del self._wrong[next(iter(self._wrong))]
            self._wrong[key] = (count + 1, time.monotonic())

    def _count(self, sender: str) -> int:
        count, last_s = self._wrong.get(sender, (0, 0.0))
        return count if time.monotonic() - last_s < WAIT_S else 0

    def _signed(self, name: str) -> str:
        return f"{name}.{hmac.new(self._key, name.encode(), 'sha256').hexdigest()}"


class Guard:
    """ASGI middleware around the whole studio.

    `auth`: (user, password) if the studio listens beyond this machine.
    """

    def __init__(self, app: ASGIApp, auth: tuple[str, str] | None = None) -> None:
        self.app = app
        self.auth = auth
        self.throttle = LoginThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope)
        if scope["type"] != "http":  # gradio opens no websocket, so none is answered
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return

        is_new = self.auth is not None and not self.throttle.is_ours(_cookie(Headers(scope=scope)))
        page: list[Message] = []  # an HTML page is held back until its scripts are hashed

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if OWN_PATHS.match(scope["path"]):
                    headers["Content-Security-Policy"] = content_security_policy(b"")
                else:
                    _disarm(headers)
                if refusal is None and is_new:
                    cookie = self.throttle.new_cookie()
                    headers.append("set-cookie", f"d3po-studio={cookie}; {COOKIE_RULES}")
                if _type(headers) == "text/html":
                    page.append(message)
                    return
            elif page:
                page.append(message)
                if message.get("more_body"):
                    return
                body = b"".join(part.get("body", b"") for part in page[1:])
                headers = MutableHeaders(scope=page[0])
                headers["Content-Security-Policy"] = content_security_policy(body)
                for part in page:
                    await send(part)
                return
            await send(message)

        if scope["path"] == "/":  # uncompressed, so that its scripts can be hashed
            plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            scope = {**scope, "headers": plain}
        if refusal is None:
            scope.setdefault("state", {})[LET_IN] = True
            most = math.inf if scope["path"] == ARCHIVES_PATH else LARGEST_BODY_BYTES
            await self.app(scope, bounded_body(receive, most), send_guarded)
        else:
            await _refuse(refusal, scope, receive, send_guarded)

    def _refusal(self, headers: Headers, scope: Scope) -> Response | None:
        """The answer to a refused request; None lets the request in."""
        host, method = headers.get("host", ""), scope.get("method", "GET")
        sender = self.throttle.sender((scope.get("client") or ("", 0))[0], _cookie(headers))
        if self.auth is None:
            if _name(host) not in LOOPBACK_NAMES:
                return PlainTextResponse("The studio answers only on this machine.", 403)
        elif self.throttle.is_blocked(sender):
            return PlainTextResponse(
                "Too many wrong passwords: wait a minute.", 429, {"Retry-After": f"{WAIT_S:.0f}"}
            )
        elif not self._knows(headers.get("authorization", "")):
            if "authorization" in headers:  # a browser's first request has none
                self.throttle.add(sender)
            return PlainTextResponse(
                "This studio asks for a name and a password.",
                401,
                {"WWW-Authenticate": 'Basic realm="D3PO Studio", charset="UTF-8"'},
            )
        if not _same_origin(headers, host, method):
            return PlainTextResponse("The studio does not answer other pages.", 403)
        if UNUSED_PATHS.match(scope["path"]):
            return PlainTextResponse("The studio has nothing here.", 404)
        if "transfer-encoding" in headers and "content-length" in headers:
            return PlainTextResponse("Say how long it is in one way.", 400)
        has_none = method in ("GET", "HEAD", "OPTIONS") and "transfer-encoding" not in headers
        length = headers.get("content-length", "0" if has_none else "")
        if not (length.isascii() and length.isdigit() and len(length) <= MOST_DIGITS):
            return PlainTextResponse("Say how long it is.", 411)
        if int(length) > LARGEST_BODY_BYTES and scope["path"] != ARCHIVES_PATH:
            return PlainTextResponse("This is too much at once.", 413)
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


def content_security_policy(page: bytes) -> str:
    """The policy for an answer with this content: only the scripts that it has now may run."""
    scripts = (text.replace(b"\r\n", b"\n") for text in INLINE_SCRIPT.findall(page))
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in scripts)
    known = "".join(f" 'sha256-{digest}'" for digest in digests)
    return CONTENT_SECURITY_POLICY.replace("{scripts}", known)


def _same_origin(headers: Headers, host: str, method: str) -> bool:
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return False
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # A link on another page may open the studio in a tab; any other access is refused.
    opens_a_tab = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return opens_a_tab == ("navigate", "document") and method == "GET"


def bounded_body(receive: Receive, most_bytes: float) -> Receive:
    """`receive` for a request whose body is cut off if it is too long or too slow."""
    received, is_whole = 0, False

    async def receive_bounded() -> Message:
        nonlocal received, is_whole
        if is_whole:  # now it waits for the end of the connection
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), BODY_PATIENCE_S)
        except TimeoutError:
            return {"type": "http.disconnect"}
        received += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        return message if received <= most_bytes else {"type": "http.disconnect"}

    return receive_bounded


async def _refuse(refusal: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, read on for a moment, and close the connection."""
    refusal.headers["Connection"] = "close"

    async def send_and_linger(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    rest = bounded_body(receive, LARGEST_BODY_BYTES)
                    while (await rest()).get("more_body"):
                        pass
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    await refusal(scope, receive, send_and_linger)


def _disarm(headers: MutableHeaders) -> None:
    """Keep a browser from running the content, or showing it as a page."""
    headers["Content-Security-Policy"] = FOREIGN_POLICY
    if "content-type" in headers and _type(headers) not in FOREIGN_TYPES:
        headers["content-type"] = BYTES
        headers.setdefault("content-disposition", "attachment")


def _type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _cookie(headers: Headers) -> str:
    """The studio's cookie of a request; "" without one."""
    found = COOKIE.search(headers.get("cookie", ""))
    return found[1] if found else ""


def _name(host: str) -> str:
    """`localhost` of `localhost:7860`, `[::1]` of `[::1]:7860`."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host.lower()
