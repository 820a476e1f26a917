"""Whether a page of another origin may do what browsers let it do without asking."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web


def check_welcome(request: web.Request, origins: Collection[str]) -> None:
    """Raise aiohttp's 403 for a request of a page that is not welcome."""
    if not is_welcome(request, origins):
        raise web.HTTPForbidden(text="Pages of this origin may not connect here.")


def is_welcome(request: web.Request, origins: Collection[str]) -> bool:
    """Whether a request comes from no page, a page of this server's, or one of ``origins``.

    For what needs no CORS preflight: plain text bodies and WebSockets. The
    scheme is not compared with our own, for a proxy before us may have
    taken TLS off.
    """
    origin = request.headers.get("Origin")
    if origin is None or "*" in origins or origin in origins:
        return True
    return urlsplit(origin).netloc.lower() == request.host.lower()
