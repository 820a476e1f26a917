"""OPTIONS: which methods an address takes (RFC 9110 §9.3.7)."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from downloadd.web.errors import allow

#: What some address or other takes.
_ANYWHERE = ("DELETE", "GET", "HEAD", "POST")


@web.middleware
async def options(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer for every address that there is, and for the whole server (``*``)."""
    if request.method != "OPTIONS":
        return await handler(request)
    if request.path == "*":
        return _answer(allow(_ANYWHERE))
    refusal = request.match_info.http_exception
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        return _answer(allow(refusal.allowed_methods))
    return await handler(request)


def _answer(allowed: str) -> web.Response:
    return web.Response(status=204, headers={"Allow": allowed})
