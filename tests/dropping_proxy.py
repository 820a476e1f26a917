"""A TCP proxy that loses, holds up or changes what it carries of archives."""

from __future__ import annotations

import asyncio

from tests.proxy import Proxy

#: In the request line of an archive that lies in the server's own folder.
_ARCHIVE = b"/v1/files/"


class DroppingProxy(Proxy):
    """It does nothing to requests for anything else."""

    def __init__(self) -> None:
        super().__init__()
        #: After how many bytes of each next answer the connection is closed.
        self.cuts: list[int] = []
        #: After how many bytes of the next answers nothing more is sent.
        self.stalls: list[int] = []
        #: The place in each answer whose byte is changed.
        self.corrupt_at: int | None = None
        #: The head of each request for an archive, and all bytes sent for them.
        self.requests: list[bytes] = []
        self.sent = 0

    def connection(self) -> _Connection:
        return _Connection(self)


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
