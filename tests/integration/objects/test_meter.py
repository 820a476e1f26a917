"""What is counted of the requests to S3, against a real server that fails when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from downloadd.errors import SpoolError, StorageUnavailable
from downloadd.objects.s3 import S3Store
from downloadd.ports import Part
from downloadd.telemetry.metrics import Metrics
from tests.gateway import Gateway
from tests.ports import free_port

from .conftest import s3_store_at
from .support import META, Body, Proxy


class Counts:
    """What has happened since they were asked last."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._before: dict[str, float] = {}

    def new(self) -> dict[str, float]:
        """Requests by "operation status", tries after the first by stage, where there are any."""
        now = {
            " ".join(sample.labels.values()): sample.value
            for counter in (self.metrics.s3_operations, self.metrics.download_retries)
            for family in counter.collect()
            for sample in family.samples
        }
        grown = {key: value - self._before.get(key, 0) for key, value in now.items()}
        self._before = now
        return {key: value for key, value in grown.items() if value}

    def timed(self, operation: str) -> float:
        """How many requests were timed."""
        name, labels = "s3_operation_duration_seconds_count", {"operation": operation}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
async def shaky(
    gateway: Gateway, bucket: str, counts: Counts
) -> AsyncIterator[tuple[S3Store, Proxy]]:
    """A counted store behind a proxy that breaks its connections when told to."""
    relay = Proxy(gateway.port)
    async with (
        relay.running() as address,
        s3_store_at(gateway, bucket, endpoint=address, metrics=counts.metrics) as store,
    ):
        yield store, relay


async def test_each_request_of_both_clients_counts(
    shaky: tuple[S3Store, Proxy], counts: Counts
) -> None:
    """By the API's name, once each, whichever client sends it."""
    store, _ = shaky
    assert counts.new() == {"HeadBucket object_missing": 1, "CreateBucket ok": 1}
    upload_id = await store.begin("a.zip", META)
    part = await store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    await store.complete("a.zip", upload_id, [part])
    await store.delete("a.zip")
    assert counts.new() == {
        "CreateMultipartUpload ok": 1,
        "UploadPart ok": 1,
        "ListParts ok": 1,
        "CompleteMultipartUpload ok": 1,
        "HeadObject ok": 1,
        "DeleteObject ok": 1,
    }
    for operation in ("CreateBucket", "UploadPart", "ListParts", "HeadObject"):
        assert counts.timed(operation) == 1


async def test_requests_that_are_repeated(shaky: tuple[S3Store, Proxy], counts: Counts) -> None:
    """Trouble that is got over is seen: each try counts, and those after the first as such."""
    store, relay = shaky
    counts.new()
    relay.fail("503", "503")
    await store.put("a.zip", Body(b"data"), META)
    relay.fail("503")
    upload_id = await store.begin("b.zip", META)
    assert counts.new() == {
        "PutObject storage_unavailable": 2,
        "PutObject ok": 1,
        "HeadObject ok": 1,
        "CreateMultipartUpload storage_unavailable": 1,
        "CreateMultipartUpload ok": 1,
        "upload": 3,
    }
    assert counts.timed("PutObject") == 3
    relay.fail("503")
    assert b"".join([chunk async for chunk in store.read("a.zip")]) == b"data"
    relay.fail("503")
    await store.abort("b.zip", upload_id)
    assert counts.new() == {
        "GetObject storage_unavailable": 1,
        "GetObject ok": 1,
        "AbortMultipartUpload storage_unavailable": 1,
        "AbortMultipartUpload ok": 1,
        "storage": 2,
    }


async def test_an_error_under_status_200(
    shaky: tuple[S3Store, Proxy], counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CompleteMultipartUpload may fail after it has begun to say that all is well."""
    store, relay = shaky
    upload_id = await store.begin("a.zip", META)
    part = await store.upload_part("a.zip", upload_id, 1, Body(b"data"))
    list_parts = store.list_parts

    async def list_then_break(key: str, given: str) -> Sequence[Part]:
        parts = await list_parts(key, given)
        relay.fail("200")
        return parts

    monkeypatch.setattr(store, "list_parts", list_then_break)
    await store.complete("a.zip", upload_id, [part])
    new = counts.new()
    assert new["CompleteMultipartUpload ok"] == 1
    # The proxy has broken a connection besides, which the client may have seen before its use.
    assert new["CompleteMultipartUpload storage_unavailable"] == new["upload"] >= 1


async def test_what_is_not_wanted_any_more(shaky: tuple[S3Store, Proxy], counts: Counts) -> None:
    """A job that is cancelled, or whose own bytes are gone, is no trouble of the storage's."""
    store, _ = shaky
    begun = asyncio.Event()

    class Stuck(Body):
        async def chunks(self) -> AsyncIterator[bytes]:
            begun.set()
            await asyncio.Event().wait()
            yield b""

    class Gone(Body):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield self.data[:1]
            raise SpoolError("The disk is gone.")

    counts.new()
    task = asyncio.create_task(store.upload_part("a.zip", "id", 1, Stuck(b"data")))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(SpoolError):
        await store.upload_part("a.zip", "id", 1, Gone(b"data"))
    assert counts.new() == {"UploadPart cancelled": 2}
    assert counts.timed("UploadPart") == 0


async def test_answers_that_are_not_s3s(counts: Counts, bucket: str) -> None:
    """The page of a proxy, and an address where nobody listens, count like any other trouble."""

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        text = b"" if head.startswith(b"HEAD") else b"<html>Bad Gateway"
        status = b"502 Bad Gateway" if text else b"200 OK"
        writer.write(
            b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status, len(text), text)
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        there = Gateway(endpoint=f"http://127.0.0.1:{port}", port=port)
        async with s3_store_at(there, bucket, metrics=counts.metrics) as store:
            with pytest.raises(StorageUnavailable):
                await store.list_parts("a.zip", "id")
    new = counts.new()
    assert new.pop("HeadBucket ok") == 1
    tries = new["upload"] + 1 if "upload" in new else 1
    assert new.pop("ListParts storage_unavailable") == tries
    port = free_port()
    nowhere = Gateway(endpoint=f"http://127.0.0.1:{port}", port=port)
    counts.new()
    with pytest.raises(StorageUnavailable):
        async with s3_store_at(nowhere, bucket, metrics=counts.metrics):
            pass
    assert counts.new() == {"HeadBucket storage_unavailable": 4, "storage": 3}
