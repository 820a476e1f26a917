"""Objects opened from an offset on: ``ports.ObjectStore.open``, for every store alike."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from downloadd.errors import (
    ObjectChanged,
    ObjectMissing,
    SourceChanged,
    SourceMissing,
    StorageRefused,
    StorageUnavailable,
)
from downloadd.model import Source
from downloadd.objects.local import LocalStore
from downloadd.objects.s3 import S3Store
from downloadd.objects.sources import StoredSource
from tests.gateway import Gateway

from .conftest import s3_store_at
from .support import META, MIB, Body, Proxy, random_bytes

Store = S3Store | LocalStore
DATA = random_bytes(3 * MIB + 7)


async def opened(store: Store, key: str = "a.zip", *, offset: int = 0) -> tuple[bytes, str]:
    async with store.open(key, offset=offset) as body:
        data = b"".join([chunk async for chunk in body.chunks()])
        assert body.size == body.offset + len(data)
        return data, body.etag


async def fetched(store: Store, *, offset: int = 0, validator: str | None = None) -> bytes:
    source = Source(url="storage:///a.zip", key="a.zip", file_id=70000)
    async with StoredSource(store).open(source, offset=offset, validator=validator) as body:
        assert body.validator
        return b"".join([chunk async for chunk in body.chunks()])


@pytest.mark.parametrize("offset", [0, 1, 2 * MIB, len(DATA) - 1])
async def test_the_end_of_an_object(store: Store, offset: int) -> None:
    """What comes are the bytes from the offset on, with the size of the whole."""
    stored = await store.put("a.zip", Body(DATA), META)
    assert await opened(store, offset=offset) == (DATA[offset:], stored.etag)
    assert await fetched(store, offset=offset, validator=f'"{stored.etag}"') == DATA[offset:]


async def test_what_is_known_of_an_object(store: Store) -> None:
    """Time and, where the storage keeps it, type are those of the object."""
    await store.put("a.zip", Body(DATA), META)
    async with store.open("a.zip") as body:
        assert body.modified is not None
        assert abs(time.time() - body.modified) < 60
        assert body.content_type == (None if isinstance(store, LocalStore) else "application/zip")
        assert body.content_encoding is None


async def test_an_empty_object(store: Store) -> None:
    """An object without bytes is opened like any other."""
    await store.put("a.zip", Body(b""), META)
    assert (await opened(store))[0] == b""


@pytest.mark.parametrize("size", [len(DATA), 10, 0])
async def test_another_version_is_not_gone_on_with(store: Store, size: int) -> None:
    """A stored source that was replaced, by a shorter one as well, is refused by its ETag."""
    stored = await store.put("a.zip", Body(DATA), META)
    await store.put("a.zip", Body(random_bytes(size, seed=1)), META)
    for offset in (5, 10, MIB, len(DATA)):
        with pytest.raises(SourceChanged):
            await fetched(store, offset=offset, validator=f'"{stored.etag}"')


async def test_what_is_not_there(store: Store) -> None:
    """A key without an object is missing, wherever it is to be read from; so is its source."""
    for offset in (0, 5):
        with pytest.raises(ObjectMissing):
            await opened(store, "no/such.zip", offset=offset)
    with pytest.raises(SourceMissing, match=r"^There is no stored file 70000\.$"):
        await fetched(store)


async def test_a_stored_source_is_described(store: Store) -> None:
    """Without being read a stored source tells its size, and a missing one that it is missing."""
    source = Source(url="storage:///a.zip", key="a.zip", file_id=70000)
    with pytest.raises(SourceMissing):
        await StoredSource(store).describe(source)
    await store.put("a.zip", Body(DATA), META)
    assert (await StoredSource(store).describe(source)).size == len(DATA)


async def test_a_broken_connection_is_the_callers_to_go_on_from(
    gateway: Gateway, bucket: str
) -> None:
    """What breaks off in the middle is trouble of the storage; the rest comes by its offset."""
    relay = Proxy(gateway.port)
    async with relay.running() as address, s3_store_at(gateway, bucket, endpoint=address) as store:
        await store.put("a.zip", Body(DATA), META)
        relay.fail("half")
        got = bytearray()

        async def read() -> None:
            async with store.open("a.zip") as body:
                async for chunk in body.chunks():
                    got.extend(chunk)

        with pytest.raises(StorageUnavailable):
            await read()
        assert 0 < len(got) < len(DATA)
        rest, _ = await opened(store, offset=len(got))
        assert bytes(got) + rest == DATA


async def test_a_file_that_is_written_to_meanwhile(local_store: LocalStore, tmp_path: Path) -> None:
    """Bytes of two versions never pass for one object."""
    await local_store.put("a.zip", Body(DATA), META)
    path = tmp_path / "objects" / "a.zip"

    async def read() -> None:
        async with local_store.open("a.zip") as body:
            async for _ in body.chunks():
                with path.open("r+b") as file:
                    file.write(b"other")
                os.utime(path, ns=(1, 1))

    with pytest.raises(ObjectChanged):
        await read()


@pytest.mark.parametrize("key", ["../a", "/etc/passwd", "a/../../b", ".owner", ".uploads/x", ""])
async def test_a_key_does_not_leave_the_folder(local_store: LocalStore, key: str) -> None:
    """Keys that lead out of the folder, or to what is not an object in it, are refused."""
    with pytest.raises(StorageRefused):
        await opened(local_store, key)


async def test_only_files_are_objects(local_store: LocalStore, tmp_path: Path) -> None:
    """Neither a folder nor a pipe nor a dead link is an object, and none is waited for."""
    root = tmp_path / "objects"
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (root / "link").symlink_to(root / "nothing")
    for key in ("folder", "pipe", "link", "pipe/below"):
        with pytest.raises(ObjectMissing):
            await opened(local_store, key)
