"""WebSockets that are opened to keep the server busy (RFC 6455 §5.4, §5.5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from downloadd.web import connection
from downloadd.web.token_bucket import TokenBucket
from downloadd.web.websocket import BURST_MESSAGES
from tests.e2e.service import Service
from tests.integration.web.conftest import Start

MASK = b"\0\0\0\0"
PING, PONG = b"\x89\x80" + MASK, b"\x8a\x80" + MASK
#: A text that begins and never ends: each further frame of it is empty.
BEGIN, MORE = b"\x01\x80" + MASK, b"\x00\x80" + MASK
WORD = b"\x81\x82" + MASK + b"[]"
#: What a client may be kept waiting beside a flood, on a machine that is busy; it was many seconds.
PATIENCE = 2.0


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket of which every frame is ours."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        if b" 101 " not in await reader.readuntil(b"\r\n\r\n"):
            raise ConnectionRefusedError
        yield reader, writer
    finally:
        writer.close()


async def flood(port: int, first: bytes, frame: bytes) -> bytes:
    """Send a frame for as long as anybody takes it; return what came back."""
    async with opened(port) as (reader, writer):
        answer = asyncio.create_task(_all_of(reader))
        writer.write(first)
        with suppress(ConnectionError):
            while not answer.done():
                writer.write(frame * 40_000)
                await writer.drain()
        return await answer


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    ("first", "frame", "code"),
    [(b"", PING, 1008), (b"", PONG, 1008), (b"", WORD, 1008), (BEGIN, MORE, None)],
    ids=("pings", "pongs", "messages", "continuations"),
)
async def test_frames_without_end(
    tmp_path: Path, first: bytes, frame: bytes, code: int | None
) -> None:
    """They end the connection, with a word where one can be said; nobody else waits meanwhile."""
    async with Service(tmp_path / "data", {}) as server:
        async with asyncio.timeout(60):
            floods = asyncio.gather(*(flood(server.port, first, frame) for _ in range(3)))
            waits = []
            while not floods.done():
                began = time.monotonic()
                async with server.client.get("/health/live") as response:
                    assert response.status == 200
                waits.append(time.monotonic() - began)
                await asyncio.sleep(0.01)
            answers = await floods
        print(f"\n{len(waits)} answers beside it, the slowest after {max(waits):.3f} s")
        assert max(waits) < PATIENCE
        if code is not None:
            # A close frame may be lost with what the client has sent and nobody read.
            said = [answer for answer in answers if answer]
            assert all(code.to_bytes(2, "big") in answer for answer in said)
            assert said or frame is PONG
        async with server.client.get("/metrics") as response:
            assert "\nactive_websocket_connections 0.0" in await response.text()
        assert server.peak_memory() < 200 << 20


async def test_a_client_that_floods_and_goes(start: Start) -> None:
    """Its slot is free at once, whatever of it lies unread."""
    async with start(limits__streams_per_client=1) as server:
        port = URL(server.url).port or 0
        for _ in range(5):
            async with asyncio.timeout(5):
                while not await _send_and_go(port, WORD * 300):
                    await asyncio.sleep(0.02)


async def _send_and_go(port: int, frames: bytes) -> bool:
    """Whether there was a slot."""
    with suppress(ConnectionRefusedError):
        async with opened(port) as (_, writer):
            writer.write(frames)
            writer.transport.abort()
        return True
    return False


async def test_a_moderate_client(start: Start) -> None:
    """So many messages at once are heard, and so many again when some time has passed."""
    async with start() as server, server.client.ws_connect("/ws", autoping=False) as ws:
        for _ in range(BURST_MESSAGES // 2):
            await ws.send_json({"type": "ping"})
            await ws.ping(b"now")
        kinds = [(await ws.receive(timeout=10)).type for _ in range(BURST_MESSAGES)]
        assert kinds.count(aiohttp.WSMsgType.TEXT) == BURST_MESSAGES // 2
        assert kinds.count(aiohttp.WSMsgType.PONG) == BURST_MESSAGES // 2
        await asyncio.sleep(1)
        for _ in range(15):
            await ws.send_json({"type": "ping"})
            assert await ws.receive_json(timeout=10) == {"type": "pong"}


async def test_too_many_messages(start: Start) -> None:
    """The connection is closed with the code for that, and with what to do."""
    async with start() as server, server.client.ws_connect("/ws") as ws:
        for _ in range(3 * BURST_MESSAGES):
            await ws.send_json({"type": "ping"})
        while (message := await ws.receive(timeout=10)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        assert message.extra == "Send fewer messages."


@pytest.mark.parametrize("words", ['{"type": "x", "type": "ping"}', '{"type": NaN}', "[1e999]"])
async def test_words_that_could_be_understood_in_two_ways(start: Start, words: str) -> None:
    """Messages are JSON as strict as bodies are."""
    async with start() as server, server.client.ws_connect("/ws") as ws:
        await ws.send_str(words)
        assert (await ws.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1007


async def test_bytes_that_make_no_message(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted where they come in, and end the connection."""
    monkeypatch.setattr(connection, "BURST_BYTES", 1000)
    monkeypatch.setattr(connection, "BYTES_PER_SECOND", 1)
    async with start() as server, asyncio.timeout(20):
        port = URL(server.url).port or 0
        async with opened(port) as (reader, writer):
            writer.write(BEGIN + MORE * 100)
            await writer.drain()
            await asyncio.sleep(0.2)
            assert not reader.at_eof()
            writer.write(MORE * 100)
            assert await _all_of(reader) == b""


def test_an_allowance() -> None:
    """A burst, then what has come back with time, and never more than the burst."""
    allowance = TokenBucket(burst=10, per_second=2, now=0)
    take: Callable[[float, float], bool] = allowance.take
    assert take(10, 0)
    assert not take(1, 0)
    assert take(1, 1)
    assert not take(1, 1)
    assert take(10, 100)
    assert not take(0.5, 100)
