"""What the tests of both stores share: bodies, and a connection that fails on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

from downloadd.ports import ObjectMeta

MIB = 1024 * 1024
META = ObjectMeta(file_name="order 4711.zip", metadata={"job": "4711", "order": "a-1"})


class Body:
    """A ``PartBody`` over bytes; ``announced`` and ``crc32`` may lie."""

    def __init__(
        self,
        data: bytes,
        *,
        offset: int = 0,
        announced: int | None = None,
        crc32: int | None = None,
        chunk: int = MIB,
    ) -> None:
        self.data = data
        self.offset = offset
        self.size = len(data) if announced is None else announced
        self.crc32 = zlib.crc32(data) if crc32 is None else crc32
        self.reads = 0
        self._chunk = chunk

    async def chunks(self) -> AsyncIterator[bytes]:
        self.reads += 1
        for start in range(0, len(self.data), self._chunk):
            yield self.data[start : start + self._chunk]


def random_bytes(size: int, seed: int = 0) -> bytes:
    """The same bytes for the same arguments; they do not shrink."""
    return random.Random(seed).randbytes(size)


class Proxy:
    """A TCP relay to a server that breaks connections when told to.

    Faults, each used up by one connection: ``reset`` ends it at once, ``cut``
    after the first bytes of the request's body, ``503``, ``501`` and ``200``
    answer an error instead of the server, ``lost`` lets the server do its work and ends the
    connection in place of the answer, ``half`` ends it within the answer.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.faults: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def fail(self, *faults: str) -> None:
        """Break what is open and let the next connections fail so."""
        self.faults = list(faults)
        for writer in self._writers:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Listen, and give the address to use instead of the server's."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MIB)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        self._writers.add(writer)
        fault = self.faults.pop(0) if self.faults else ""
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._relay(reader, writer, fault)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str
    ) -> None:
        if fault == "reset":
            return
        if fault in ("503", "501", "200"):
            await self._answer(reader, writer, int(fault))
            return
        if fault == "cut":
            await reader.readexactly(min(1000, await _body_length(reader)))
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(up_writer)
        try:
            pump = asyncio.ensure_future(_pump(reader, up_writer))
            with contextlib.closing(up_writer):
                await self._answers(up_reader, writer, fault)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        finally:
            self._writers.discard(up_writer)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int
    ) -> None:
        await reader.readexactly(await _body_length(reader))
        code = {503: "SlowDown", 501: "NotImplemented", 200: "InternalError"}[status]
        text = f"<Error><Code>{code}</Code><Message>as told</Message></Error>"
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n"
            f"Connection: close\r\n\r\n{text}".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str
    ) -> None:
        sent = 0
        while data := await reader.read(64 * 1024):
            if fault == "lost":
                return
            writer.write(data)
            await writer.drain()
            sent += len(data)
            if fault == "half" and sent > 300_000:
                return


async def _body_length(reader: asyncio.StreamReader) -> int:
    """Read a request's head and return what it says of the body."""
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
