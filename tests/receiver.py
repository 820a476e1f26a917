"""A receiver of webhooks that verifies what it gets and misbehaves on request.

The first segment of the path says how it answers: each comma-separated word is
one answer in turn, the last of them for ever after:

    200, 500, 307, …   that status; redirects point at /moved
    slow               nothing for a long time
    hold               nothing until ``release`` is set, then 200
    drip               an answer's head, a byte now and then
    dribble            200, then a body that never ends, a byte now and then
    flood              200, then a body of megabytes
    drop               the connection is closed
    wait=S             429 with Retry-After: S

What follows the second slash tells receivers apart.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook

#: What the service signs with in tests.
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDtest1234"
_ETERNITY = 600.0


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """The server, as an async context manager."""

    def __init__(self, secret: str = SECRET) -> None:
        self._webhook = Webhook(secret)
        self._calls: list[Call] = []
        self._hits: Counter[str] = Counter()
        self._called = asyncio.Condition()
        self.release = asyncio.Event()
        #: Now, and at most, on their way by path.
        self._under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        # Who has hung up is not on the way any more.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, answers: str = "200", name: str = "", *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{answers}/{name}"

    def calls(self, name: str = "") -> list[Call]:
        """What came so far, to the receivers whose path ends so."""
        return [call for call in self._calls if call.path.endswith(name)]

    async def called(self, times: int = 1, name: str = "", *, seconds: float = 20) -> list[Call]:
        """Wait until so many calls have come."""
        async with asyncio.timeout(seconds), self._called:
            await self._called.wait_for(lambda: len(self.calls(name)) >= times)
        return self.calls(name)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        # Raises where the signature is not that of the secret, the id, the time and the body.
        self._webhook.verify(body, dict(request.headers))
        call = Call(
            path=request.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            at=time.monotonic(),
        )
        words = request.path.split("/")[1].split(",")
        word = words[min(self._hits[request.path], len(words) - 1)]
        self._hits[request.path] += 1
        async with self._called:
            self._calls.append(call)
            self._called.notify_all()
        self._under_way[word] += 1
        self.most[word] = max(self.most[word], self._under_way[word])
        try:
            return await self._answer(request, word)
        finally:
            self._under_way[word] -= 1

    async def _answer(self, request: web.Request, word: str) -> web.StreamResponse:
        if word.isdecimal():
            location = {"Location": self.url("200", "moved")} if word.startswith("3") else {}
            return web.Response(status=int(word), headers=location)
        if word.startswith("wait="):
            return web.Response(status=429, headers={"Retry-After": word.removeprefix("wait=")})
        if word == "slow":
            await asyncio.sleep(_ETERNITY)
        elif word == "hold":
            await self.release.wait()
        elif word == "drop":
            assert request.transport is not None
            request.transport.abort()
        elif word == "drip":
            await _drip(request)
        elif word == "dribble":
            return await _stream(request, b".", pause=0.05)
        elif word == "flood":
            return await _stream(request, bytes(1 << 20), pause=0.0)
        return web.Response()


async def _drip(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not request.transport.is_closing():
        request.transport.write(b".")
        await asyncio.sleep(0.05)


async def _stream(request: web.Request, chunk: bytes, *, pause: float) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(chunk)
        await asyncio.sleep(pause)
