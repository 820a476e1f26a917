"""What tests of fetching share."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from downloadd.errors import (
    SourceError,
)
from downloadd.model import Source
from downloadd.network.fetch import HttpBody, HttpSource
from downloadd.network.guard import AddressGuard
from downloadd.ports import SourceBody, SourceReader

MIB = 1 << 20
OPEN = ["127.0.0.1", "localhost"]


def session(**options: float) -> AbstractAsyncContextManager[HttpSource]:
    timeouts = {"connect_timeout": 5.0, "stall_timeout": 5.0, **options}
    return HttpSource.open_session(AddressGuard(allow=OPEN), **timeouts)  # type: ignore[arg-type]


async def fetch(
    reader: SourceReader,
    url: str,
    *,
    offset: int = 0,
    validator: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[bytes, HttpBody]:
    source = Source(url=url, headers=headers or {})
    async with reader.open(source, offset=offset, validator=validator) as body:
        data = b"".join([chunk async for chunk in body.chunks()])
    assert isinstance(body, HttpBody)
    return data, body


async def failure(reader: SourceReader, url: str, **options: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await fetch(reader, url, **options)  # type: ignore[arg-type]
    # No secret of the URL is in what users read, nor in what logs and traces get.
    assert "/file" not in caught.value.message
    assert "?" not in caught.value.message
    assert url not in "".join(traceback.format_exception(caught.value))
    return caught.value


async def extend(got: bytearray, body: SourceBody) -> None:
    async for chunk in body.chunks():
        got += chunk


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


class fixed:
    """A server that answers everything with the same bytes and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/file"

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(self._answer)
        writer.close()
