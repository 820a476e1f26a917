"""Clients that send much, or ask for much and do not read it: nothing of it may pile up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from aiohttp import web
from yarl import URL

from downloadd.web import connection
from downloadd.web.body import MAX_BODY_BYTES
from downloadd.web.connection import Runner
from downloadd.web.keys import METRICS
from downloadd.web.middleware import sending
from tests.e2e.service import Service
from tests.integration.web.conftest import Server
from tests.origin import Origin

BUNDLE = "/docs/swagger-ui-bundle.js"
MIB = 1 << 20


def ask(port: int, path: str, times: int) -> socket.socket:
    """Ask for an answer, and take no more of it than a few packets."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.settimeout(30)
    opened.connect(("127.0.0.1", port))
    opened.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * times)
    return opened


@asynccontextmanager
async def asking(
    port: int, path: str, count: int, *, times: int = 1
) -> AsyncIterator[Sequence[socket.socket]]:
    """Connections on each of which something is asked for, so many times."""
    asked: list[socket.socket] = []

    def gather() -> None:
        asked.extend(ask(port, path, times) for _ in range(count))

    try:
        await asyncio.to_thread(gather)
        yield asked
    finally:
        for opened in asked:
            opened.close()


def cut_off(opened: socket.socket, whole: int) -> bool:
    """Whether a connection ends, or is reset, before so many bytes have come."""
    size = 0
    try:
        while raw := opened.recv(1 << 16):
            size += len(raw)
    except ConnectionError:
        return True
    return size < whole


@pytest.mark.slow
async def test_documents_that_nobody_reads(tmp_path: Path) -> None:
    """A document of 1.7 MB is in memory once, however many connections it waits on."""
    count = 100
    async with Service(tmp_path / "data", {}) as server:
        async with server.client.get(BUNDLE) as response:
            whole = await response.read()
        before = server.peak_memory()
        # More than the kernel takes in place of the clients.
        async with asking(server.port, BUNDLE, count, times=8):
            await asyncio.sleep(3)
            grown = server.peak_memory() - before
            size = 8 * len(whole)
            print(f"\n{count} clients that read nothing of {size:,} bytes: {grown >> 20} MiB")
            assert grown < 40 * MIB
            async with server.client.get(BUNDLE) as response:
                assert await response.read() == whole


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_whole_jobs_that_nobody_reads(tmp_path: Path, origin: Origin) -> None:
    """Jobs of 1,000 files are told to a few clients at a time, in 256 MiB (SPEC §4)."""
    environ = {"DOWNLOADD_LIMITS_REQUESTS_PER_MINUTE": "10000", "DOWNLOADD_FETCH_RETRIES": "0"}
    async with Service(tmp_path / "data", environ) as server:
        # The longest that are taken: their job's state has some 2 MB.
        missing = [urlsplit(origin.url(size=10, status=404, n=n)) for n in range(1000)]
        room = 2000 - len(urlunsplit(missing[0]))
        urls = [urlunsplit(url._replace(path=f"{url.path}/{'x' * room}")) for url in missing]
        body = BytesIO(json.dumps({"source_urls": urls}).encode())
        headers = {"Content-Type": "application/json"}
        async with server.client.post(
            "/v1/download/initiate", data=body, headers=headers
        ) as response:
            job_id = (await response.json())["jobId"]
        await server.ended(job_id)
        path = f"/v1/download/status/{job_id}?files=true"

        async def size_of_whole() -> int:
            plain = {"Accept-Encoding": "identity"}
            async with server.client.get(path, headers=plain) as response:
                assert response.status == 200
                job = json.loads(await response.read())
                assert len(job["files"]) == 1000
                return response.content_length or 0

        size = await size_of_whole()
        await asyncio.gather(*(size_of_whole() for _ in range(150)))
        print(f"\n150 answers at once: {server.peak_memory() >> 20} MiB at the most")
        async with asking(server.port, path, 100):
            await asyncio.sleep(3)
            # What is small waits for nobody.
            async with asyncio.timeout(10), server.client.get("/v1/download/jobs?limit=1") as one:
                assert one.status == 200
            memory = server.peak_memory()
        print(f"100 clients that read nothing of {size:,} bytes: {memory >> 20} MiB at the most")
        assert memory < 256 * MIB
        async with asking(server.port, f"/v1/download/stream/{job_id}", 20):
            await asyncio.sleep(2)
            assert server.peak_memory() < 256 * MIB
        # Their turns end with them.
        assert await size_of_whole() == size


@pytest.mark.slow
async def test_bodies_that_do_not_end(tmp_path: Path, origin: Origin) -> None:
    """Large bodies are read a few at a time; small ones wait for none of them."""
    head = (
        "POST /v1/download/initiate HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n"
    ).encode()
    environ = {"DOWNLOADD_LIMITS_REQUESTS_PER_MINUTE": "10000"}
    # A connection ends with its reader.
    kept: list[asyncio.StreamReader] = []
    async with Service(tmp_path / "data", environ) as server, AsyncExitStack() as opened:

        async def send(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            opened.callback(writer.close)
            writer.write(head + b" " * (MAX_BODY_BYTES - 1))
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await writer.drain()
            # Some go, and what they had sent goes with them.
            if number % 2:
                writer.transport.abort()
            kept.append(reader)

        await asyncio.gather(*(send(number) for number in range(100)))
        job_id = await server.initiate({"source_urls": [origin.url(size=1000)]})
        assert (await server.ended(job_id))["status"] == "completed"
        print(f"\n100 bodies of 4 MiB without an end: {server.peak_memory() >> 20} MiB at the most")
        assert server.peak_memory() < 200 * MIB


@pytest.mark.parametrize("value", ["[]", "{}", "0", '""', '{"a":[0]}'])
async def test_a_body_of_many_small_values(server: Server, value: str) -> None:
    """A million of them would take a second, and a hundred times their bytes."""
    count = MAX_BODY_BYTES // (len(value) + 1) - 10
    body = BytesIO(f'{{"files":[{",".join([value] * count)}]}}'.encode())
    headers = {"Content-Type": "application/json"}
    async with server.client.post("/v1/download/check", data=body, headers=headers) as response:
        assert response.status == 400
        assert "more than 50,000 values" in (await response.json())["message"]


async def test_a_name_as_long_as_the_body(server: Server) -> None:
    """It is named in the answer, but not whole, and twice."""
    body = BytesIO(b'{"' + b"a" * (MAX_BODY_BYTES - 10) + b'":1}')
    headers = {"Content-Type": "application/json"}
    async with server.client.post("/v1/download/check", data=body, headers=headers) as response:
        raw = await response.read()
    assert response.status == 400
    assert b"a" * 200 + b"\\u2026: Unknown field." in raw
    assert len(raw) < 1000


async def test_an_answer_that_nobody_takes_is_broken_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client has its time for an answer; then its connection is closed."""
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(sending, "SLOWEST_BYTES", 1 << 40)
    async with server.client.get(BUNDLE) as response:
        whole = len(await response.read())
    # More than fits into the kernel's buffers.
    async with asking(URL(server.url).port or 0, BUNDLE, 1, times=8) as (opened,):
        async with asyncio.timeout(30):
            while 'status="499"' not in server.app[METRICS].render()[0].decode():
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(cut_off, opened, 8 * whole)
    async with server.client.get("/metrics") as response:
        assert 'path="/docs/{asset}",status="499"} 1.0' in await response.text()


async def test_who_does_not_read_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all connections are taken those end that take nothing of their answers."""
    monkeypatch.setattr(connection, "STALLED_SECONDS", 0.2)
    size = 16 * MIB

    async def much(_: web.Request) -> web.Response:
        return web.Response(body=bytes(size))

    app = web.Application(middlewares=[sending.sending])
    app.router.add_get("/", much)
    runner = Runner(app, shutdown_timeout=0.1, max_connections=4)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        async with asking(port, "/", 4) as (first, *_), asyncio.timeout(30):
            await asyncio.sleep(1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert len(await reader.read(-1)) > size
            assert await asyncio.to_thread(cut_off, first, size)
            writer.close()
    finally:
        await runner.cleanup()
