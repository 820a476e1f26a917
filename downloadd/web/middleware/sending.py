"""Sends large answers piece by piece, no faster than their clients take them.

aiohttp hands an answer to the connection in one piece: of a client that reads
nothing all of it would stay in memory, for as long as the connection lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from aiohttp import web
from aiohttp.typedefs import Handler

#: Bytes above which an answer is a large one, and of one of its pieces.
LARGE_BYTES, PIECE_BYTES = 64 * 1024, 16 * 1024
#: Seconds that a client has for a large answer: so many, and one more for so many bytes.
PATIENCE_SECONDS, SLOWEST_BYTES = 10.0, 32 * 1024

_KEPT: web.RequestKey[AsyncExitStack] = web.RequestKey("kept", AsyncExitStack)


@web.middleware
async def sending(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send what the handler answers, where it is large; others are aiohttp's to send."""
    async with AsyncExitStack() as kept:
        request[_KEPT] = kept
        response = await handler(request)
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            await _send(request, response, response.body)
        return response


async def keep(request: web.Request, held: AbstractAsyncContextManager[None]) -> None:
    """Enter a context that is left when the answer is sent."""
    await request[_KEPT].enter_async_context(held)


async def _send(request: web.Request, response: web.Response, body: bytes) -> None:
    if len(body) <= LARGE_BYTES:
        return
    response.body = _pieces(request, body)
    response.headers["Content-Length"] = str(len(body))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS + len(body) / SLOWEST_BYTES):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not take its answer") from None


async def _pieces(request: web.Request, body: bytes) -> AsyncIterator[bytes]:
    """What aiohttp asks for as the client takes it; of a BytesIO it would make a copy."""
    for start in range(0, len(body), PIECE_BYTES):
        # aiohttp itself waits only after 64 KiB.
        await request.writer.drain()
        yield body[start : start + PIECE_BYTES]
