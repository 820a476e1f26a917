"""Finds out where each request comes from, before anything is logged or counted."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from downloadd.web.clients import CLIENT, Networks, client_address


def client(trusted: Networks) -> Middleware:
    """Return the middleware that believes the ``X-Forwarded-For`` of these peers."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        forwarded = request.headers.getall("X-Forwarded-For", ())
        found = client_address(request.remote, forwarded, trusted)
        if found is not None:
            request[CLIENT] = found
        return await handler(request)

    return middleware
