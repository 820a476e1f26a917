"""Local links: parts of an archive, and only of the archive that the client means."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

import aiohttp
import pytest
from yarl import URL

from tests.integration.web.conftest import Server, Start
from tests.origin import Origin


@dataclass(frozen=True)
class Archive:
    """A finished archive, and how it is described when all of it is sent."""

    client: aiohttp.ClientSession
    link: URL
    body: bytes
    tag: str
    modified: str

    def at(self, seconds: int) -> str:
        """A date so many seconds after the archive's own."""
        return formatdate(
            parsedate_to_datetime(self.modified).timestamp() + seconds,
            usegmt=True,
        )


@pytest.fixture
async def archive(server: Server, origin: Origin) -> Archive:
    return await made(server, origin)


async def made(server: Server, origin: Origin) -> Archive:
    job = await server.initiate({"source_urls": [origin.url(size=3000)]})
    link = URL((await server.ended(job["jobId"]))["downloadUrl"], encoded=True)
    async with server.client.get(link) as response:
        body = await response.read()
        headers = response.headers
    return Archive(server.client, link, body, headers["ETag"], headers["Last-Modified"])


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=1000-", 1000, None),
        ("bytes=0-0", 0, 0),
        ("BYTES=5-9", 5, 9),
        ("bytes=5-99999999", 5, None),
        ("bytes=5-" + "9" * 5000, 5, None),
        ("bytes=" + "0" * 5000 + "5-", 5, None),
        ("bytes=-7", -7, None),
        ("bytes=-99999999", 0, None),
    ],
)
async def test_a_range_is_sent_alone(
    archive: Archive, asked: str, first: int, last: int | None
) -> None:
    """One range within the file, however it is given, is a 206 with just its bytes."""
    wanted = archive.body[first : None if last is None else last + 1]
    async with archive.client.get(archive.link, headers={"Range": asked}) as response:
        assert response.status == 206
        assert await response.read() == wanted
        span = response.headers["Content-Range"]
    start = archive.body.index(wanted)
    assert span == f"bytes {start}-{start + len(wanted) - 1}/{len(archive.body)}"


@pytest.mark.parametrize(
    "asked",
    [
        "items=0-3",
        "bytes=0-3,5-9",
        "bytes=0-3, 5-9",
        "bytes=9-5",
        "bytes=-",
        "bytes=",
        "bytes=a-b",
        "bytes=٣-٤",
        "x",
    ],
)
async def test_what_is_not_one_range_of_bytes_is_the_whole(archive: Archive, asked: str) -> None:
    """Another unit, several ranges, or none, is answered as if nothing had been asked."""
    async with archive.client.get(archive.link, headers={"Range": asked}) as response:
        assert response.status == 200
        assert await response.read() == archive.body


@pytest.mark.parametrize(
    "asked",
    ["bytes=-0", "bytes=99999999-", "bytes=99999999-999999999", "bytes=" + "9" * 5000 + "-"],
)
async def test_a_range_outside_of_the_file_is_a_416(archive: Archive, asked: str) -> None:
    """A range without a byte of the file says how long the file is, in our form."""
    async with archive.client.get(archive.link, headers={"Range": asked}) as response:
        answer = await response.json()
        assert response.headers["Content-Range"] == f"bytes */{len(archive.body)}"
    assert (response.status, answer["code"]) == (416, "range_not_satisfiable")
    assert answer["requestId"] == response.headers["X-Request-ID"]


async def test_a_range_of_another_file_is_the_whole(archive: Archive) -> None:
    """If-Range lets a range be only of the very file that the client has begun."""
    same = (archive.tag, archive.modified)
    other = ('"other"', f"W/{archive.tag}", archive.tag.strip('"'), archive.at(-1), archive.at(1))
    for tag, status in [*((tag, 206) for tag in same), *((tag, 200) for tag in other)]:
        headers = {"Range": "bytes=1000-", "If-Range": tag}
        async with archive.client.get(archive.link, headers=headers) as response:
            assert response.status == status, tag
            assert await response.read() == archive.body[1000 if status == 206 else 0 :]


async def test_head_has_no_ranges(archive: Archive) -> None:
    """Range is for GET: a HEAD tells of the whole file."""
    for asked in ("bytes=5-9", "bytes=99999999-"):
        async with archive.client.head(archive.link, headers={"Range": asked}) as response:
            assert response.status == 200
            assert int(response.headers["Content-Length"]) == len(archive.body)
            assert response.headers["Accept-Ranges"] == "bytes"


async def test_conditions(archive: Archive) -> None:
    """If-Match, dates and If-None-Match count in the order of RFC 9110 §13.2.2, before Range."""
    tag, modified = archive.tag, archive.modified
    # A date, to the grammar; no moment that there is (RFC 9110 §13.1.3: ignored).
    never = "Thu, 01 Jan 1970 99999999999:00:00 GMT"
    cases = (
        ({"If-Modified-Since": never}, 200),
        ({"If-Unmodified-Since": never}, 200),
        ({"If-Range": never, "Range": "bytes=5-9"}, 200),
        ({"If-Match": tag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f'"other", {tag}'}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": f"W/{tag}"}, 412),
        ({"If-Match": tag, "If-Unmodified-Since": archive.at(-9)}, 200),
        ({"If-Unmodified-Since": modified}, 200),
        ({"If-Unmodified-Since": archive.at(-1)}, 412),
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f"W/{tag}"}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": modified}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": archive.at(-1)}, 200),
        ({"If-None-Match": tag, "Range": "bytes=99999999-"}, 304),
        ({"If-Match": '"other"', "Range": "bytes=5-9"}, 412),
        ({"If-Match": tag, "Range": "bytes=5-9"}, 206),
    )
    for headers, status in cases:
        async with archive.client.get(archive.link, headers=headers) as response:
            body = await response.read()
            assert response.status == status, headers
            if status == 412:
                assert (await response.json())["code"] == "precondition_failed"
            elif status == 304:
                assert (body, response.headers["ETag"]) == (b"", tag)


async def test_a_part_has_the_headers_of_all_answers(start: Start, origin: Origin) -> None:
    """What the rest of the server makes of a request, it makes of one with conditions too."""
    given = {"Range": "bytes=5-9", "X-Request-ID": "mine", "Origin": "https://app.example"}
    async with start(server__cors_origins=["https://app.example"]) as server:
        archive = await made(server, origin)
        async with archive.client.get(archive.link, headers=given) as response:
            assert response.status == 206
            assert response.headers["X-Request-ID"] == "mine"
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert response.headers["Server"] == "downloadd"
