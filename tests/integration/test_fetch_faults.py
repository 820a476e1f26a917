"""Sources that break, stall, lie and refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from downloadd.errors import (
    SourceError,
    SourceProtocolError,
    SourceRefused,
    SourceStalled,
    SourceTruncated,
    SourceUnavailable,
    SourceUnreachable,
)
from downloadd.model import Source
from downloadd.ports import SourceReader
from tests.integration.fetching import MIB, extend, failure, fetch, fixed, session, until
from tests.origin import Origin, content


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as server:
        yield server


@pytest.fixture
async def reader() -> AsyncIterator[SourceReader]:
    async with session() as source:
        yield source


@pytest.mark.parametrize("how", [{}, {"chunked": 1}])
async def test_a_body_cut_short_is_truncated(
    reader: SourceReader, origin: Origin, how: dict[str, Any]
) -> None:
    """A connection that ends before the body does is noticed, and may be tried again."""
    error = await failure(reader, origin.url(5, MIB, drop_after=1000, **how))
    assert isinstance(error, SourceTruncated)
    assert error.transient


@pytest.mark.parametrize("how", [{}, {"chunked": 1}, {"nolength": 1}])
@pytest.mark.parametrize("after", [0, 1000, 600_000])
async def test_a_reset_is_a_lost_connection(
    reader: SourceReader, origin: Origin, how: dict[str, Any], after: int
) -> None:
    """A reset never passes for the end of a body, not even where the connection ends it."""
    error = await failure(reader, origin.url(5, MIB, drop_after=after, reset=1, **how))
    assert isinstance(error, SourceUnreachable)


async def test_what_came_before_the_cut_is_given(reader: SourceReader, origin: Origin) -> None:
    """Bytes read before the connection broke have been yielded: resumption goes on from them."""
    url = origin.url(5, MIB, drop_after=300_000, times=1)
    got = bytearray()
    async with reader.open(Source(url=url)) as body:
        with pytest.raises(SourceTruncated):
            await extend(got, body)
    rest, resumed = await fetch(reader, url, offset=len(got), validator=body.validator)
    assert bytes(got) + rest == content(5, MIB)
    assert resumed.offset == len(got)


async def test_lies_about_the_length(reader: SourceReader, origin: Origin) -> None:
    """A length above the truth is a truncated body; bytes beyond one below it are never given."""
    error = await failure(reader, origin.url(5, 1000, lie="longer"))
    assert isinstance(error, SourceTruncated)
    got = bytearray()
    # Whether they are noticed depends on whether they come along with the rest.
    with suppress(SourceProtocolError):
        async with reader.open(Source(url=origin.url(5, 1000, lie="shorter"))) as body:
            await extend(got, body)
    assert bytes(got) in (b"", content(5, 900))
    data, _ = await fetch(reader, origin.url(5, 1000))
    assert data == content(5, 1000)


async def test_a_part_longer_than_announced(reader: SourceReader) -> None:
    """A 206 that brings more than its Content-Range says is a protocol error."""
    head = b"HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 9\r\n\r\n123456789"
    async with fixed(head) as url:
        assert isinstance(await failure(reader, url, offset=5), SourceProtocolError)


async def test_a_stalled_body(origin: Origin) -> None:
    """No byte for the stall time-out ends it, whatever came before."""
    async with session(stall_timeout=0.3) as reader:
        error = await failure(reader, origin.url(5, 1000, stall_after=100))
    assert isinstance(error, SourceStalled)
    await until(lambda: origin.open_connections == 0)


async def test_a_slow_body_is_no_stall(origin: Origin) -> None:
    """Bytes that keep coming, however slowly, keep the fetch alive."""
    async with session(stall_timeout=0.3) as reader:
        data, _ = await fetch(reader, origin.url(5, 1000, rate=1000))
    assert data == content(5, 1000)


async def test_a_slow_reader_is_no_stall(origin: Origin) -> None:
    """Time that our own side takes does not count against the source."""
    async with session(stall_timeout=0.3) as reader:
        size = 8 * MIB
        async with reader.open(Source(url=origin.url(5, size))) as body:
            got = 0
            async for chunk in body.chunks():
                if got == 0:
                    await asyncio.sleep(0.7)
                got += len(chunk)
    assert got == size


async def test_a_source_without_an_answer_stalls(origin: Origin) -> None:
    """Silence before the head is a stall as well."""
    async with session(stall_timeout=0.3) as reader:
        assert isinstance(await failure(reader, origin.url(delay=30)), SourceStalled)


async def test_a_head_byte_by_byte_has_an_end(origin: Origin) -> None:
    """A head that trickles in is cut off though each byte is in time."""
    async with session(stall_timeout=0.3, connect_timeout=0.3) as reader:
        assert isinstance(await failure(reader, origin.url(slow_head=0.05)), SourceStalled)


async def test_an_endless_body_can_be_left(reader: SourceReader, origin: Origin) -> None:
    """Leaving early closes the connection, so that the source stops sending."""
    async with reader.open(Source(url=origin.url(endless=1))) as body:
        async for _ in body.chunks():
            break
    await until(lambda: origin.open_connections == 0)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, SourceRefused),
        (401, SourceRefused),
        (403, SourceRefused),
        (404, SourceRefused),
        (408, SourceUnavailable),
        (410, SourceRefused),
        (416, SourceRefused),
        (418, SourceRefused),
        (425, SourceUnavailable),
        (429, SourceUnavailable),
        (500, SourceUnavailable),
        (503, SourceUnavailable),
        (599, SourceUnavailable),
        (201, SourceProtocolError),
        (204, SourceProtocolError),
        (300, SourceProtocolError),
        (304, SourceProtocolError),
        (302, SourceProtocolError),
        (999, SourceUnavailable),
    ],
)
async def test_statuses(
    reader: SourceReader, origin: Origin, status: int, error: type[SourceError]
) -> None:
    """Each status means what SPEC §4.1 says; without Location a redirect is nothing."""
    found = await failure(reader, origin.url(status=status))
    assert type(found) is error
    assert "127.0.0.1" in found.message
    assert found.transient == issubclass(error, SourceUnavailable)


async def test_retry_after_is_passed_on(reader: SourceReader, origin: Origin) -> None:
    """What the source asks for can be honoured."""
    error = await failure(reader, origin.url(status=503, retry_after=7))
    assert error.retry_after == 7.0
    error = await failure(
        reader, origin.url(status=429, retry_after="Fri, 31 Dec 1999 23:59:59 GMT")
    )
    assert error.retry_after == 0.0


async def test_transient_faults_pass(reader: SourceReader, origin: Origin) -> None:
    """The same request succeeds when the source has recovered."""
    url = origin.url(1, 100, status=503, times=2)
    for _ in range(2):
        await failure(reader, url)
    assert (await fetch(reader, url))[0] == content(1, 100)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01 no HTTP\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 X\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 X\r\n" + b"X: x\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_what_is_no_http_is_refused(reader: SourceReader, answer: bytes) -> None:
    """Garbage, contradicting lengths, and heads without end are protocol errors."""
    async with fixed(answer) as url:
        assert isinstance(await failure(reader, url), SourceProtocolError)


async def test_a_broken_chunk_is_no_end(reader: SourceReader) -> None:
    """A chunk size that is none does not pass for the end of the body."""
    answer = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n"
    async with fixed(answer) as url:
        error = await failure(reader, url)
    assert isinstance(error, (SourceTruncated, SourceProtocolError))


async def test_a_connection_closed_without_an_answer(reader: SourceReader) -> None:
    """Nothing at all is a lost connection."""
    async with fixed(b"") as url:
        assert isinstance(await failure(reader, url), SourceUnreachable)


async def test_a_closed_port(reader: SourceReader, origin: Origin) -> None:
    """Nobody listening is transient: somebody may start."""
    async with Origin() as other:
        url = other.url()
    assert isinstance(await failure(reader, url), SourceUnreachable)


async def test_an_unknown_name() -> None:
    """A name without an address is unreachable, not blocked."""
    async with session() as reader:
        error = await failure(reader, "http://no-such-host.invalid/a")
    assert isinstance(error, SourceUnreachable)
    assert "no-such-host.invalid" in error.message
