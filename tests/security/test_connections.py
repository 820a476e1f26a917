"""Slowloris and its relatives: connections that are opened to be held, not used."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from downloadd.web import connection
from downloadd.web.connection import Runner
from tests.e2e.service import Service
from tests.integration.web.conftest import Start
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

    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application(client_max_size=4 << 20)
    app.router.add_get("/", hello)
    app.router.add_post("/", echo)
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
    """Whether it is, with nothing to be read before."""
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
    """Where all connections are at work a new one is told to come later, and is counted."""
    refused: list[tuple[str, int]] = []
    app, started, release = web.Application(), asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        started.set()
        await release.wait()
        return web.Response(text="hello")

    app.router.add_get("/", slow)
    runner = Runner(
        app, shutdown_timeout=0.1, max_connections=1, on_refusal=lambda *it: refused.append(it)
    )
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
            assert refused == [("", 503)]
            release.set()
            assert b"200 OK" in await asking
            first[1].close()
            writer.close()
    finally:
        await runner.cleanup()


# --- requests without an end ----------------------------------------------------------

_POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_GET = _POST.replace(b"POST", b"GET")


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b"\r\n"),
        (_GET, b"1\r\nx\r\n"),
        (_POST, b"1\r\nx\r\n"),
        (_POST + b"1;", b"a"),
        (_POST + b"0\r\nTrailer: ", b"a"),
    ],
    ids=("empty lines", "body of a GET", "small chunks", "chunk extension", "trailer"),
)
async def test_requests_without_end(
    first: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is cut off, and meanwhile others are answered."""
    monkeypatch.setattr(connection, "MAX_REQUEST_BYTES", 1 << 20)
    async with listening(head_seconds=60) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        sent = 0
        with suppress(ConnectionError):
            while sent < 64 << 20 and not writer.is_closing():
                writer.write(more * 10_000)
                sent += 10_000 * len(more)
                await writer.drain()
                await reading(port)
        assert sent < 16 << 20
        with suppress(ConnectionError):
            # What was answered before it was cut off does not matter.
            await reader.read()
        writer.close()


async def test_pipelined_requests_wait_where_they_are(heard: list[int]) -> None:
    """Behind an answer that nobody reads little more is read: neither many heads nor bodies."""
    gate = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", wait)
    app.router.add_post("/", wait)
    runner = Runner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000
    try:
        for more, count in ((get, 100_000), (post, 200)):
            gate.clear()
            reader, writer = await asyncio.open_connection(*runner.addresses[0])
            heard.clear()
            writer.write(get + more * count)
            await asyncio.sleep(1)
            assert 0 < sum(heard) < 500_000
            gate.set()
            async with asyncio.timeout(30):
                for _ in range(50):
                    await reader.readuntil(b"\r\n\r\nhello")
            writer.transport.abort()
    finally:
        gate.set()
        await runner.cleanup()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what connections get."""
    sizes: list[int] = []
    hear = connection._Connection.data_received

    def data_received(self: connection._Connection, data: bytes) -> None:
        sizes.append(len(data))
        hear(self, data)

    monkeypatch.setattr(connection._Connection, "data_received", data_received)
    return sizes


@pytest.mark.slow
async def test_a_crowd_that_sends_small_pieces(tmp_path: Path) -> None:
    """A hundred that send for ever what nobody wants do not keep another from an answer."""
    crowd = 100
    async with Service(tmp_path / "data", {}) as server, asyncio.timeout(60):
        writers = [
            (await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(crowd)
        ]
        piece = b"1\r\na\r\n" * 2000
        for writer in writers:
            writer.write(_POST.replace(b"POST /", b"POST /nope") + piece)
        waits = []
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for writer in writers:
                if writer.transport.get_write_buffer_size() == 0 and not writer.is_closing():
                    writer.write(piece)
            began = time.monotonic()
            async with server.client.get("/health/live") as response:
                assert response.status == 200
            waits.append(time.monotonic() - began)
        print(f"\n{len(waits)} answers beside it, the slowest after {max(waits):.3f} s")
        for writer in writers:
            writer.transport.abort()
        # Two cores, of which this test has one; it was six seconds.
        assert max(waits) < 2


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.7"])
@pytest.mark.parametrize("before", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
async def test_other_versions(version: bytes, before: bytes) -> None:
    """They are refused in ours, also behind an upgrade that was declined."""
    first = b"GET / HTTP/1.1\r\nHost: x\r\n" + before + b"\r\n" if before else b""
    async with listening() as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first + b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        if first:
            assert b"200 OK" in await reader.readuntil(b"hello")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"hello" not in answer
        writer.close()


async def test_chunks_before_their_time() -> None:
    """RFC 9112 §6.1: a proxy may have read on behind them, so nothing else is read here."""
    async with listening() as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        first = _POST.replace(b"1.1", b"1.0").replace(b"Host", b"Connection: keep-alive\r\nHost")
        writer.write(first + b"0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.0 400 ")
        assert b"hello" not in await reader.read()
        writer.close()


async def reading(port: int) -> None:
    """One client that does nothing odd."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert b"200 OK" in await ask(reader, writer)
    writer.close()


async def test_little_is_read_at_once(heard: list[int]) -> None:
    """However much has come, others have their turn after each piece."""
    body = b"x" * 3_000_000
    async with listening() as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + body)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(7) == b"3000000"
        assert b"200 OK" in await ask(reader, writer)
        writer.close()
    assert max(heard) == connection.READ_BYTES
    assert sum(heard) > len(body)


# --- bodies that wait to be asked for (RFC 9110 §10.1.1) ---------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/download/initiate", "Content-Type: text/html\r\nContent-Length: 9", 415),
        ("/v1/download/initiate", "Content-Type: application/json\r\nContent-Length: 5000000", 413),
        ("/nowhere", "Content-Length: 9", 404),
        ("/health/live", "Content-Length: 9", 405),
    ],
)
async def test_a_body_that_nobody_wants(start: Start, path: str, headers: str, status: int) -> None:
    """It is refused before it is sent, and what is sent after that is no second request."""
    async with start() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{headers}\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"\r\nConnection: close\r\n" in answer
        writer.close()


async def test_two_expectations(start: Start) -> None:
    """One that cannot be met is not hidden behind one that can."""
    async with start() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
        writer.write(
            b"POST /v1/download/initiate HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Expect: other\r\nContent-Length: 5\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 417 ")
        writer.close()


async def test_a_body_that_is_asked_for(start: Start, origin: Origin) -> None:
    """It is asked for when the rest of the request is found to be right."""
    body = json.dumps({"source_urls": [origin.url(size=5)]}).encode()
    async with start() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
        writer.write(
            b"POST /v1/download/initiate HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
