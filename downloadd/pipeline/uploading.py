"""The archive on its way into the storage, while files still arrive."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from downloadd.archive import ArchiveCheck, Entry, Layout, part_bounds
from downloadd.errors import StorageCorrupt
from downloadd.model import Record
from downloadd.pipeline.checkpoint import Checkpoint
from downloadd.pipeline.parts import ArchiveHash, ArchivePart
from downloadd.pipeline.payload import Payload
from downloadd.pipeline.spool import Spool
from downloadd.ports import ObjectMeta, ObjectStore, Part
from downloadd.tasks import stopped
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Tracing

#: Parts of one job that are sent at once (PERFORMANCE.md: 16 MiB x 4).
_PARALLEL = 4
#: Seconds that a cancelled caller waits for the answer to a call that makes something.
_LAST_WORD = 1.0


class Upload:
    """Cuts parts from a layout and stores them; knows which payloads are needed no more.

    Nothing is cut but from entries, and no stored part counts as covering a
    payload, that the caller has written into a checkpoint (``saved``). So
    whoever goes on after us lays the archive out as we did, and a part that
    one of us still sends late has the bytes that the other one's has.
    """

    def __init__(
        self,
        objects: ObjectStore,
        spool: Spool,
        metrics: Metrics,
        tracing: Tracing,
        *,
        key: str,
        meta: ObjectMeta,
        layout: Layout,
        payloads: MutableMapping[int, Payload],
    ) -> None:
        #: The object's key.
        self.key = key
        self.id: str | None = None
        self.parts: dict[int, Part] = {}
        self._objects = objects
        self._spool = spool
        self._metrics = metrics
        self._tracing = tracing
        self._meta = meta
        self._layout = layout
        self._payloads = payloads
        self._hash: ArchiveHash = ArchiveHash()
        #: Whether every byte of the archive passes through ``_hash``.
        self._whole = True
        #: Where each part ends that has been cut, in order.
        self._stops: list[int] = []
        #: Parts cut by an earlier run that are not stored.
        self._lost: list[int] = []
        self._saved: frozenset[int] = frozenset()
        #: Up to where a written checkpoint tells of the layout.
        self._reach = 0
        self._tasks: set[asyncio.Task[Part]] = set()
        #: Whether a written checkpoint tells of the upload.
        self._known = False
        #: Whether the object may be there: its making has begun.
        self._made = False

    # --- beginning ---

    @property
    def wanted(self) -> bool:
        """Whether there is a first part to send, so that ``begin`` is due."""
        return self.id is None and self._layout.size > part_bounds(1)[1]

    async def begin(self) -> None:
        """Begin the multipart upload."""
        with self._spool.disk.moving():
            await _answered(self._begin())

    async def _begin(self) -> None:
        self.id = await self._objects.begin(self.key, self._meta)

    def restore(self, upload_id: str, parts: Sequence[Part], reach: int) -> None:
        """Go on with an earlier run's upload, of which ``parts`` are stored.

        ``reach``: up to where its checkpoint tells of the layout.
        """
        self.id = upload_id
        self._reach = reach
        self._known = True
        self.parts = {part.number: part for part in parts}
        self._whole = not parts
        self._saved = frozenset(self.parts)
        last = max(self.parts, default=0)
        self._stops = [part_bounds(number)[1] for number in range(1, last + 1)]
        if last:  # the last part of a sealed archive is a short one
            self._stops[-1] = part_bounds(last)[0] + self.parts[last].size
        self._lost = [number for number in range(1, last) if number not in self.parts]

    def restore_completed(self, upload_id: str, parts: Sequence[Part], size: int) -> None:
        """Go on with one whose object is there, ``size`` bytes."""
        self.restore(upload_id, parts, size)
        self._made = True

    def missing(self, start: int, stop: int) -> int | None:
        """Where the first byte of this stretch lies that is not stored; None where all is."""
        for number in range(bisect_right(self._stops, start) + 1, len(self._stops) + 1):
            if start >= stop:
                return None
            if number not in self.parts:
                return start
            start = self._stops[number - 1]
        return start if start < stop else None

    # --- sending ---

    @property
    def tasks(self) -> set[asyncio.Task[Part]]:
        """Parts on their way; wait on them, then ``collect``."""
        return self._tasks

    @property
    def done(self) -> bool:
        """Whether every byte of the sealed layout is stored."""
        return (
            self._layout.sealed
            and not self._tasks
            and not self._lost
            and bool(self._stops)
            and self._stops[-1] == self._layout.size
        )

    @property
    def unwritten(self) -> bool:
        """Whether the next part waits for a checkpoint that tells of its entries."""
        if self.id is None or len(self._tasks) >= _PARALLEL:
            return False
        stop = self._next_stop()
        return stop is not None and stop > self._reach

    def _next_stop(self) -> int | None:
        """Where the next part ends; None while its bytes are not all determined."""
        start, stop = part_bounds(len(self._stops) + 1)
        stop = min(stop, self._layout.size) if self._layout.sealed else stop
        return stop if start < stop <= self._layout.size else None

    def cut(self) -> None:
        """Start sending the parts whose bytes are all determined, written down and here."""
        for number in list(self._lost):
            if len(self._tasks) >= _PARALLEL:
                return
            if self._send(number):
                self._lost.remove(number)
        while len(self._tasks) < _PARALLEL:
            stop = self._next_stop()
            if stop is None or stop > self._reach:
                return
            self._stops.append(stop)
            if not self._send(len(self._stops)):
                self._stops.pop()
                return

    def _send(self, number: int) -> bool:
        start = self._stops[number - 2] if number > 1 else 0
        stop = self._stops[number - 1]
        if (part := self._plan(number, start, stop)) is None:
            return False
        self._tasks.add(asyncio.create_task(self._store(part), name=f"part-{number}"))
        return True

    def _plan(self, number: int, start: int, stop: int) -> ArchivePart | None:
        return ArchivePart.plan(self._spool, self._layout, self._payloads, number, start, stop)

    async def _store(self, part: ArchivePart) -> Part:
        if (upload_id := self.id) is None:
            raise AssertionError("a part was cut before the upload began")
        place = (self.key, upload_id, part.number)
        known = {"part.number": part.number, "part.size": part.size}
        with self._tracing.call("s3.upload_part", known), self._spool.disk.moving():
            await self._hash.add(part, self._spool)
            if part.twin is not None:
                copied = await self._objects.copy_part(*place, part, part.twin)
                if copied is not None:
                    return copied
            stored = await self._objects.upload_part(*place, part)
        self._metrics.transferred("out", part.size)
        return stored

    def collect(self) -> bool:
        """Take in the parts that have been stored; whether there were any. Raises their errors."""
        done = {task for task in self._tasks if task.done()}
        self._tasks -= done
        for task in done:
            part = task.result()
            self.parts[part.number] = part
        return bool(done)

    async def stop(self) -> None:
        """End what is on its way."""
        await stopped(self._tasks)
        self._tasks.clear()

    async def saved(self, spans: Mapping[int, tuple[int, int]]) -> None:
        """Drop what stored parts cover, for they and the layout are written down now.

        ``spans`` says where each entry lies.
        """
        self._known = True
        self._saved = frozenset(self.parts)
        self._reach = self._layout.size
        for index, (start, stop) in spans.items():
            payload = self._payloads[index]
            if self._covered(start, stop, self._saved):
                del self._payloads[index]
                await payload.discard()
            elif (
                self._stops
                and start < (cut := self._stops[-1]) < stop
                and self._covered(start, cut, self._saved)
                and not self._goes_on  # else more of it is sent at once
            ):
                await payload.trim(cut - (stop - payload.size))

    @property
    def _goes_on(self) -> bool:
        """Whether the bytes of the next part are all determined, and here."""
        if (stop := self._next_stop()) is None:
            return False
        return self._plan(len(self._stops) + 1, self._stops[-1], stop) is not None

    def _covered(self, start: int, stop: int, parts: frozenset[int]) -> bool:
        if not self._stops or stop > self._stops[-1]:
            return False
        first = bisect_right(self._stops, start) + 1
        last = bisect_right(self._stops, stop - 1) + 1
        return all(number in parts for number in range(first, last + 1))

    # --- the end ---

    async def put(self) -> str:
        """Store a small archive in one request; returns its SHA-256."""
        if (part := self._plan(1, 0, self._layout.size)) is None:
            raise AssertionError("the archive's payloads are not all here")
        with (
            self._tracing.call("s3.put", {"part.size": part.size}),
            self._spool.disk.moving(),
        ):
            await self._hash.add(part, self._spool)
            self._made = True
            await _answered(self._objects.put(self.key, part, self._meta))
        self._metrics.transferred("out", part.size)
        return self._hash.hexdigest()

    @property
    def sha256(self) -> str | None:
        """The archive's SHA-256 when all of it was seen by this run."""
        return self._hash.hexdigest() if self._whole and self.done else None

    async def complete(self) -> None:
        """Make the object of its parts."""
        if self.id is None:
            raise AssertionError("there is no upload to complete")
        parts = [self.parts[number] for number in sorted(self.parts)]
        self._made = True
        with self._tracing.call("s3.complete", {"parts": len(parts)}):
            await _answered(self._objects.complete(self.key, self.id, parts))

    async def read_back(self) -> str:
        """SHA-256 of an object of which an earlier run sent parts; every file in it is compared.

        Raises ``StorageCorrupt``.
        """
        sha256, check = hashlib.sha256(), ArchiveCheck(self._layout)
        async for chunk in self._objects.read(self.key):
            await self._spool.run(sha256.update, chunk)
            await self._spool.run(check.update, chunk)
        if not check.intact:
            raise StorageCorrupt("The stored archive does not hold the files that were packed.")
        return sha256.hexdigest()

    async def discard(self) -> None:
        """Remove whatever is in the storage of this archive."""
        if self.id is not None:
            await self._objects.abort(self.key, self.id)
        if self._made:
            await self._objects.delete(self.key)

    async def forsake(self) -> None:
        """Remove what no other worker can know of, and leave what one may go on with."""
        if not self._known:
            await self.discard()


async def _answered(call: Coroutine[object, object, object]) -> None:
    """Await a call that makes something in the storage; when cancelled, hear its answer first.

    Cut off at once it could still take effect, after whoever cleans up has
    looked, or make something whose id nobody was told.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_LAST_WORD)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class Usable(Record):
    """What of an earlier run can be kept."""

    parts: tuple[Part, ...]
    entries: tuple[Entry, ...]
    #: Up to where parts may have been cut.
    reach: int


def usable(checkpoint: Checkpoint, listed: Sequence[Part]) -> Usable:
    """Compare a checkpoint with what the storage has.

    A part that is stored counts unless the checkpoint knows it otherwise: only
    from written entries is a part cut, so it has the bytes that we would send.
    Entries of which no part can have been cut yet may lie anywhere.
    """
    layout, starts = Layout(), []
    for entry in checkpoint.entries:
        starts.append(layout.size)
        layout.append(entry)
    if checkpoint.sealed:
        layout.seal()
    reach = layout.size if checkpoint.sealed else _last_bound(layout.size)
    kept = sum(start < reach for start in starts)
    known = {part.number: part for part in checkpoint.parts}
    parts = tuple(
        known.get(part.number, part)
        for part in listed
        if known.get(part.number, part) == part and part.size == _size_of(part.number, reach)
    )
    return Usable(parts=parts, entries=checkpoint.entries[:kept], reach=reach)


def _last_bound(size: int) -> int:
    """Where the last part ends of those that lie within ``size`` bytes."""
    number = 1
    while part_bounds(number)[1] <= size:
        number += 1
    return part_bounds(number)[0]


def _size_of(number: int, total: int) -> int:
    start, stop = part_bounds(number)
    return min(stop, total) - start
