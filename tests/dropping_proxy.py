"""A TCP proxy that loses, holds up or changes what it carries of archives."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

#: In the request line of an archive that lies in the server's own folder.
_ARCHIVE = b"/v1/files/"


class DroppingProxy:
    """The proxy, as an async context manager; it does nothing to other requests."""

    def __init__(self) -> None:
        self.port_behind = 0
        #: After how many bytes of each next answer the connection is closed.
        self.cuts: list[int] = []
        #: After how many bytes of the next answers nothing more is sent.
        self.stalls: list[int] = []
        #: The place in each answer whose byte is changed.
        self.corrupt_at: int | None = None
        #: The head of each request for an archive, and all bytes sent for them.
        self.requests: list[bytes] = []
        self.sent = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self._carry(reader, writer)
        self._tasks.discard(task)
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
            to_behind.close()


class _Connection:
    """One connection: whether it carries an archive now, and how much of it."""

    def __init__(self, proxy: DroppingProxy) -> None:
        self._proxy = proxy
        self._archive = False
        self._sent = 0
        self._cut: int | None = None
        self._stall: int | None = None

    async def forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self._archive = _ARCHIVE in data.partition(b"\r\n")[0]
            if self._archive:
                proxy = self._proxy
                proxy.requests.append(data)
                self._sent = 0
                self._cut = proxy.cuts.pop(0) if proxy.cuts else None
                self._stall = proxy.stalls.pop(0) if proxy.stalls else None
            writer.write(data)
            await writer.drain()

    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self._archive:
                data = self._changed(data)
                limit = self._cut if self._stall is None else self._stall
                if limit is not None and self._sent + len(data) >= limit:
                    data = data[: limit - self._sent]
                    limit = 0
                self._sent += len(data)
                self._proxy.sent += len(data)
                writer.write(data)
                await writer.drain()
                if limit == 0:
                    if self._stall is not None:
                        await asyncio.Event().wait()
                    return
            else:
                writer.write(data)
                await writer.drain()

    def _changed(self, data: bytes) -> bytes:
        place = self._proxy.corrupt_at
        if place is None or not self._sent <= place < self._sent + len(data):
            return data
        at = place - self._sent
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
