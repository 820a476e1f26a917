"""A TCP proxy on loopback, whose subclasses say what happens to what it carries."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol, Self


class Connection(Protocol):
    """One connection's two directions; the first that returns ends both."""

    async def forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


class Proxy:
    """Stands before a port of this machine, as an async context manager."""

    def __init__(self, port_behind: int = 0) -> None:
        self.port_behind = port_behind
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ended = False

    def connection(self) -> Connection:
        """What carries the next connection."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
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
        connection = self.connection()
        forth = asyncio.create_task(connection.forth(reader, to_behind))
        back = asyncio.create_task(connection.back(behind, writer))
        try:
            await asyncio.wait({forth, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before the wait, which may be cancelled: the proxy's end does not wait for it.
            to_behind.transport.abort()
            forth.cancel()
            back.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
