"""Files fetched from a well-behaved origin: whole, resumed, over kept connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import Any, Self

import pytest
import uvloop

from downloadd.errors import (
    AddressBlocked,
    SourceChanged,
    SourceProtocolError,
    SourceStalled,
    SourceTruncated,
    SourceUnreachable,
)
from downloadd.model import Source
from downloadd.ports import SourceReader
from tests.integration.fetching import MIB, failure, fetch, fixed, session, until
from tests.origin import Origin, content, sha256


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as server:
        yield server


@pytest.fixture
async def reader() -> AsyncIterator[SourceReader]:
    async with session() as source:
        yield source


async def test_a_file_comes_whole_and_described(reader: SourceReader, origin: Origin) -> None:
    """The bytes, and everything the headers say of them, arrive as they are."""
    url = origin.url(7, 3 * MIB + 17, digest="good", disposition='attachment; filename="a b.png"')
    data, body = await fetch(reader, url)
    assert data == content(7, 3 * MIB + 17)
    assert (body.offset, body.size) == (0, 3 * MIB + 17)
    assert body.validator == f'"7-{3 * MIB + 17}-random"'
    assert body.file_name == "a b.png"
    assert body.content_type == "image/png"
    assert body.content_encoding is None
    assert body.modified is not None
    assert body.digests == {"sha256": sha256(7, 3 * MIB + 17)}


async def test_what_is_sent_is_what_is_meant(reader: SourceReader, origin: Origin) -> None:
    """The request asks for identity, is anonymous, and keeps the URL's bytes."""
    target = "/file/1/10?X-Amz-Signature=a%2bB%2F+~&&e=[1]'&x=%zz"
    await fetch(reader, f"http://127.0.0.1:{origin.port}{target}#fragment")
    request = origin.requests[-1]
    assert request.target == target
    assert request.headers == {
        "host": f"127.0.0.1:{origin.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "downloadd",
    }


async def test_own_headers_are_not_the_callers_to_set(reader: SourceReader, origin: Origin) -> None:
    """Callers' headers are sent, but for those that frame the request or choose the host."""
    given = {
        "X-Key": "k",
        "Host": "internal",
        "RANGE": "bytes=5-",
        "Accept-Encoding": "gzip",
        "Transfer-Encoding": "chunked",
        "Content-Length": "5",
        "Connection": "upgrade",
    }
    data, _ = await fetch(reader, origin.url(1, 10), headers=given)
    assert data == content(1, 10)
    sent = origin.requests[-1].headers
    assert sent["x-key"] == "k"
    assert sent["host"] == f"127.0.0.1:{origin.port}"
    assert sent["accept-encoding"] == "identity"
    assert not {"range", "transfer-encoding", "content-length", "connection"} & set(sent)


async def test_a_header_with_a_line_break_is_refused(reader: SourceReader, origin: Origin) -> None:
    """No header can smuggle in another."""
    error = await failure(reader, origin.url(), headers={"X-Key": "a\r\nHost: internal"})
    assert isinstance(error, SourceProtocolError)
    assert not origin.requests


@pytest.mark.parametrize("how", [{"chunked": 1}, {"nolength": 1}])
async def test_bodies_without_a_length_come_whole(
    reader: SourceReader, origin: Origin, how: dict[str, Any]
) -> None:
    """Chunked and close-delimited bodies have no size, and end where they end."""
    data, body = await fetch(reader, origin.url(2, 2 * MIB, **how))
    assert data == content(2, 2 * MIB)
    assert body.size is None


async def test_an_empty_file_is_a_file(reader: SourceReader, origin: Origin) -> None:
    """Zero bytes are a proper body."""
    data, body = await fetch(reader, origin.url(1, 0))
    assert (data, body.size) == (b"", 0)


async def test_an_encoded_body_is_not_decoded(reader: SourceReader, origin: Origin) -> None:
    """A body that comes encoded anyway is passed on as it is, and said to be."""
    data, body = await fetch(reader, origin.url(1, 500, encoding="gzip", digest="md5"))
    assert data == content(1, 500)
    assert body.content_encoding == "gzip"
    assert not body.digests


async def test_cookies_are_forgotten(reader: SourceReader, origin: Origin) -> None:
    """No cookie goes from one request to the next."""
    for _ in range(2):
        await fetch(reader, origin.url(cookie="seen=1"))
    assert "cookie" not in origin.requests[-1].headers


@pytest.mark.parametrize("what", ["good", "content", "legacy", "md5"])
async def test_announced_digests_are_those_of_the_file(
    reader: SourceReader, origin: Origin, what: str
) -> None:
    """Each kind of digest header is read; a part takes none that speaks of the part alone."""
    url = origin.url(3, 1000, digest=what)
    _, body = await fetch(reader, url)
    assert body.digests
    assert body.digests.get("sha256", sha256(3, 1000)) == sha256(3, 1000)
    _, part = await fetch(reader, url, offset=10, validator=body.validator)
    assert part.digests == (body.digests if what in ("good", "legacy") else {})


async def test_resumption_brings_the_rest(reader: SourceReader, origin: Origin) -> None:
    """With an offset and a validator the rest comes, and the size is the whole file's."""
    url = origin.url(4, 5000)
    _, first = await fetch(reader, url)
    data, body = await fetch(reader, url, offset=1234, validator=first.validator)
    assert data == content(4, 5000, start=1234)
    assert (body.offset, body.size, body.validator) == (1234, 5000, first.validator)
    assert origin.requests[-1].headers["range"] == "bytes=1234-"
    assert origin.requests[-1].headers["if-range"] == first.validator


async def test_resumption_by_date(reader: SourceReader, origin: Origin) -> None:
    """Without an ETag an old enough Last-Modified serves."""
    url = origin.url(4, 5000, etag="none")
    _, first = await fetch(reader, url)
    assert first.validator is not None
    assert first.validator.endswith("GMT")
    data, body = await fetch(reader, url, offset=10, validator=first.validator)
    assert (data, body.offset) == (content(4, 5000, start=10), 10)


@pytest.mark.parametrize("query", [{"etag": "change"}, {"norange": 1}])
async def test_a_changed_file_comes_whole(
    reader: SourceReader, origin: Origin, query: dict[str, Any]
) -> None:
    """Where If-Range fails, or ranges are ignored, the whole file comes, from offset 0."""
    url = origin.url(4, 5000, **query)
    _, first = await fetch(reader, url)
    data, body = await fetch(reader, url, offset=10, validator=first.validator)
    assert (data, body.offset, body.size) == (content(4, 5000), 0, 5000)


@pytest.mark.parametrize(
    "query", [{"etag": "weak"}, {"ranges": "none"}, {"etag": "none", "modified": "now"}]
)
async def test_without_a_strong_validator_there_is_none(
    reader: SourceReader, origin: Origin, query: dict[str, Any]
) -> None:
    """Weak ETags, young dates, and sources without ranges give no validator."""
    _, body = await fetch(reader, origin.url(4, 50, **query))
    assert body.validator is None


@pytest.mark.parametrize("query", [{"wrongrange": 1}, {"changed": 1}])
async def test_another_part_than_asked_for_is_a_change(
    reader: SourceReader, origin: Origin, query: dict[str, Any]
) -> None:
    """A 206 from another offset, or of another version, is never appended."""
    url = origin.url(4, 5000, **query)
    error = await failure(reader, url, offset=10, validator='"4-5000-random"')
    assert isinstance(error, SourceChanged)


async def test_an_offset_past_the_end_is_a_change(reader: SourceReader, origin: Origin) -> None:
    """416 means that the file is not what it was."""
    assert isinstance(await failure(reader, origin.url(4, 50), offset=51), SourceChanged)


async def test_a_shorter_part_than_asked_for_is_truncated(
    reader: SourceReader, origin: Origin
) -> None:
    """A proper answer that stops before the file's end does not pass for its rest."""
    error = await failure(reader, origin.url(4, 5000, shortrange=100), offset=10)
    assert isinstance(error, SourceTruncated)


async def test_a_part_unasked_for_is_no_file(reader: SourceReader, origin: Origin) -> None:
    """206 to a request without a range is a protocol error."""
    async with fixed(b"HTTP/1.1 206 X\r\nContent-Length: 1\r\n\r\nx") as url:
        assert isinstance(await failure(reader, url), SourceProtocolError)


class Chatty:
    """Answers with the path, and says more than it was asked for: on its first connection."""

    def __init__(self, *, when: str, more: bytes) -> None:
        self._when = when
        self._more = more
        self.asked: list[list[str]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.said = asyncio.Event()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append([])
        with closing(writer), suppress(asyncio.IncompleteReadError):  # the client has hung up
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1]
                first = len(self.asked) == 1
                self.asked[-1].append(path.decode())
                if first and self._when == "asked" and len(self.asked[-1]) == 2:
                    writer.write(self._more)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)
                if first and self._when == "idle":
                    await asyncio.sleep(0.1)
                    writer.write(self._more)
                    await asyncio.sleep(0.1)
                    self.said.set()


FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


@pytest.mark.parametrize(
    ("when", "more"),
    [("idle", FORGED), ("idle", b"junk"), ("asked", b"junk")],
    ids=["answer", "junk", "late"],
)
async def test_what_nobody_asked_for_is_no_answer(
    reader: SourceReader, when: str, more: bytes
) -> None:
    """Neither what came to an idle connection, nor what is left of the answer before."""
    async with Chatty(when=when, more=more) as source:
        assert (await fetch(reader, f"{source.url}/1"))[0] == b"/1"
        if when == "idle":
            await source.said.wait()
        assert (await fetch(reader, f"{source.url}/2"))[0] == b"/2"
        assert source.asked[-1] == ["/2"]
        assert len(source.asked) == 2
        assert (await fetch(reader, f"{source.url}/3"))[0] == b"/3"
        assert source.asked[-1] == ["/2", "/3"]


async def test_connections_are_kept(reader: SourceReader, origin: Origin) -> None:
    """Bodies read to their end give the connection back; error answers and redirects too."""
    for _ in range(5):
        await fetch(reader, origin.url(1, 1000))
    await fetch(reader, origin.url(1, 1000, redirect=2))
    await failure(reader, origin.url(status=404))
    await fetch(reader, origin.url(1, 300_000))
    assert origin.connections == 1


async def test_a_stale_connection_is_replaced(reader: SourceReader, origin: Origin) -> None:
    """A connection that the source has closed meanwhile is no failure."""
    await fetch(reader, origin.url(1, 1000, hangup=1))
    await fetch(reader, origin.url(1, 1000))
    assert origin.connections == 2


async def test_leaving_early_closes(reader: SourceReader, origin: Origin) -> None:
    """An answer that is not read is not waited for, and its connection not used again."""
    async with reader.open(Source(url=origin.url(1, 64 * MIB))):
        pass
    await until(lambda: origin.open_connections == 0)
    await fetch(reader, origin.url(1, 10))
    assert origin.connections == 2


@pytest.mark.parametrize("query", [{"delay": 30}, {"stall_after": 100}])
async def test_cancelling_closes(
    reader: SourceReader, origin: Origin, query: dict[str, Any]
) -> None:
    """A cancelled fetch lets go of its connection, before and after the head."""
    task = asyncio.create_task(fetch(reader, origin.url(1, 1000, **query)))
    await until(lambda: bool(origin.requests))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if "delay" not in query:
        await until(lambda: origin.open_connections == 0)
    await fetch(reader, origin.url(1, 10))
    assert origin.connections == 2


async def test_many_at_once(reader: SourceReader, origin: Origin) -> None:
    """Many fetches share the loop, and each gets its own bytes."""
    results = await asyncio.gather(
        *(fetch(reader, origin.url(seed, 200_000)) for seed in range(40))
    )
    assert all(data == content(seed, 200_000) for seed, (data, _) in enumerate(results))


def test_everything_holds_under_uvloop() -> None:
    """The faults that depend on the event loop are seen under uvloop as well."""

    async def main() -> None:
        async with Origin() as origin, session(stall_timeout=0.5) as reader:
            data, _ = await fetch(reader, origin.url(1, 3 * MIB))
            assert data == content(1, 3 * MIB)
            ways: list[dict[str, Any]] = [{}, {"chunked": 1}, {"nolength": 1}]
            for how in ways:
                for after in (0, 1000, 600_000):
                    url = origin.url(5, MIB, drop_after=after, reset=1, **how)
                    assert isinstance(await failure(reader, url), SourceUnreachable)
            url = origin.url(5, MIB, drop_after=1000)
            assert isinstance(await failure(reader, url), SourceTruncated)
            assert isinstance(await failure(reader, origin.url(stall_after=5)), SourceStalled)
            async with Origin() as other:
                url = other.url()
            assert isinstance(await failure(reader, url), SourceUnreachable)
            blocked = f"http://[::ffff:127.0.0.1]:{origin.port}/"
            assert isinstance(await failure(reader, blocked), AddressBlocked)

    uvloop.run(main())
