"""What callers may do with jobs: make, look up, cancel, watch, get the archive's link."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from downloadd.errors import JobConflict, JobExpired, JobNotFound
from downloadd.model import (
    Archive,
    Event,
    FileEntry,
    Job,
    JobStatus,
    Link,
    Options,
    Record,
    Source,
    terminal_event,
)
from downloadd.ports import Clock, Created, Deduplication, JobStore, ObjectStore

#: A link this close to its end is signed anew: its holder needs time to use it.
LINK_MARGIN_SECONDS = 60.0


class EventFeed(Protocol):
    """Where a job's events are read, in whichever process they were written."""

    def watch(self, job_id: str, after: str) -> AsyncGenerator[Event]:
        """Yield the events after the position ``after``, then each new one as it comes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest(Record):
    """A job that somebody asks for."""

    user: str = "anonymous"
    sources: Sequence[Source]
    options: Options = field(default_factory=Options)
    #: Whether an earlier job with the same body may be given instead, where
    #: there is no ``idempotency_key``, and this one may be given to later requests.
    dedupe: bool = True
    #: The caller's ``Idempotency-Key``.
    idempotency_key: str | None = None
    #: SHA-256 of the canonical body, hex.
    body_hash: str
    trace_id: str | None = None


class JobService:
    """The rules of jobs, over a store, an object storage and an event feed."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        feed: EventFeed,
        clock: Clock,
        queue_limit: int,
        dedupe_window: float,
        archive_ttl: float,
    ) -> None:
        """``queue_limit`` counts queued jobs, the others seconds; ``dedupe_window`` 0 for never."""
        self._store = store
        self._objects = objects
        self._feed = feed
        self._clock = clock
        self._queue_limit = queue_limit
        self._dedupe_window = dedupe_window
        self._archive_ttl = archive_ttl

    async def make(self, request: JobRequest) -> tuple[Job, Created]:
        """Queue a job, or find the one that the same request made before.

        Raises ``QueueFull``, ``IdempotencyConflict``, ``StateUnavailable``.
        """
        job = self._new_job(request)
        created = await self._store.create(
            job,
            self._deduplication(request),
            queue_limit=self._queue_limit,
        )
        if created.replayed:
            return await self.refresh(await self._store.load(created.job_id)), created
        return job.evolve(queue_position=created.queue_position), created

    async def get(self, job_id: str, user: str, *, files: bool = False) -> Job:
        """Read a job of this user's, with a link that works. ``JobNotFound``."""
        return await self.refresh(await self._owned(job_id, user, files=files))

    async def cancel(self, job_id: str, user: str) -> Job:
        """End a queued or processing job. ``JobNotFound``, ``JobConflict`` when it has ended."""
        await self._owned(job_id, user)
        return await self._store.cancel(job_id, self._clock.now())

    async def link(self, job_id: str, user: str) -> tuple[Job, Archive, Link]:
        """Give a completed job's archive and a link that works for its whole time from now.

        Raises ``JobNotFound``, ``JobConflict`` until the job is completed,
        ``JobExpired`` when the archive's time is over.
        """
        job = self._aged(await self._owned(job_id, user))
        if job.status is JobStatus.EXPIRED:
            raise JobExpired("The archive was removed after its time. Make the job again.")
        if job.status is not JobStatus.COMPLETED or job.archive is None:
            raise JobConflict(_no_archive(job))
        return job, job.archive, await self._objects.sign(job.archive)

    async def refresh(self, job: Job) -> Job:
        """Sign a completed job's link anew when it is past its time, or nearly."""
        job = self._aged(job)
        if job.status is not JobStatus.COMPLETED or job.archive is None:
            return job
        if job.link and job.link.expires_at - self._clock.now() > LINK_MARGIN_SECONDS:
            return job
        return job.evolve(link=await self._objects.sign(job.archive))

    async def watch(self, job: Job, after: str) -> AsyncGenerator[Event]:
        """Yield the job's events after ``after`` up to the terminal one.

        ``job`` is the job as it was when watching began. Where it had ended,
        its last event carries the link that works now, not the one of then;
        an event stream that has been trimmed or removed still ends with it.
        """
        ended = job.status.ended
        if ended and job.cursor in (None, after):
            yield _last_event(job)
            return
        async with aclosing(self._feed.watch(job.id, after)) as events:
            async for event in events:
                if ended and event.type.terminal:
                    if event.id == job.cursor:
                        break
                    # The job was retried after this end.
                    continue
                yield event
                if event.type.terminal:
                    return
        if ended:
            yield _last_event(job)

    def _aged(self, job: Job) -> Job:
        """The job, expired where its archive's time is over and nobody has removed it yet."""
        if job.status is not JobStatus.COMPLETED or job.completed_at is None:
            return job
        if self._clock.now() < job.completed_at + self._archive_ttl:
            return job
        return job.moved(JobStatus.EXPIRED, link=None)

    async def _owned(self, job_id: str, user: str, *, files: bool = False) -> Job:
        job = await self._store.load(job_id, files=files)
        if job.user != user:
            raise JobNotFound(f"There is no job {job_id}.")
        return job

    def _new_job(self, request: JobRequest) -> Job:
        now = self._clock.now()
        return Job(
            id=str(uuid.uuid4()),
            user=request.user,
            options=request.options,
            files=tuple(
                FileEntry(index=index, source=source)
                for index, source in enumerate(request.sources)
            ),
            total_files=len(request.sources),
            created_at=now,
            updated_at=now,
            trace_id=request.trace_id,
        )

    def _deduplication(self, request: JobRequest) -> Deduplication:
        key = request.idempotency_key
        by_body = request.dedupe and self._dedupe_window > 0
        return Deduplication(
            body_key=_hash(request.user, request.body_hash) if by_body else None,
            # Nobody is to be given a job whose archive's time is over.
            body_window=min(self._dedupe_window, self._archive_ttl),
            idempotency_key=_hash(request.user, key) if key is not None else None,
            idempotency_body=request.body_hash if key is not None else None,
        )


def _last_event(job: Job) -> Event:
    """The terminal event of an ended job, made from the job, with its place in the stream."""
    return terminal_event(job).evolve(id=job.cursor)


def _hash(user: str, value: str) -> str:
    # The zero byte, which neither part holds, keeps ("a", "bc") and ("ab", "c") apart.
    return hashlib.sha256(f"{user}\0{value}".encode()).hexdigest()


def _no_archive(job: Job) -> str:
    if job.status is JobStatus.FAILED:
        return f"The job failed and has no archive: {job.error}"
    if job.status is JobStatus.CANCELLED:
        return "The job was cancelled and has no archive."
    return f"The job is {job.status}; its archive is there when it is completed."
