"""No answer takes longer than clients and proxies wait."""

from __future__ import annotations

import asyncio
import math

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from downloadd.errors import AnswerTimeout

#: When the request is given up; streams have limits of their own.
_LIMIT: web.RequestKey[asyncio.Timeout] = web.RequestKey("limit", asyncio.Timeout)


def timeout(seconds: float) -> Middleware:
    """Return the middleware that answers 503 after so many seconds.

    What is under way is broken off as by a client that goes away: a job that
    was made meanwhile is given to who asks the same once more.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        limit = asyncio.timeout(seconds)
        request[_LIMIT] = limit
        try:
            async with limit:
                return await handler(request)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise AnswerTimeout("The answer took too long; try again in a few seconds.") from exc

    return middleware


def time_left(request: web.Request) -> float:
    """Seconds until this request is given up; endless where its limit is lifted."""
    when = request[_LIMIT].when()
    return math.inf if when is None else max(0.0, when - asyncio.get_running_loop().time())


def lift(request: web.Request) -> None:
    """Let this request take as long as it wants."""
    if (limit := request.get(_LIMIT)) is not None and not limit.expired():
        limit.reschedule(None)
