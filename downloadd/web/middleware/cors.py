"""Cross-origin requests (WHATWG Fetch, "CORS protocol"), without credentials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler

_METHODS = "GET, HEAD, POST, DELETE"
_REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, "
    "X-API-Key, X-Request-ID, traceparent"
)
_EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotent-Replayed, Location, "
    "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID, X-Trace-Id"
)
#: Seconds for which a browser remembers a preflight; no browser takes more.
_MAX_AGE = "7200"

Signal = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer preflights; ``send_cors_headers`` says whether the origin is welcome."""
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _REQUEST_HEADERS,
                "Access-Control-Max-Age": _MAX_AGE,
            },
        )
    return await handler(request)


def send_cors_headers(origins: Collection[str]) -> Signal:
    """Return a signal handler that lets scripts of these origins read answers."""

    async def everybody(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    async def listed(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is not None and origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    return everybody if "*" in origins else listed
