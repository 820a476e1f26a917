"""A TCP proxy in which a request of a certain form springs a trap.

It stands between a server and its Valkey or S3 and carries everything as it
is, until the trap springs: then the connection ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from tests.proxy import Proxy

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


class TrapProxy(Proxy):
    """The proxy before a port of this machine."""

    def __init__(self, port_behind: int) -> None:
        super().__init__(port_behind)
        self.trap: Trap | None = None

    def connection(self) -> _Connection:
        return _Connection(self)


class _Connection:
    def __init__(self, proxy: TrapProxy) -> None:
        self._proxy = proxy
        self._caught: Trap | None = None

    async def forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen, trap = b"", self._proxy.trap
        while data := await reader.read(1 << 16):
            if trap is not self._proxy.trap:  # what went before it was set is none of its
                seen, trap = b"", self._proxy.trap
            seen = seen[-_WINDOW:] + data
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
