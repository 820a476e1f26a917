"""Slowloris and its relatives: connections that are opened to be held, not used."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from downloadd.web.connection import Runner
from tests.e2e.service import Service
from tests.origin import Origin

#: Connections that never finish a request's head.
SLOW = 10_000
#: Seconds in which a well-behaved client has its job, on a machine that is busy.
PATIENCE = 60.0

_HEAD = b"POST /v1/download/initiate HTTP/1.1\r\nHost: x\r\nX-Slow: "


class Crowd:
    """Connections that send a byte of a header now and then."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []

    def gather(self, count: int) -> None:
        for _ in range(count):
            opened = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
            self._sockets.append(opened)
            opened.sendall(_HEAD)
            opened.setblocking(False)

    def trickle(self) -> int:
        """Send one more byte on each; return how many are open still."""
        self._sockets = [it for it in self._sockets if self._send(it)]
        return len(self._sockets)

    def _send(self, opened: socket.socket) -> bool:
        try:
            opened.send(b"x")
        except BlockingIOError:
            return True
        except OSError:
            opened.close()
            return False
        return True

    def leave(self) -> None:
        for opened in self._sockets:
            opened.close()


def raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} files open here; {wanted} are needed")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_slow_connections(tmp_path: Path, origin: Origin) -> None:
    """They keep no client from its job, and are closed when a head has taken too long."""
    raise_file_limit(SLOW + 2000)
    async with Service(tmp_path / "data", {}) as server:
        crowd = Crowd(server.port)
        try:
            began = time.monotonic()
            await asyncio.to_thread(crowd.gather, SLOW)
            arrived = time.monotonic() - began
            held = crowd.trickle()
            began = time.monotonic()
            job_id = await server.initiate({"source_urls": [origin.url(size=100_000)]})
            assert (await server.ended(job_id))["status"] == "completed"
            took = time.monotonic() - began
            memory = server.peak_memory()
            print(
                f"\n{held:,} slow connections, made in {arrived:.1f} s; "
                f"a job took {took:.2f} s; {memory >> 20} MiB at the most"
            )
            assert took < PATIENCE
            assert memory < 256 << 20
            async with asyncio.timeout(PATIENCE):
                while await asyncio.to_thread(crowd.trickle):
                    await asyncio.sleep(0.5)
        finally:
            crowd.leave()


@asynccontextmanager
async def listening(**options: float) -> AsyncIterator[int]:
    """A server with one address, over connections of ours; gives its port."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = Runner(app, shutdown_timeout=0.1, **options)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len("hello"))
    return head


async def is_closed(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        return await reader.read(1000) == b""
    return True


@pytest.mark.parametrize("first", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\nC"])
async def test_a_head_that_does_not_end(first: bytes) -> None:
    """A connection without a request, or with a part of one, is closed after its time."""
    async with listening(head_seconds=0.3) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        assert await is_closed(reader)
        writer.close()


async def test_a_second_head_that_trickles() -> None:
    """A head that follows a request has as long as the first, from its first byte on."""
    async with listening(head_seconds=0.3) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert b"200 OK" in await ask(reader, writer)
        # Idle it may be for longer.
        await asyncio.sleep(0.6)
        assert b"200 OK" in await ask(reader, writer)
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(20):
            writer.write(b"a")
            await asyncio.sleep(0.05)
            if reader.at_eof():
                break
        assert await is_closed(reader)
        writer.close()


async def test_who_waits_makes_room() -> None:
    """At the limit those go that never asked for anything; who has asked stays."""
    async with listening(max_connections=20) as port, asyncio.timeout(20):
        good = await asyncio.open_connection("127.0.0.1", port)
        assert b"200 OK" in await ask(*good)
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        fresh = await asyncio.open_connection("127.0.0.1", port)
        assert b"200 OK" in await ask(*fresh)
        assert b"200 OK" in await ask(*good)
        assert await is_closed(slow[0][0])
        for _, writer in (good, fresh, *slow):
            writer.close()


async def test_nobody_goes_whose_request_is_under_way() -> None:
    """Where all connections are at work a new one is told to come later."""
    app, started, release = web.Application(), asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        started.set()
        await release.wait()
        return web.Response(text="hello")

    app.router.add_get("/", slow)
    runner = Runner(app, shutdown_timeout=0.1, max_connections=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with asyncio.timeout(10):
            port = runner.addresses[0][1]
            first = await asyncio.open_connection("127.0.0.1", port)
            asking = asyncio.create_task(ask(*first))
            await started.wait()
            second, writer = await asyncio.open_connection("127.0.0.1", port)
            assert (await second.read()).startswith(b"HTTP/1.1 503 ")
            release.set()
            assert b"200 OK" in await asking
            first[1].close()
            writer.close()
    finally:
        await runner.cleanup()
