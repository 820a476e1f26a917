"""What only S3 has to bear: links, checksums, broken connections."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from downloadd.errors import StorageCorrupt, StorageRefused, StorageUnavailable, UploadMissing
from downloadd.model import Archive
from downloadd.objects.s3 import S3Store
from downloadd.ports import ObjectMeta, Part, Twin
from tests.gateway import Gateway, run_gateway
from tests.ports import free_port

from .conftest import s3_store_at
from .support import META, MIB, Body, Proxy, random_bytes

PART = 5 * MIB
#: An object that is no archive of ours.
SOURCE = random_bytes(2 * PART)


def archive(key: str, size: int = 0) -> Archive:
    return Archive(key=key, size=size, sha256="", file_name="x.zip")


@pytest.fixture
async def proxy(gateway: Gateway) -> AsyncIterator[tuple[Proxy, str]]:
    relay = Proxy(gateway.port)
    async with relay.running() as address:
        yield relay, address


@pytest.fixture
async def shaky(
    gateway: Gateway, bucket: str, proxy: tuple[Proxy, str]
) -> AsyncIterator[tuple[S3Store, Proxy]]:
    """A store whose connections pass through a proxy that breaks them when told to."""
    relay, address = proxy
    async with s3_store_at(gateway, bucket, endpoint=address) as store:
        yield store, relay


# --- links ---


async def test_a_link_serves_the_object_as_a_download(s3_store: S3Store) -> None:
    """Whoever holds the link gets the bytes, whole or in ranges, under the user's file name."""
    data = random_bytes(100_000)
    meta = ObjectMeta(file_name='Grüße "日本".zip')
    key = "jobs/a b+c.zip"
    await s3_store.put(key, Body(data), meta)
    link = await s3_store.sign(archive(key))
    assert 3500 < link.expires_at - time.time() <= 3600
    async with aiohttp.ClientSession() as session:
        async with session.get(link.url) as answer:
            assert answer.status == 200
            assert await answer.read() == data
            assert answer.headers["Content-Type"] == "application/zip"
            assert answer.headers["Cache-Control"] == "private"
            assert answer.headers["Content-Disposition"] == (
                'attachment; filename="Gr__e ____.zip"; '
                "filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%22%E6%97%A5%E6%9C%AC%22.zip"
            )
        async with session.get(link.url, headers={"Range": "bytes=1000-1999"}) as answer:
            assert answer.status == 206
            assert await answer.read() == data[1000:2000]
        for broken in (link.url[:-4] + "0000", link.url.replace("a%20b", "other")):
            async with session.get(broken) as answer:
                assert answer.status == 403


async def test_multipart_objects_carry_the_same_headers(s3_store: S3Store) -> None:
    """An object made of parts is as much a private download as one put whole."""
    upload_id = await s3_store.begin("a.zip", META)
    part = await s3_store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    await s3_store.complete("a.zip", upload_id, [part])
    link = await s3_store.sign(archive("a.zip"))
    async with aiohttp.ClientSession() as session, session.get(link.url) as answer:
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
        assert answer.headers["Cache-Control"] == "private"
        assert answer.headers["Content-Type"] == "application/zip"


async def test_an_expired_link_is_refused(gateway: Gateway, bucket: str) -> None:
    """A link ends with its time."""
    async with s3_store_at(gateway, bucket, presign_ttl=1) as store:
        await store.put("a.zip", Body(b"data"), META)
        link = await store.sign(archive("a.zip"))
        await asyncio.sleep(2.1)
        async with aiohttp.ClientSession() as session, session.get(link.url) as answer:
            assert answer.status == 403


async def test_links_carry_the_public_endpoint(
    gateway: Gateway, bucket: str, proxy: tuple[Proxy, str]
) -> None:
    """Where the public address differs, links have it and work there."""
    _, address = proxy
    async with s3_store_at(gateway, bucket, public_endpoint=address) as store:
        await store.put("a.zip", Body(b"data"), META)
        link = await store.sign(archive("a.zip"))
        assert link.url.startswith(f"{address}/{bucket}/a.zip?")
        async with aiohttp.ClientSession() as session, session.get(link.url) as answer:
            assert await answer.read() == b"data"


async def test_signing_is_cheap(s3_store: S3Store) -> None:
    """A link takes well below a millisecond of CPU (150 µs is the goal, 55 usual)."""
    start = time.process_time()
    for _ in range(500):
        await s3_store.sign(archive("jobs/a.zip"))
    assert (time.process_time() - start) / 500 < 0.001


# --- checksums ---


async def test_parts_are_verified_where_the_server_can(seaweed: Gateway, bucket: str) -> None:
    """A server that knows CRC-32 gets it, and a part says that it was verified."""
    async with s3_store_at(seaweed, bucket) as store:
        upload_id = await store.begin("a.zip", META)
        body = Body(b"data")
        part = await store.upload_part("a.zip", upload_id, 1, body)
        assert part.crc32 == body.crc32
        await store.complete("a.zip", upload_id, [part])


async def test_parts_are_not_called_verified_where_the_server_cannot(s3_store: S3Store) -> None:
    """A server that ignores CRC-32 is not believed to have compared it."""
    upload_id = await s3_store.begin("a.zip", META)
    part = await s3_store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    assert part.crc32 is None
    assert part.etag == hashlib.md5(b"data").hexdigest()
    await s3_store.abort("a.zip", upload_id)


# --- parts copied within the bucket ---


@pytest.fixture(params=["gateway", "seaweed"])
async def copying_store(request: pytest.FixtureRequest, bucket: str) -> AsyncIterator[S3Store]:
    """A store that knows CRC-32, or not, with a source in it."""
    async with s3_store_at(request.getfixturevalue(request.param), bucket) as store:
        await store.put("70000.zip", Body(SOURCE), META)
        yield store


async def test_a_part_is_copied_within_the_bucket(copying_store: S3Store) -> None:
    """The server takes a part from an object that it has, and proves to have its bytes."""
    store, body = copying_store, Body(SOURCE[7 : 7 + PART])
    source = await store.head("70000.zip")
    assert source is not None
    upload_id = await store.begin("a.zip", META)
    twin = Twin(key="70000.zip", etag=source.etag, offset=7)
    first = await store.copy_part("a.zip", upload_id, 1, body, twin)
    assert first is not None
    last = await store.upload_part("a.zip", upload_id, 2, Body(b"data", offset=PART))
    await store.complete("a.zip", upload_id, [first, last])
    assert b"".join([chunk async for chunk in store.read("a.zip")]) == body.data + b"data"


@pytest.mark.parametrize("change", ["gone", "replaced"])
async def test_a_source_that_changes_is_not_copied(copying_store: S3Store, change: str) -> None:
    """Of a source that is gone or was replaced no part is made: it is to be sent."""
    store, body = copying_store, Body(SOURCE[:PART])
    source = await store.head("70000.zip")
    assert source is not None
    if change == "gone":
        await store.delete("70000.zip")
    else:
        await store.put("70000.zip", Body(SOURCE[::-1]), META)
    await assert_sent_instead(store, body, Twin(key="70000.zip", etag=source.etag))


async def test_a_copy_of_other_bytes_is_replaced(s3_store: S3Store) -> None:
    """A copy whose checksum is not that of the part's bytes counts for nothing."""
    source = await s3_store.put("70000.zip", Body(SOURCE), META)
    body = Body(SOURCE[1 : 1 + PART])
    await assert_sent_instead(s3_store, body, Twin(key="70000.zip", etag=source.etag))


async def assert_sent_instead(store: S3Store, body: Body, twin: Twin) -> None:
    upload_id = await store.begin("a.zip", META)
    assert await store.copy_part("a.zip", upload_id, 1, body, twin) is None
    part = await store.upload_part("a.zip", upload_id, 1, body)
    await store.complete("a.zip", upload_id, [part])
    assert b"".join([chunk async for chunk in store.read("a.zip")]) == body.data


async def test_no_upload_to_copy_into(copying_store: S3Store) -> None:
    """An upload that is gone is told as when sending."""
    store = copying_store
    source = await store.head("70000.zip")
    assert source is not None
    upload_id = await store.begin("a.zip", META)
    await store.abort("a.zip", upload_id)
    twin = Twin(key="70000.zip", etag=source.etag)
    with pytest.raises(UploadMissing):
        await store.copy_part("a.zip", upload_id, 1, Body(SOURCE[:PART]), twin)


@pytest.mark.parametrize("server", ["gateway", "seaweed"])
async def test_put_lets_the_server_verify(
    request: pytest.FixtureRequest, server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes other than their Content-MD5 are refused by the server: StorageCorrupt."""

    async def wrong(_body: object) -> bytes:
        return b"0" * 16

    monkeypatch.setattr("downloadd.objects.s3.md5_of", wrong)
    async with s3_store_at(request.getfixturevalue(server), bucket) as store:
        with pytest.raises(StorageCorrupt, match="BadDigest"):
            await store.put("a.zip", Body(b"data"), META)
        assert await store.head("a.zip") is None


async def test_the_server_refuses_a_part_with_another_crc(
    seaweed: Gateway, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that arrives other than its CRC-32 says is refused by the server."""
    monkeypatch.setattr(
        "downloadd.objects.s3.base64_crc", lambda _: base64.b64encode(bytes(4)).decode()
    )
    async with s3_store_at(seaweed, bucket) as store:
        upload_id = await store.begin("a.zip", META)
        with pytest.raises(StorageCorrupt, match="BadDigest"):
            await store.upload_part("a.zip", upload_id, 1, Body(b"data"))
        assert await store.list_parts("a.zip", upload_id) == []


async def test_a_server_that_refuses_checksums_goes_without(
    shaky: tuple[S3Store, Proxy],
) -> None:
    """Where the checksum header is answered with NotImplemented, uploads work without it."""
    store, relay = shaky
    relay.fail("501")
    upload_id = await store.begin("a.zip", META)
    part = await store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    await store.complete("a.zip", upload_id, [part])


# --- trouble ---


@pytest.mark.parametrize("fault", ["reset", "503", "cut"])
@pytest.mark.parametrize("times", [1, 3])
async def test_transient_trouble_passes_unnoticed(
    shaky: tuple[S3Store, Proxy], fault: str, times: int
) -> None:
    """Up to three broken connections or 503 answers in a row cost a call nothing but time."""
    store, relay = shaky
    data = random_bytes(PART + 10)
    relay.fail(*[fault] * times)
    await store.put("small.zip", Body(data[:2000]), META)
    relay.fail(*[fault] * times)
    part = Body(data[:PART])
    upload_id = await store.begin("a.zip", META)
    relay.fail(*[fault] * times)
    first = await store.upload_part("a.zip", upload_id, 1, part)
    second = await store.upload_part("a.zip", upload_id, 2, Body(data[PART:], offset=PART))
    assert not relay.faults
    relay.fail(*["reset"] * times)
    await store.complete("a.zip", upload_id, [first, second])
    relay.fail(*["reset"] * times)
    assert b"".join([chunk async for chunk in store.read("a.zip")]) == data


async def test_a_read_goes_on_where_it_broke(shaky: tuple[S3Store, Proxy]) -> None:
    """A connection that breaks within the answer is taken up with a range."""
    store, relay = shaky
    data = random_bytes(3 * MIB)
    await store.put("a.zip", Body(data), META)
    relay.fail("half", "half", "reset")
    assert b"".join([chunk async for chunk in store.read("a.zip")]) == data
    assert not relay.faults


@pytest.mark.parametrize("fault", ["lost", "200", "503"])
async def test_trouble_while_completing(
    shaky: tuple[S3Store, Proxy], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """An upload is completed though the answer was lost, or was an error under status 200."""
    store, relay = shaky
    upload_id = await store.begin("a.zip", META)
    part = await store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    list_parts = store.list_parts

    async def list_then_break(key: str, given: str) -> Sequence[Part]:
        parts = await list_parts(key, given)
        relay.fail(fault)
        return parts

    monkeypatch.setattr(store, "list_parts", list_then_break)
    assert (await store.complete("a.zip", upload_id, [part])).size == 4
    assert not relay.faults


async def test_a_refusal_before_the_body_is_sent(bucket: str) -> None:
    """A server that answers 403 without reading the body is understood at once."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        refused = head.startswith(b"PUT")
        text = b"<Error><Code>AccessDenied</Code></Error>" if refused else b""
        status = b"403 Forbidden" if refused else b"200 OK\r\nConnection: close"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(text)))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(text[:20])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(text[20:])
        await writer.drain()
        if refused:
            await reader.read()
        writer.close()

    class Stuck(Body):
        ended = False

        async def chunks(self) -> AsyncIterator[bytes]:
            try:
                yield self.data[:1000]
                await asyncio.Event().wait()
            finally:
                self.ended = True

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with s3_store_at(
            Gateway(endpoint=f"http://127.0.0.1:{port}", port=port), bucket
        ) as store:
            body = Stuck(bytes(PART))
            async with asyncio.timeout(10):
                with pytest.raises(StorageRefused, match="AccessDenied"):
                    await store.upload_part("a.zip", "id", 1, body)
            assert body.ended


async def test_trouble_that_stays(shaky: tuple[S3Store, Proxy]) -> None:
    """After four tries a call gives up with StorageUnavailable."""
    store, relay = shaky
    relay.fail(*["503"] * 4)
    with pytest.raises(StorageUnavailable, match="SlowDown"):
        await store.put("a.zip", Body(b"data"), META)
    assert not relay.faults
    assert await store.head("a.zip") is None


async def test_a_server_that_is_gone(tmp_path: Path, bucket: str) -> None:
    """With the server away every call ends soon in StorageUnavailable; later all is well."""
    with run_gateway(tmp_path) as server:
        opened = s3_store_at(server, bucket)
        store = await opened.__aenter__()
        await store.put("a.zip", Body(b"data"), META)
        upload_id = await store.begin("b.zip", META)
    try:
        async with asyncio.timeout(60):
            for call in (
                store.check(),
                store.put("b.zip", Body(b"data"), META),
                store.head("a.zip"),
                store.upload_part("b.zip", upload_id, 1, Body(b"data")),
                store.begin("c.zip", META),
                store.abort("b.zip", upload_id),
                anext(store.find_uploads("")),
                anext(store.find_objects("")),
            ):
                with pytest.raises(StorageUnavailable):
                    await call
        with run_gateway(tmp_path, port=server.port):
            assert await store.head("a.zip") is not None
            part = await store.upload_part("b.zip", upload_id, 1, Body(b"data"))
            await store.complete("b.zip", upload_id, [part])
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_server_that_hangs(bucket: str) -> None:
    """A server that takes connections and says nothing ends in StorageUnavailable, too."""
    callers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: callers.append(writer), "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        deaf = Gateway(endpoint=f"http://127.0.0.1:{port}", port=port)
        start = time.monotonic()
        with pytest.raises(StorageUnavailable):
            async with s3_store_at(deaf, bucket, timeout=0.2):
                pass
        assert time.monotonic() - start < 10
        for writer in callers:
            writer.close()


async def test_nothing_listens(bucket: str) -> None:
    """An address where nobody listens is StorageUnavailable at the start."""
    port = free_port()
    with pytest.raises(StorageUnavailable):
        async with s3_store_at(Gateway(endpoint=f"http://127.0.0.1:{port}", port=port), bucket):
            pass
