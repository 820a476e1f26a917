"""The opening of a WebSocket (RFC 6455 §4.2.1), before aiohttp, whose refusals repeat it."""

from __future__ import annotations

import re

from aiohttp import HttpVersion11, web

_VERSION = "13"
#: The base64 of 16 bytes.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


def wants_websocket(request: web.Request) -> bool:
    """Whether an upgrade is asked for (RFC 9110 §7.8), and not left over by a proxy."""
    # As aiohttp's parser compares them: in ASCII, and with no other white space.
    asked = _plain(request.headers.get("Upgrade", "")) == "websocket"
    options = ",".join(request.headers.getall("Connection", ())).split(",")
    return asked and "upgrade" in map(_plain, options) and request.version >= HttpVersion11


def _plain(text: str) -> str:
    return text.strip(" \t").lower() if text.isascii() else ""


def check_handshake(request: web.Request) -> None:
    """Raise aiohttp's 400 for what does not open a WebSocket."""
    if not wants_websocket(request):
        raise web.HTTPBadRequest(
            text='A WebSocket is opened with "Connection: Upgrade" and "Upgrade: websocket".'
        )
    if request.headers.get("Sec-WebSocket-Version") != _VERSION:
        raise web.HTTPBadRequest(
            text=f"This server speaks version {_VERSION} of WebSocket (RFC 6455).",
            headers={"Sec-WebSocket-Version": _VERSION},
        )
    if not _KEY.fullmatch(request.headers.get("Sec-WebSocket-Key", "")):
        raise web.HTTPBadRequest(text="The Sec-WebSocket-Key is not the base64 of 16 bytes.")
