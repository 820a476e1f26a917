"""Our own ports, in memory: for tests that need to say exactly what happens when."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from isal import isal_zlib

from downloadd.errors import DownloaddError, ObjectMissing, StorageCorrupt, UploadMissing
from downloadd.model import Archive, Link, Source
from downloadd.ports import (
    Found,
    History,
    ObjectMeta,
    PaceStore,
    Part,
    PartBody,
    Stint,
    Stored,
    Sums,
    Twin,
)


class FakeClock:
    """Time that passes when somebody sleeps; ``pauses`` is who slept how long."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@dataclass
class Answer:
    """One answer of a scripted source: these bytes of the file, then perhaps an error."""

    data: bytes
    offset: int = 0
    size: int | None = None
    validator: str | None = '"1"'
    file_name: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    modified: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    error: DownloaddError | None = None
    chunk: int = 200_000

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.chunk):
            await asyncio.sleep(0)
            yield self.data[start : start + self.chunk]
        if self.error is not None:
            raise self.error


Script = Callable[[Source, int, str | None], Answer | DownloaddError]


class FakeReader:
    """A ``SourceReader`` that answers what a function says; counts what was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[str, int, str | None]] = []
        self.open_now = 0

    @asynccontextmanager
    async def open(
        self, source: Source, *, offset: int = 0, validator: str | None = None
    ) -> AsyncIterator[Answer]:
        self.asked.append((source.url, offset, validator))
        answer = self.script(source, offset, validator)
        if isinstance(answer, DownloaddError):
            raise answer
        self.open_now += 1
        try:
            yield answer
        finally:
            self.open_now -= 1


@dataclass
class FakeObject:
    """An ``ObjectBody`` over bytes."""

    data: bytes
    offset: int
    size: int
    etag: str
    modified: float | None = None
    content_type: str | None = None
    content_encoding: str | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.data


class MemoryStore:
    """An ``ObjectStore`` in memory that checks what it is given."""

    min_part_size = 5 << 20
    shared = False

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.upload_keys: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        #: Awaited before each part is taken.
        self.before_part: Callable[[int], object] = lambda number: None

    async def put(self, key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        self.calls["put"] += 1
        self.objects[key] = await self._take(body)
        return self._stored(key)

    async def begin(self, key: str, meta: ObjectMeta) -> str:
        self.calls["begin"] += 1
        upload_id = f"upload-{self.calls['begin']}"
        self.uploads[upload_id] = {}
        self.upload_keys[upload_id] = key
        return upload_id

    async def upload_part(self, key: str, upload_id: str, number: int, body: PartBody) -> Part:
        self.calls["part"] += 1
        waiting = self.before_part(number)
        if asyncio.iscoroutine(waiting):
            await waiting
        data = await self._take(body)
        self._parts(upload_id)[number] = data
        return self._part(number, data)

    async def copy_part(
        self, key: str, upload_id: str, number: int, body: PartBody, twin: Twin
    ) -> Part | None:
        self.calls["copy"] += 1
        data = self.objects.get(twin.key, b"")[twin.offset : twin.offset + body.size]
        if data != await self._take(body):
            return None
        self._parts(upload_id)[number] = data
        return self._part(number, data)

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        parts = sorted(self._parts(upload_id).items())
        return [self._part(number, data) for number, data in parts]

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> Stored:
        self.calls["complete"] += 1
        if upload_id not in self.uploads and key in self.objects:
            return self._stored(key)
        stored = self._parts(upload_id)
        assert [p.number for p in parts] == list(range(1, len(parts) + 1))
        assert all(self._part(p.number, stored[p.number]) == p for p in parts)
        self.objects[key] = b"".join(stored[part.number] for part in parts)
        del self.uploads[upload_id]
        return self._stored(key)

    async def abort(self, key: str, upload_id: str) -> None:
        self.uploads.pop(upload_id, None)

    async def head(self, key: str) -> Stored | None:
        return self._stored(key) if key in self.objects else None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        self.calls["read"] += 1
        yield self.objects[key]

    @asynccontextmanager
    async def open(self, key: str, *, offset: int = 0) -> AsyncIterator[Answer]:
        self.calls["open"] += 1
        if key not in self.objects:
            raise ObjectMissing(f"There is no {key!r}.")
        data = self.objects[key]
        yield FakeObject(data[offset:], offset, len(data), self._stored(key).etag)

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def belongs_to(self, namespace: str) -> bool:
        return True

    async def find_uploads(self, prefix: str) -> AsyncIterator[Found]:
        for upload_id in list(self.uploads):
            if (key := self.upload_keys[upload_id]).startswith(prefix):
                yield Found(key=key, upload_id=upload_id)

    async def find_objects(self, prefix: str) -> AsyncIterator[Found]:
        for key in list(self.objects):
            if key.startswith(prefix):
                yield Found(key=key)

    async def sign(self, archive: Archive) -> Link:
        return Link(url=f"memory:///{archive.key}", expires_at=2e9)

    async def check(self) -> None:
        return None

    async def _take(self, body: PartBody) -> bytes:
        data = b"".join([chunk async for chunk in body.chunks()])
        if len(data) != body.size or isal_zlib.crc32(data) != body.crc32:
            raise StorageCorrupt("The body is not what was announced.")
        return data

    def _parts(self, upload_id: str) -> dict[int, bytes]:
        if upload_id not in self.uploads:
            raise UploadMissing("The upload is gone.")
        return self.uploads[upload_id]

    def _part(self, number: int, data: bytes) -> Part:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return Part(number=number, size=len(data), etag=digest)

    def _stored(self, key: str) -> Stored:
        data = self.objects[key]
        return Stored(size=len(data), etag=hashlib.md5(data, usedforsecurity=False).hexdigest())


class FakePace(PaceStore):
    """Measurements that are given by hand; ``error`` is what reading and writing raise."""

    def __init__(self) -> None:
        self.known = History()
        self.reads: list[frozenset[str]] = []
        self.written: list[tuple[Mapping[str, Sums], Sequence[Stint], int]] = []
        self.error: DownloaddError | None = None

    async def record(
        self,
        transfers: Mapping[str, Sums],
        stints: Sequence[Stint],
        *,
        slots: int,
        now: float,
    ) -> None:
        if self.error is not None:
            raise self.error
        self.written.append((transfers, stints, slots))

    async def read(self, hosts: Collection[str]) -> History:
        self.reads.append(frozenset(hosts))
        if self.error is not None:
            raise self.error
        found = {host: it for host, it in self.known.hosts.items() if host in hosts}
        return self.known.evolve(hosts=found)
