"""A TCP proxy in which a request of a certain form springs a trap.

It stands between a server and its Valkey or S3 and carries everything as it
is, until the trap springs: then the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

#: What the trap looks for is at most so long.
_WINDOW = 4096
#: Valkey's answer to a request that it did not carry out.
_UNKNOWN_SCRIPT = b"-NOSCRIPT"


class When(Enum):
    #: The request does not arrive.
    BEFORE = auto()
    #: It was carried out; the answer does not arrive.
    AFTER = auto()


@dataclass(kw_only=True)
class Trap:
    """Springs once."""

    pattern: re.Pattern[bytes]
    when: When
    spring: Callable[[], Awaitable[object]]
    sprung: bool = False


class TrapProxy:
    """The proxy before a port of this machine, as an async context manager."""

    def __init__(self, port_behind: int) -> None:
        self.port_behind = port_behind
        self.trap: Trap | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ended = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ended = True
        self._server.close()
        for task, writer in list(self._tasks.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*list(self._tasks), return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: one that is cancelled before it begins closes nothing.
        if self._ended:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await self._carry(reader, writer)
        finally:
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", self.port_behind)
        connection = _Connection(self)
        forth = asyncio.create_task(connection.forth(reader, to_behind))
        back = asyncio.create_task(connection.back(behind, writer))
        try:
            await asyncio.wait({forth, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forth.cancel()
            back.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            to_behind.transport.abort()


class _Connection:
    def __init__(self, proxy: TrapProxy) -> None:
        self._proxy = proxy
        self._caught: Trap | None = None

    async def forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while data := await reader.read(1 << 16):
            seen = seen[-_WINDOW:] + data
            trap = self._proxy.trap
            if trap is not None and not trap.sprung and trap.pattern.search(seen):
                trap.sprung = True
                if trap.when is When.BEFORE:
                    await trap.spring()
                    return
                self._caught = trap
            writer.write(data)
            await writer.drain()

    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self._caught is not None:
                if not data.startswith(_UNKNOWN_SCRIPT):
                    await self._caught.spring()
                    return
                # The same comes again, with the script.
                self._caught.sprung, self._caught = False, None
            writer.write(data)
            await writer.drain()
