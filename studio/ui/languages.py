"""The language of a page: chosen in its header, or else as the browser asks for it.

The page says its language with everything that it asks, so that two pages in two languages can be
open at once. Gradio's components are built once, in English; what is served of them is told anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.messages import LANGUAGES, SOURCE, language, speaking, told, wanted_language
from studio.messages.markup import told_markup
from studio.ui.static import page_head

HEADER = "studio-language"  # of a request that a page sends, see base/language.js
COOKIE = re.compile(r"(?:^|; )studio-language=([A-Za-z-]+)(?:;|$)")  # of the one that opens a page
TEXTS = frozenset({"label", "info", "placeholder", "name", "title"})
MARKUP = frozenset({"html_template", "value"})


class Languages:
    """ASGI middleware: answers in the language of whoever asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with speaking(asked_language(Headers(scope=scope))):
            is_page = scope["path"] == "/"
            await self.app(scope, receive, _sends_page(send, language()) if is_page else send)


def asked_language(headers: Headers) -> str:
    """The page's own language; for a new page the chosen one, or what its browser wants."""
    chosen = COOKIE.search(headers.get("cookie", ""))
    for code in (headers.get(HEADER), chosen and chosen[1]):
        if code in LANGUAGES:
            return str(code)
    return wanted_language(headers.get("accept-language", ""))


def _sends_page(send: Send, code: str) -> Send:
    """`send` for the page's HTML: it says its language, and what it needs before anything else."""
    held: list[Message] = []

    async def send_page(message: Message) -> None:
        if message["type"] not in ("http.response.start", "http.response.body"):
            await send(message)
            return
        held.append(message)
        if message["type"] == "http.response.start" or message.get("more_body"):
            return
        body = b"".join(part.get("body", b"") for part in held[1:])
        body = body.replace(b'lang="en"', f'lang="{code}"'.encode(), 1)
        body = body.replace(b"<head>", b"<head>" + page_head().encode(), 1)
        MutableHeaders(scope=held[0])["content-length"] = str(len(body))
        await send(held[0])
        await send({"type": "http.response.body", "body": body})

    return send_page


class Pages(gr.Blocks):
    """Blocks whose texts are in the language of whoever asks for them."""

    @property
    def config(self) -> dict[str, Any]:
        return self._in_language(language()) if language() != SOURCE else self._config

    @config.setter
    def config(self, config: dict[str, Any]) -> None:
        self._config = config
        self._in_language = cache(self._tell)

    def _tell(self, code: str) -> dict[str, Any]:
        with speaking(code):
            return _told_value(self._config, "")


def _told_value(value: Any, key: str) -> Any:
    """A part of the configuration, with its texts told; `key`: what it is of the part around it."""
    if isinstance(value, dict):
        return {name: _told_value(part, name) for name, part in value.items()}
    if isinstance(value, list | tuple):
        tell: Callable[[Any], Any] = _told_choice if key == "choices" else _part_of(key)
        return [tell(part) for part in value]
    if not isinstance(value, str):
        return value
    if key in MARKUP and "<" in value:
        return told_markup(value)
    return told(value) if key in TEXTS | MARKUP else value


def _part_of(key: str) -> Callable[[Any], Any]:
    return lambda part: _told_value(part, key)


def _told_choice(choice: Any) -> Any:
    """A choice is its name and its value, of which only the name is read."""
    if isinstance(choice, list | tuple) and len(choice) == 2:
        return [told(choice[0]) if isinstance(choice[0], str) else choice[0], choice[1]]
    return choice
