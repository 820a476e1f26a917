"""The contract as a document for programs (OpenAPI) and as a page for people."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files

from aiohttp import web

from downloadd.web import keys
from downloadd.web.answers import tagged_answer

#: What the page needs, by name: where it lies beside this package, and its type.
_ASSETS = {
    "docs.js": ("docs.js", "text/javascript"),
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
}
#: Nothing but what this server sends. Swagger UI's style sheet has its images in it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Kept, and asked for by its tag each time: never older than the server.
_CACHE_CONTROL = "no-cache"


async def openapi(request: web.Request) -> web.Response:
    """``GET /openapi.json``."""
    body = await asyncio.to_thread(request.app[keys.CONTRACT].read)
    return tagged_answer(request, body, "application/json", _CACHE_CONTROL)


async def page(request: web.Request) -> web.Response:
    """``GET /docs``."""
    body = await asyncio.to_thread(_read, "docs.html")
    answer = tagged_answer(request, body, "text/html", _CACHE_CONTROL)
    answer.headers["Content-Security-Policy"] = _POLICY
    return answer


async def asset(request: web.Request) -> web.Response:
    """``GET /docs/{asset}``."""
    known = _ASSETS.get(request.match_info["asset"])
    if known is None:
        raise web.HTTPNotFound
    name, content_type = known
    body = await asyncio.to_thread(_read, name)
    return tagged_answer(request, body, content_type, _CACHE_CONTROL)


@cache
def _read(name: str) -> bytes:
    return files("downloadd.web").joinpath("static", name).read_bytes()
