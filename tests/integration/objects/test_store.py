"""The obligations of ``ports.ObjectStore``, for every store alike."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from downloadd.errors import (
    DownloaddError,
    ObjectMissing,
    SpoolError,
    StorageCorrupt,
    UploadMissing,
)
from downloadd.objects.local import LocalStore
from downloadd.objects.s3 import S3Store
from downloadd.ports import ObjectMeta, ObjectStore, Part, Stored

from .support import META, MIB, Body, random_bytes

PART = 5 * MIB
Store = S3Store | LocalStore


def conforms(store: S3Store | LocalStore) -> ObjectStore:
    """The type checker's proof that both keep the protocol."""
    return store


async def read(store: Store, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(key)])


def parts_of(data: bytes, size: int = PART) -> list[Body]:
    return [Body(data[start : start + size], offset=start) for start in range(0, len(data), size)]


async def upload(store: Store, key: str, data: bytes) -> tuple[str, list[Part]]:
    """Begin an upload and send its parts, the last one first."""
    upload_id = await store.begin(key, META)
    numbered = list(enumerate(parts_of(data), start=1))
    parts = [await store.upload_part(key, upload_id, n, body) for n, body in reversed(numbered)]
    return upload_id, parts


def assert_metadata(store: Store, stored: Stored) -> None:
    """S3 keeps what goes with an object; the folder keeps bytes alone."""
    expected = {} if isinstance(store, LocalStore) else {"job": "4711", "order": "a-1"}
    assert dict(stored.metadata) == expected


@pytest.mark.parametrize("size", [0, 1, 30_000, MIB, 3 * MIB + 7])
async def test_put_keeps_bytes_and_metadata(store: Store, size: int) -> None:
    """What is put comes back whole, its size and metadata beside it."""
    data = random_bytes(size)
    stored = await store.put("a.zip", Body(data), META)
    assert stored.size == size
    assert stored == await store.head("a.zip")
    assert_metadata(store, stored)
    assert await read(store, "a.zip") == data


async def test_put_replaces(store: Store) -> None:
    """A second put under a key replaces the first one and its ETag."""
    first = await store.put("a.zip", Body(b"one"), META)
    second = await store.put("a.zip", Body(b"other"), META)
    assert first.etag != second.etag
    assert await read(store, "a.zip") == b"other"


async def test_missing_object(store: Store) -> None:
    """Of an object that is not there, head is None, read raises, delete is content."""
    assert await store.head("none.zip") is None
    with pytest.raises(ObjectMissing):
        await read(store, "none.zip")
    await store.delete("none.zip")


async def test_delete(store: Store) -> None:
    """A deleted object is gone, and may be deleted again."""
    await store.put("dir/a.zip", Body(b"data"), META)
    await store.delete("dir/a.zip")
    assert await store.head("dir/a.zip") is None
    await store.delete("dir/a.zip")


@pytest.mark.parametrize("key", ["jobs/2024/ü ö+&=?#%41.zip", "日本/a'b(c)!*~.zip"])
async def test_awkward_keys(store: Store, key: str) -> None:
    """Keys with spaces, reserved characters and any script are taken as they are."""
    await store.put(key, Body(b"data"), META)
    assert await read(store, key) == b"data"
    upload_id, parts = await upload(store, key, b"more data")
    assert (await store.complete(key, upload_id, parts)).size == 9
    await store.delete(key)
    assert await store.head(key) is None


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        ({"crc32": 1}, "CRC-32"),
        ({"announced": 3 * MIB}, "2097152 bytes"),
        ({"announced": MIB + 1}, "2097152 bytes"),
    ],
    ids=["crc", "short", "long"],
)
async def test_a_body_that_lies_is_not_stored(store: Store, lie: dict[str, int], text: str) -> None:
    """A body other than announced ends in StorageCorrupt, and no store has it."""
    body = Body(bytes(2 * MIB), **lie)
    with pytest.raises(StorageCorrupt, match=text):
        await store.put("a.zip", body, META)
    assert await store.head("a.zip") is None
    upload_id = await store.begin("a.zip", META)
    with pytest.raises(StorageCorrupt, match=text):
        await store.upload_part("a.zip", upload_id, 1, body)
    assert await store.list_parts("a.zip", upload_id) == []
    # A body that is wrong is wrong each time: it is not tried again.
    assert body.reads <= 3
    await store.abort("a.zip", upload_id)


async def test_an_error_of_the_body_comes_through(store: Store) -> None:
    """What the body itself raises is what the caller gets, at once."""

    class Broken(Body):
        async def chunks(self):  # type: ignore[no-untyped-def]
            self.reads += 1
            yield self.data[:MIB]
            raise SpoolError("the disk is gone")

    body = Broken(bytes(3 * MIB))
    with pytest.raises(SpoolError):
        await store.put("a.zip", body, META)
    upload_id = await store.begin("a.zip", META)
    with pytest.raises(SpoolError):
        await store.upload_part("a.zip", upload_id, 1, body)
    assert body.reads == 2
    await store.abort("a.zip", upload_id)


async def test_multipart_out_of_order(store: Store) -> None:
    """Parts sent in any order make the object in theirs, metadata kept."""
    data = random_bytes(2 * PART + 1000)
    upload_id, parts = await upload(store, "a.zip", data)
    assert await store.list_parts("a.zip", upload_id) == sorted(parts, key=lambda p: p.number)
    assert await store.head("a.zip") is None
    stored = await store.complete("a.zip", upload_id, parts)
    assert stored.size == len(data)
    assert_metadata(store, stored)
    assert await read(store, "a.zip") == data


async def test_completing_twice(store: Store) -> None:
    """Completing what is completed succeeds as long as the object is right."""
    data = random_bytes(PART + 1)
    upload_id, parts = await upload(store, "a.zip", data)
    first = await store.complete("a.zip", upload_id, parts)
    assert await store.complete("a.zip", upload_id, parts) == first
    with pytest.raises(UploadMissing):
        await store.list_parts("a.zip", upload_id)
    await store.put("a.zip", Body(b"something else"), META)
    with pytest.raises((StorageCorrupt, UploadMissing)):
        await store.complete("a.zip", upload_id, parts)


async def test_a_part_may_be_sent_again(store: Store) -> None:
    """A part sent twice is there once."""
    data = random_bytes(PART + 1)
    upload_id, parts = await upload(store, "a.zip", data)
    again = await store.upload_part("a.zip", upload_id, 1, parts_of(data)[0])
    assert again in parts
    assert len(await store.list_parts("a.zip", upload_id)) == 2
    await store.complete("a.zip", upload_id, parts)
    assert await read(store, "a.zip") == data


async def test_parts_that_are_not_stored_so(store: Store) -> None:
    """Completing with a part that is missing or otherwise makes no object."""
    data = random_bytes(PART + 1)
    upload_id, parts = await upload(store, "a.zip", data)
    wrong = [part.evolve(etag="0" * len(part.etag)) for part in parts]
    missing = [*parts, Part(number=3, size=7, etag=parts[0].etag)]
    for bad in (wrong, missing):
        with pytest.raises(StorageCorrupt):
            await store.complete("a.zip", upload_id, bad)
    assert await store.head("a.zip") is None
    await store.complete("a.zip", upload_id, parts)


async def test_abort(store: Store) -> None:
    """An aborted upload and its parts are gone; aborting again is no error."""
    upload_id, parts = await upload(store, "a.zip", random_bytes(1000))
    await store.abort("a.zip", upload_id)
    with pytest.raises(UploadMissing):
        await store.list_parts("a.zip", upload_id)
    with pytest.raises(UploadMissing):
        await store.complete("a.zip", upload_id, parts)
    assert await store.head("a.zip") is None
    await store.abort("a.zip", upload_id)


async def test_unknown_upload(store: Store) -> None:
    """An upload id that was never given is a missing upload everywhere."""
    with pytest.raises(UploadMissing):
        await store.upload_part("a.zip", "0" * 32, 1, Body(b"data"))
    with pytest.raises(UploadMissing):
        await store.list_parts("a.zip", "0" * 32)
    await store.abort("a.zip", "0" * 32)


async def test_many_parts_at_once(store: Store) -> None:
    """More than 100 MiB in parts of 16 MiB, four at once, come back byte for byte."""
    data = random_bytes(16 * MIB) * 6 + random_bytes(9 * MIB + 5)
    upload_id = await store.begin("big.zip", META)
    gate = asyncio.Semaphore(4)

    async def send(number: int, body: Body) -> Part:
        async with gate:
            return await store.upload_part("big.zip", upload_id, number, body)

    bodies = enumerate(parts_of(data, 16 * MIB), start=1)
    parts = await asyncio.gather(*(send(number, body) for number, body in bodies))
    assert (await store.complete("big.zip", upload_id, parts)).size == len(data)
    digest = hashlib.sha256()
    async for chunk in store.read("big.zip"):
        assert len(chunk) <= MIB
        digest.update(chunk)
    assert digest.digest() == hashlib.sha256(data).digest()
    await store.delete("big.zip")


async def test_cancelling_a_part(store: Store) -> None:
    """A cancelled part ends soon, has let go of its body, and can be sent again."""

    class Endless(Body):
        open = False

        async def chunks(self):  # type: ignore[no-untyped-def]
            self.open = True
            try:
                yield self.data[:MIB]
                await asyncio.Event().wait()
            finally:
                self.open = False

    upload_id = await store.begin("a.zip", META)
    body = Endless(bytes(3 * MIB))
    task = asyncio.create_task(store.upload_part("a.zip", upload_id, 1, body))
    async with asyncio.timeout(5):
        while not body.open:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not body.open
    assert await store.list_parts("a.zip", upload_id) == []
    part = await store.upload_part("a.zip", upload_id, 1, Body(body.data))
    await store.complete("a.zip", upload_id, [part])


async def test_leaving_a_read_early(store: Store) -> None:
    """A reader may stop in the middle; the store goes on working."""
    await store.put("a.zip", Body(random_bytes(3 * MIB)), META)
    reader = store.read("a.zip")
    assert len(await anext(reader)) > 0
    await reader.aclose()  # type: ignore[attr-defined]
    assert await store.head("a.zip") is not None


async def test_check(store: Store) -> None:
    """A store that works says so by returning."""
    await store.check()


async def test_messages_hold_no_secret(store: Store) -> None:
    """Errors never quote a signature."""
    with pytest.raises(DownloaddError) as caught:
        await read(store, "none.zip")
    assert "ignature" not in caught.value.message


async def test_large_metadata_names(store: Store) -> None:
    """A file name in any script is no trouble to store."""
    meta = ObjectMeta(file_name='Grüße "an" alle\n日本語 \U0001f600.zip')
    assert (await store.put("a.zip", Body(b"data"), meta)).size == 4
    upload_id = await store.begin("b.zip", meta)
    part = await store.upload_part("b.zip", upload_id, 1, Body(b"data"))
    assert (await store.complete("b.zip", upload_id, [part])).size == 4


async def test_listing_uploads(store: Store) -> None:
    """The unfinished ones under a prefix: not others', not what was completed or dropped."""
    ours = {
        (key, await store.begin(key, META))
        for key in ("aa/1.zip", "aa/1.zip", "aa/2.zip", "aa/b/3")
    }
    for key in ("ab/1.zip", "aa", "1.zip"):
        await store.begin(key, META)
    await store.abort("aa/4.zip", await store.begin("aa/4.zip", META))
    upload_id = await store.begin("aa/5.zip", META)
    part = await store.upload_part("aa/5.zip", upload_id, 1, Body(b"data"))
    await store.complete("aa/5.zip", upload_id, [part])
    found = [upload async for upload in store.find_uploads("aa/")]
    assert {(upload.key, upload.upload_id) for upload in found} == ours
    assert len([upload async for upload in store.find_uploads("")]) == 7
    assert [upload async for upload in store.find_uploads("none/")] == []


async def test_listing_objects(store: Store) -> None:
    """Those under a prefix, whatever lies deeper or beside it."""
    keys = {"aa/1.zip", "aa/2.zip", "aa/b/c/3.zip"}
    for key in (*keys, "ab/1.zip", "1.zip"):
        await store.put(key, Body(b"data"), META)
    await store.begin("aa/4.zip", META)
    found = [it async for it in store.find_objects("aa/")]
    assert {it.key for it in found} == keys
    assert [it async for it in store.find_objects("none/")] == []
    assert len([it async for it in store.find_objects("")]) == 5


async def test_listing_more_than_a_page(store: Store) -> None:
    """A listing goes on after the thousand that S3 gives at once, while what it gave is removed."""
    keys = [f"p/{number:04}" for number in range(1100)]
    for start in range(0, len(keys), 50):
        await asyncio.gather(*(store.put(key, Body(b""), META) for key in keys[start : start + 50]))
    found = []
    async for it in store.find_objects("p/"):
        found.append(it.key)
        await store.delete(it.key)
    assert sorted(found) == keys
