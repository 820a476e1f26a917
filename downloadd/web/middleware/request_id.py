"""Gives each request an id that its answer, its log lines and its errors carry (SPEC §7)."""

from __future__ import annotations

import re
import uuid

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from downloadd.web.requests import REQUEST_ID

_SANE = re.compile(r"[A-Za-z0-9._-]{1,128}")


@web.middleware
async def request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log lines of the request carry its id from here on."""
    identify(request)
    # aiohttp runs each request in a task, and so in a context, of its own.
    structlog.contextvars.bind_contextvars(requestId=request[REQUEST_ID])
    return await handler(request)


def identify(request: web.BaseRequest) -> None:
    """Take over the caller's id when it is sane, else make one; one that is there stays."""
    given = request.headers.get("X-Request-ID", "")
    if REQUEST_ID not in request:
        request[REQUEST_ID] = given if _SANE.fullmatch(given) else str(uuid.uuid4())


async def send_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler, because streams send their headers before middleware sees them."""
    response.headers["X-Request-ID"] = request[REQUEST_ID]
