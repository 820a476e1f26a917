"""One file on its way: requests, retries, resumption, verification, packing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from downloadd.archive import Deflater, Method, compressible
from downloadd.digest import Digester, verify
from downloadd.errors import (
    ChecksumMismatch,
    DownloaddError,
    FileTooLarge,
    FormatMismatch,
    SizeMismatch,
    SourceChanged,
    SourceTruncated,
)
from downloadd.formats import mismatch
from downloadd.model import FileEntry
from downloadd.pipeline.budget import Reservation
from downloadd.pipeline.fetched import Fetched, FetchServices
from downloadd.pipeline.spool import (
    HOP,
    Absorber,
    FilePayload,
    MemoryPayload,
    Payload,
)
from downloadd.ports import SourceBody
from downloadd.tasks import settled, to_its_end

log = structlog.get_logger(__name__)

#: Files up to this size never touch the disk while there is memory for them,
#: and are hashed where they stand: a hop to a thread would cost more.
SMALL = 64 << 10
#: What a file of unknown size reserves on disk at a time.
_STEP = 16 << 20
#: Seconds for which a reservation of the announced size holds; then the file
#: reserves as it comes, like one of unknown size.
_PATIENCE = 30.0
#: A try that brought this much, and from which the next can go on, is no
#: failed try: a source that drops every connection still gets its file here.
_HEADWAY = 1 << 20
#: Seconds; a source that asks for a longer pause has given its last answer.
_LONGEST_PAUSE = 300.0
#: What the format check looks at.
_HEAD = 4 << 10


@dataclass(slots=True)
class _Answer:
    """What the first answer of a file said; a resumption must not contradict it."""

    size: int | None = None
    validator: str | None = None
    file_name: str | None = None
    content_type: str | None = None
    modified: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


class FileFetch:
    """Fetches one file of a job. ``run`` once; then ``close`` if it failed."""

    def __init__(
        self,
        services: FetchServices,
        job_id: str,
        entry: FileEntry,
        *,
        name: str,
        compress: bool,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Prepare. ``name`` is the one planned for the file.

        ``on_bytes`` hears of each chunk and raises to stop the fetch.
        """
        self._services = services
        self._job_id = job_id
        self._entry = entry
        self._name = name
        self._compress = compress
        self._on_bytes = on_bytes
        #: Requests made.
        self.attempts = 0
        self._moving = ExitStack()
        self._reset()

    def _reset(self) -> None:
        #: Bytes of the file that are here.
        self.received = 0
        self._answer = _Answer()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._absorber: Absorber | None = None
        self._hop: asyncio.Future[None] | None = None
        self._reservation: Reservation | None = None
        self._reserved_at = 0.0
        self._stitched = False

    @property
    def size(self) -> int | None:
        """Size of the whole file, where somebody said it."""
        given = self._entry.source.size
        return given if given is not None else self._answer.size

    async def run(self) -> Fetched:
        """Fetch and verify the file; raises its final ``FileError``."""
        policy = self._services.policy
        self._check_bound(self._entry.source.size or 0)
        failures = reached = 0
        truncated: SourceTruncated | None = None
        while True:
            try:
                return await self._attempt()
            except DownloaddError as exc:
                if isinstance(exc, SourceTruncated):
                    truncated = exc
                # Bytes stitched from several answers may be those of two files.
                again = exc.transient or (isinstance(exc, ChecksumMismatch) and self._stitched)
                headway = self._answer.validator and self.received - reached >= _HEADWAY
                reached = max(reached, self.received)
                failures = 1 if headway else failures + 1
                if not again or failures > policy.retries:
                    if truncated is not None and isinstance(exc, SourceChanged):
                        # A file that is shorter than announced refuses the
                        # range that is missing: it looks changed, and is a lie.
                        raise truncated from exc
                    raise
                if isinstance(exc, (SourceChanged, ChecksumMismatch)):
                    await self.close()
                pause = self._pause(failures, exc)
                log.info("fetch.retry", code=exc.code, attempt=self.attempts, pause=round(pause, 2))
                self._services.metrics.retried("fetch")
            await self._services.clock.sleep(pause)

    def _pause(self, failures: int, exc: DownloaddError) -> float:
        policy = self._services.policy
        backoff = min(policy.backoff * 2.0 ** (failures - 1), policy.longest_backoff)
        if exc.retry_after is not None and exc.retry_after > _LONGEST_PAUSE:
            raise exc
        # Full jitter would let a retry follow at once; half keeps a pause.
        return max(backoff * random.uniform(0.5, 1), exc.retry_after or 0)  # noqa: S311

    async def _attempt(self) -> Fetched:
        services, source = self._services, self._entry.source
        async with services.slots.hold(_host(source.url)):
            self.attempts += 1
            if self.received and self._answer.validator is None:
                await self.close()
            async with services.reader.open(
                source,
                offset=self.received,
                validator=self._answer.validator,
            ) as body:
                await self._accept(body)
                with ExitStack() as self._moving:
                    if self._reservation is not None:
                        self._moves()
                    await self._receive(body)
                    return await self._finish()

    def _moves(self) -> None:
        """Be known as moving while bytes come: what comes to disk will leave it again.

        A small file, however slow, takes no part in that.
        """
        self._moving.enter_context(self._services.spool.disk.moving())

    async def _reserve(self, size: int) -> None:
        self._moves()
        self._reservation = await self._services.spool.disk.reserve(size)

    async def _accept(self, body: SourceBody) -> None:
        if body.offset != self.received:
            await self.close()
        if body.offset:
            self._compare_size(body.size)
            self._stitched = True
        else:
            self._answer = _Answer(
                size=body.size,
                validator=body.validator,
                file_name=body.file_name,
                content_type=body.content_type,
                modified=body.modified,
                digests=body.digests,
            )
        self._check_announced(body.size)

    def _compare_size(self, size: int | None) -> None:
        """A part of the file has come; either answer may be silent about the whole."""
        known = self._answer.size
        if known is None:
            self._answer.size = size
        elif size not in (None, known):
            raise SourceChanged("The file changed while it was being fetched.")

    def _check_announced(self, size: int | None) -> None:
        given = self._entry.source.size
        if size is None:
            return
        if given is not None and size != given:
            raise SizeMismatch(f"The source announced {size} bytes where {given} were expected.")
        self._check_bound(size)

    def _check_bound(self, size: int) -> None:
        bound = self._services.policy.max_file_bytes
        if size > bound:
            raise FileTooLarge(f"The file is larger than the {bound} bytes allowed.")

    async def _receive(self, body: SourceBody) -> None:
        async for chunk in body.chunks():
            self.received += len(chunk)
            self._on_bytes(len(chunk))
            self._check_bound(self.received)
            self._services.metrics.transferred("in", len(chunk))
            self._waiting.append(chunk)
            self._waiting_bytes += len(chunk)
            self._yield_room()
            if self._waiting_bytes >= HOP or (self._absorber is None and self.received > SMALL):
                await self._absorb()
        if self.received < (self._answer.size or 0):
            # A part that did not say how long the whole is ended early.
            raise SourceTruncated("The source stopped before the end of the file.")

    async def _absorb(self) -> None:
        """Send what has come to a thread, one hop at a time, while more arrives."""
        await self._room()
        await self._landed()
        if self._absorber is None:
            self._absorber = self._new_absorber()
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._hop = self._services.spool.start(self._absorber.absorb_sync, chunks)

    async def _landed(self) -> None:
        if self._hop is not None:
            hop, self._hop = self._hop, None
            await to_its_end(hop)

    @property
    def _path(self) -> Path:
        return self._services.spool.path(self._job_id, self._entry.index)

    async def _room(self) -> None:
        if self._reservation is None:
            # Not by what the caller says: that may be anything.
            await self._reserve(self._answer.size or _STEP)
            self._reserved_at = self._services.clock.monotonic()
        elif self.received > self._reservation.size:
            await self._reservation.grow(self.received + _STEP)

    def _yield_room(self) -> None:
        """Give back what was reserved on the word of a source that takes its time.

        Else one that announces much and sends little would keep others waiting.
        """
        reservation = self._reservation
        if reservation is None or reservation.size <= self.received + _STEP:
            return
        if self._services.clock.monotonic() - self._reserved_at > _PATIENCE:
            reservation.shrink(self.received + _STEP)

    def _new_absorber(self) -> Absorber:
        head = self._head()
        self._check_format(head[:_HEAD])
        deflater = Deflater() if self._compress and compressible(head) else None
        return Absorber(self._path, self._new_digester(), deflater, self._services.spool.restore)

    def _new_digester(self) -> Digester:
        return Digester(md5=self._entry.source.md5 is not None or "md5" in self._answer.digests)

    def _head(self) -> bytes:
        return b"".join(self._waiting)[:SMALL]

    def _check_format(self, head: bytes) -> None:
        policy = self._services.policy
        if policy.format_check == "off":
            return
        name = self._entry.source.name or self._answer.file_name or self._name
        complaint = mismatch(name, self._answer.content_type, head)
        if complaint is None:
            return
        if policy.format_check == "reject":
            raise FormatMismatch(complaint)
        log.warning("fetch.format", fileId=self._entry.label, complaint=complaint)

    async def _finish(self) -> Fetched:
        if self._absorber is None:
            return await self._finish_small()
        await self._landed()
        absorber, chunks = self._absorber, self._waiting
        self._waiting, self._waiting_bytes = [], 0
        if chunks:
            await self._services.spool.run(absorber.absorb_sync, chunks)
        await self._services.spool.run(absorber.finish_sync)
        self._verify(absorber.digester)
        method = Method.DEFLATED if absorber.deflated else Method.STORED
        return self._fetched(self._payload(), method, absorber.digester, absorber.packed)

    def _payload(self) -> FilePayload:
        """Hand the file over to whoever packs it."""
        reservation, absorber = self._reservation, self._absorber
        if reservation is None or absorber is None:
            raise AssertionError("no bytes went to disk")
        self._reservation = self._absorber = None
        reservation.shrink(absorber.packed)
        return FilePayload(self._services.spool, absorber.path, absorber.packed, reservation)

    async def _finish_small(self) -> Fetched:
        data = b"".join(self._waiting)
        self._check_format(data[:_HEAD])
        digester = self._new_digester()
        digester.update(data)
        self._verify(digester)
        packed, method = self._pack(data)
        memory = self._services.spool.memory
        if memory.take(len(packed)):
            payload: Payload = MemoryPayload(packed, memory)
        else:
            payload = await self._spill(packed)
        return self._fetched(payload, method, digester, len(packed))

    def _pack(self, data: bytes) -> tuple[bytes, Method]:
        # Nearly every byte value within a KiB: packed or encrypted already.
        if self._compress and len(set(data[:1024])) < 240 and compressible(data):
            deflater = Deflater()
            packed = deflater.update(data) + deflater.finish()
            if len(packed) < len(data):
                return packed, Method.DEFLATED
        return data, Method.STORED

    async def _spill(self, packed: bytes) -> Payload:
        spool = self._services.spool
        await self._reserve(len(packed))
        self._absorber = Absorber(self._path, Digester(), None, spool.restore)
        await spool.run(self._absorber.absorb_sync, [packed])
        await spool.run(self._absorber.finish_sync)
        return self._payload()

    def _verify(self, digester: Digester) -> None:
        verify(
            digester,
            self._entry.source,
            self._answer.digests,
            announced_size=self._answer.size,
        )

    def _fetched(
        self,
        payload: Payload,
        method: Method,
        digester: Digester,
        packed_size: int,
    ) -> Fetched:
        return Fetched(
            payload=payload,
            method=method,
            crc32=digester.crc32,
            size=digester.size,
            packed_size=packed_size,
            sha256=digester.sha256,
            modified=self._answer.modified,
            disposition=self._answer.file_name,
        )

    async def close(self) -> None:
        """Drop the bytes that are here, and begin from nothing if ``run`` goes on."""
        hop, absorber, reservation = self._hop, self._absorber, self._reservation
        lost = self.received
        if hop is not None:
            await settled(hop)
        self._reset()
        self._on_bytes(-lost)
        try:
            if absorber is not None:
                await self._services.spool.run(absorber.discard_sync)
        finally:
            if reservation is not None:
                reservation.release()


def _host(url: str) -> str:
    """Host and port in one spelling, for the bound on requests to one host."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # who fetches it says so better
        return parts.netloc
    return f"{(parts.hostname or '').rstrip('.')}:{port}"
