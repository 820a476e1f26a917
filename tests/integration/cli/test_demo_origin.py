"""The origin of ``downloadd demo`` when its client goes away."""

from __future__ import annotations

import asyncio

import pytest

from downloadd.cli.demo_origin import running_origin


async def test_a_client_that_goes_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is reset in mid-body ends its request, and nothing is logged."""
    async with running_origin() as origin:
        others = asyncio.all_tasks()
        host, _, port = origin.authority.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /slow.dat HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        serving = asyncio.all_tasks() - others
        assert serving
        writer.transport.abort()
        _, pending = await asyncio.wait(serving, timeout=10)
    assert not pending
    assert caplog.records == []
