"""The doors through which a job is worked on: what each implementation owes.

``pipeline/`` talks to ``SourceReader``, ``ObjectStore`` and ``Clock``;
``jobs/`` talks to ``JobStore`` too. Every error that crosses a door is a
``DownloaddError``; third-party exceptions never do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from downloadd.model import Archive, Event, FileEntry, Job, Link, Record, Source


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


# --- sources -----------------------------------------------------------------


class SourceBody(Protocol):
    """An answer whose headers have arrived; the body is read once, by ``chunks``."""

    #: Where the body begins in the file: the offset asked for, or 0 when the
    #: source sent the whole file (it ignored the range, or the file changed).
    offset: int
    #: Bytes of the whole file, where the source said so.
    size: int | None
    #: What to send in ``If-Range`` to go on later: a strong ETag, else an
    #: HTTP date; None where the source gave neither or refuses ranges.
    validator: str | None
    #: File name from ``Content-Disposition``, raw (not made safe).
    file_name: str | None
    #: Media type without parameters, lower case.
    content_type: str | None
    #: From ``Content-Encoding``; None for identity. Bodies are never decoded.
    content_encoding: str | None
    #: From ``Last-Modified``, seconds since the epoch.
    modified: float | None
    #: Digests of the whole file that the source announced, lower-case hex by
    #: algorithm: "sha256", "md5" (Repr-Digest, Digest, Content-MD5). Where only
    #: a part of the file comes, those of the part alone are left out.
    digests: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises ``SourceStalled`` when no byte comes for the stall time-out,
        ``SourceTruncated`` when it ends before its announced length or in the
        middle of a chunk, ``SourceUnreachable`` on a lost connection.
        """
        ...


class SourceReader(Protocol):
    """HTTP as the pipeline sees it."""

    def open(
        self,
        source: Source,
        *,
        offset: int = 0,
        validator: str | None = None,
    ) -> AbstractAsyncContextManager[SourceBody]:
        """Request a file, from ``offset`` on where that is above 0.

        Follows redirects, each address checked by the guard. With an offset
        it sends ``Range`` and, given a validator, ``If-Range``. Leaving the
        context closes the connection unless the body was read to its end.

        Raises ``AddressBlocked``, ``SourceUnreachable``, ``SourceStalled``,
        ``SourceUnavailable`` (with ``retry_after``), ``SourceRefused``,
        ``SourceProtocolError``, ``SourceChanged`` (416, or a range other than
        the one asked for), ``TooManyRedirects``.
        """
        ...


# --- object storage ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectMeta(Record):
    """What is stored beside an archive's bytes."""

    content_type: str = "application/zip"
    #: The user's file name; sent as ``Content-Disposition: attachment``.
    file_name: str
    #: ASCII keys and values.
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part(Record):
    """A part that the storage has acknowledged."""

    #: From 1.
    number: int
    size: int
    #: What the storage calls these bytes; opaque.
    etag: str
    #: The CRC-32 that the storage itself verified; None where it does not. A
    #: checkpoint keeps it: some storages ask for it again when the object is made.
    crc32: int | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored(Record):
    """An object as the storage describes it."""

    size: int
    etag: str
    #: Empty where the storage keeps none.
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundUpload(Record):
    """A multipart upload that was begun and neither completed nor dropped."""

    key: str
    upload_id: str
    #: When, in seconds since the epoch; None where the storage does not say.
    begun: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundObject(Record):
    """An object that a listing has come upon."""

    key: str
    #: When it was stored, in seconds since the epoch; None where the storage does not say.
    modified: float | None = None


class PartBody(Protocol):
    """The bytes of one part, as often as they are asked for, the same each time."""

    #: Where the part begins in the object.
    offset: int
    size: int
    #: CRC-32 (the ZIP polynomial, ISO-HDLC) of the part's bytes.
    crc32: int

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the part's bytes from its beginning, at most 1 MiB at once."""
        ...


class ObjectStore(Protocol):
    """Where archives go. Transient trouble is retried inside each call.

    Every method raises ``StorageUnavailable`` when its own retries are used
    up and ``StorageRefused`` when trying again makes no sense.
    """

    #: The fewest bytes that any part but the last may have.
    min_part_size: int
    #: Whether others may keep objects in the same place: ours lie under a prefix then.
    shared: bool

    async def put(self, key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        """Store a whole object in one request; ``StorageCorrupt`` if it arrived otherwise."""
        ...

    async def begin(self, key: str, meta: ObjectMeta) -> str:
        """Begin a multipart upload and return its id."""
        ...

    async def upload_part(self, key: str, upload_id: str, number: int, body: PartBody) -> Part:
        """Store one part; on return it is durable. ``UploadMissing``, ``StorageCorrupt``."""
        ...

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        """The parts stored so far, by number. ``UploadMissing``."""
        ...

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
    ) -> Stored:
        """Make the object of its parts, look at it, compare size and checksum.

        ``StorageCorrupt`` where they differ. Completing an upload that was
        completed before (the answer was lost) succeeds if the object is right.
        """
        ...

    async def abort(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts. One that is gone already is no error."""
        ...

    async def head(self, key: str) -> Stored | None:
        """Describe an object; None where there is none."""
        ...

    def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes. ``ObjectMissing``."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object. One that is gone already is no error."""
        ...

    def find_uploads(self, prefix: str) -> AsyncIterator[FoundUpload]:
        """Yield the unfinished uploads of keys that begin with ``prefix``, page by page.

        What begins or ends meanwhile may be among them or not; one may come twice.
        """
        ...

    def find_objects(self, prefix: str) -> AsyncIterator[FoundObject]:
        """Yield the objects whose keys begin with ``prefix``, page by page.

        What comes or goes meanwhile may be among them or not. A key may be
        given whose object is gone, where ``delete`` has something left to remove.
        """
        ...

    async def sign(self, archive: Archive) -> Link:
        """A link that works for whoever holds it, for the configured time."""
        ...

    async def check(self) -> None:
        """Return when the storage answers and would take an upload."""
        ...


# --- jobs --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease(Record):
    """The right to work on one job, until it is lost."""

    job_id: str
    #: Changes with every claim: an old holder's writes are refused.
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim(Record):
    """A job that a worker has just taken, its files loaded."""

    lease: Lease
    job: Job
    #: What begins the keys of this installation's archives where a storage is
    #: shared with others; ends with a slash.
    namespace: str = ""
    #: What the last worker wrote with ``save``; None on a first run.
    checkpoint: str | None = None
    #: Processes in a row that died with the job, no file having settled in between.
    deaths: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Deduplication(Record):
    """How a request may turn out to be one that was made before."""

    #: Hash of caller and body: for a request without an ``idempotency_key``, an
    #: earlier job that is queued, processing or completed is given instead; the
    #: job that is made is remembered under it, key or not. None: neither.
    body_key: str | None = None
    #: Seconds for which ``body_key`` counts.
    body_window: float = 3600.0
    #: Hash of caller and Idempotency-Key, and hash of the body that goes with it.
    idempotency_key: str | None = None
    idempotency_body: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Created(Record):
    """The answer to ``JobStore.create``."""

    job_id: str
    #: The job was there before; nothing was made.
    replayed: bool = False
    #: It was found by its Idempotency-Key.
    by_key: bool = False
    #: Of a job just made: 1 is next.
    queue_position: int | None = None


class JobStore(Protocol):
    """Jobs that survive the process. Every method is one atomic step.

    Raises ``StateUnavailable`` when the server cannot be reached.
    """

    async def create(self, job: Job, dedup: Deduplication, *, queue_limit: int) -> Created:
        """Write a queued job and queue it. ``QueueFull``, ``IdempotencyConflict``."""
        ...

    async def load(self, job_id: str, *, files: bool = False) -> Job:
        """Read a job; with its files, and their state, if asked. ``JobNotFound``."""
        ...

    async def claim(
        self, limit: int, *, queued: bool = True, suspects: bool = True
    ) -> Sequence[Claim]:
        """Take up to ``limit`` jobs: lapsed leases first, then (``queued``) the queue.

        Each becomes ``processing``, its ``attempts`` one more, its
        ``started_at`` set when it had none, and a progress event is appended.
        A lease that lapsed without being given up counts as a death. Of jobs
        with ``SUSPECT_DEATHS`` one at most is taken (``suspects``), or none.
        """
        ...

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Extend leases; return those that are lost."""
        ...

    async def save(
        self,
        lease: Lease,
        job: Job,
        *,
        event: Event | None = None,
        checkpoint: str | None = None,
        files: Sequence[FileEntry] = (),
    ) -> None:
        """Write a running job's state. ``JobCancelled``, ``LeaseLost``: nothing is written.

        ``checkpoint`` None keeps the stored one. ``files`` are those whose
        state has changed for good since the last call.
        """
        ...

    async def finish(
        self,
        lease: Lease,
        job: Job,
        event: Event,
        *,
        files: Sequence[FileEntry] = (),
    ) -> None:
        """Write a job's end, give up the lease, append the last event. As ``save``."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease up so that anybody may claim the job at once. A lost one is no error."""
        ...

    async def postpone(self, lease: Lease, pauses: Sequence[float]) -> int | None:
        """Give a lease up so that the job is claimed again after a pause, in seconds.

        The pauses are taken in turn, from the first again when a file has
        settled since; returns which it was, from 1, or None when they are used
        up, and the lease is held still. Raises as ``save``.
        """
        ...

    async def disown(self, owners: Sequence[str]) -> int:
        """Let the leases of processes that are dead lapse now; return how many there were."""
        ...

    async def cancel(self, job_id: str, now: float) -> tuple[Job, str | None]:
        """Make a queued or processing job cancelled, tell its worker, append the last event.

        Returns the checkpoint that it had, too. ``JobNotFound``;
        ``JobConflict`` when it has ended.
        """
        ...

    async def retry(self, job_id: str, now: float, *, queue_limit: int, body_window: float) -> Job:
        """Queue a failed or cancelled job once more, and append an event that says so.

        It goes on from its checkpoint, where that is still kept. It stands for
        its body again, for ``body_window`` seconds, if no other does.
        ``JobNotFound``, ``JobConflict``, ``QueueFull``.
        """
        ...

    async def announce(self, job_id: str, event: Event) -> None:
        """Tell who watches a job that the store has lost of its last event; keep nothing."""
        ...
