"""What callers may do with jobs: make, look up, cancel, retry, watch, get the archive's link."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from downloadd.access.caller import ANONYMOUS, Caller
from downloadd.errors import (
    DownloaddError,
    JobConflict,
    JobExpired,
    JobNotFound,
    QueueFull,
    StateError,
    StateLost,
    StorageUnavailable,
)
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.worker import LOST
from downloadd.model import (
    Archive,
    Event,
    FileEntry,
    FileStatus,
    Form,
    Job,
    JobStatus,
    Link,
    Options,
    Priority,
    Record,
    Source,
    terminal_event,
)
from downloadd.pipeline import upload_of
from downloadd.ports import Clock, Created, Deduplication, JobStore, ObjectStore, Page
from downloadd.state.topic import place_of
from downloadd.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

#: A link this close to its end is signed anew: its holder needs time to use it.
LINK_MARGIN_SECONDS = 60.0
#: Seconds that removing a cancelled job's upload holds up the answer, and may take at all.
_REMOVAL_PATIENCE, _REMOVAL_TIMEOUT = 0.5, 10.0


class EventFeed(Protocol):
    """Where a job's events are read, in whichever process they were written."""

    def watch(self, job_id: str, after: str) -> AsyncGenerator[Event]:
        """Yield the events after the position ``after``, then each new one as it comes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest(Record):
    """A job that somebody asks for."""

    caller: Caller = ANONYMOUS
    form: Form = Form.CANONICAL
    sources: Sequence[Source]
    options: Options = field(default_factory=Options)
    #: Whether an earlier job with the same body may be given instead, where
    #: there is no ``idempotency_key``, and this one may be given to later requests.
    dedupe: bool = True
    #: The caller's ``Idempotency-Key``.
    idempotency_key: str | None = None
    #: SHA-256 of the canonical body, hex.
    body_hash: str
    #: The request's span, as W3C Trace Context has it.
    traceparent: str | None = None
    #: Who is to be told of the job's end; may hold secrets.
    callback_url: str | None = field(default=None, repr=False)


class JobService:
    """The rules of jobs, over a store, an object storage and an event feed."""

    def __init__(
        self,
        *,
        store: JobStore,
        objects: ObjectStore,
        feed: EventFeed,
        clock: Clock,
        metrics: Metrics,
        book: PaceBook,
        queue_limit: int,
        dedupe_window: float,
        archive_ttl: float,
        priorities: Mapping[str, Priority] | None = None,
        storage_there: Callable[[], Awaitable[bool]],
    ) -> None:
        """``queue_limit`` counts queued jobs, the others seconds; ``dedupe_window`` 0 for never.

        ``priorities``: by role, the highest that its jobs may have; one that
        asks for more is queued with that. ``storage_there`` says soon whether new jobs make sense.
        """
        self._store = store
        self._objects = objects
        self._feed = feed
        self._clock = clock
        self._metrics = metrics
        self._book = book
        self._queue_limit = queue_limit
        self._dedupe_window = dedupe_window
        self._storage_there = storage_there
        self._removals: set[asyncio.Task[Any]] = set()
        self._archive_ttl = archive_ttl
        self._priorities = priorities or {}

    async def close(self) -> None:
        """Wait for what is under way behind answers that were given."""
        if self._removals:
            await asyncio.wait(set(self._removals))

    async def make(self, request: JobRequest) -> tuple[Job, Created]:
        """Queue a job, or find the one that the same request made before.

        Raises ``QueueFull``, ``IdempotencyConflict``, ``StateUnavailable``,
        ``StorageUnavailable``.
        """
        await self._check_storage()
        plan = await self._book.plan(request.sources)
        job = self._new_job(request, plan.work)
        created = await self._store.create(
            job,
            self._deduplication(request),
            queue_limit=self._queue_limit,
            turn=plan.turn,
        )
        if created.replayed:
            return await self.refresh(await self._store.load(created.job_id)), created
        place = created.queue_position
        known = job.log_context()
        log.info("job.queued", files=job.total_files, priority=job.options.priority, **known)
        return job.evolve(
            queue_position=place,
            estimated_time=created.estimated_time,
            wait=plan.turn.wait(place or 0),
        ), created

    async def find(self, request: JobRequest) -> tuple[Job, Created] | None:
        """Give the job that the same request made before; None where there is none.

        Raises ``IdempotencyConflict``, ``StateUnavailable``.
        """
        try:
            # What was made before counts before the queue's length does.
            created = await self._store.create(
                self._new_job(request, None), self._deduplication(request), queue_limit=0
            )
        except QueueFull:
            return None
        return await self.refresh(await self._store.load(created.job_id)), created

    async def estimate(self, sources: Sequence[Source]) -> int | None:
        """Whole seconds until a job of these files would have ended, were it made now.

        None where too little was ever measured. Raises ``StateUnavailable``.
        """
        return await self._book.forecast(sources)

    async def get(self, job_id: str, caller: Caller, *, files: bool = False) -> Job:
        """Read a job that the caller may see, with a link that works. ``JobNotFound``."""
        return await self.refresh(await self._owned(job_id, caller, files=files))

    async def list(
        self, user: str | None, statuses: Collection[JobStatus], *, first: int, limit: int
    ) -> Page:
        """Read a user's jobs, newest first, as ``get`` gives them; see ``JobStore.list``."""
        page = await self._store.list(user, statuses, first=first, limit=limit)
        jobs = await asyncio.gather(*map(self.refresh, page.jobs))
        return page.evolve(jobs=tuple(jobs))

    async def cancel(self, job_id: str, caller: Caller) -> Job:
        """End a queued or processing job. ``JobNotFound``, ``JobConflict`` when it has ended."""
        _check_not_expired(self._aged(await self._owned(job_id, caller)))
        # Whole, even where the caller's time is over: the checkpoint, which says
        # what is to be removed, is given away once.
        task = asyncio.create_task(self._cancel(job_id), name=f"cancel-{job_id}")
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)
        return await asyncio.shield(task)

    async def _cancel(self, job_id: str) -> Job:
        now = self._clock.now()
        job, checkpoint = await self._store.cancel(job_id, now)
        # By whoever made the move, once: there may be no worker.
        begun = job.started_at
        self._metrics.ended(JobStatus.CANCELLED, None if begun is None else now - begun)
        log.info("job.cancelled", files=job.files_completed, **job.log_context())
        if checkpoint is not None:
            await self._remove(job, checkpoint)
        return job

    async def _remove(self, job: Job, checkpoint: str) -> None:
        """Remove what the storage has of a cancelled job, which may have no worker to do so."""
        task = asyncio.create_task(self._abort(job, checkpoint), name=f"abort-{job.id}")
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)
        await asyncio.wait({task}, timeout=_REMOVAL_PATIENCE)

    async def _abort(self, job: Job, checkpoint: str) -> None:
        try:
            if (upload := upload_of(checkpoint)) is None:
                return
            async with asyncio.timeout(_REMOVAL_TIMEOUT):
                await self._objects.abort(*upload)
                await self._objects.delete(upload[0])
        except (DownloaddError, TimeoutError) as exc:
            log.warning("job.upload_left", jobId=job.id, error=str(exc) or "timed out")

    async def retry(self, job_id: str, caller: Caller, traceparent: str | None = None) -> Job:
        """Queue a failed or cancelled job once more, to go on from what is kept of it.

        Raises ``JobNotFound``, ``JobConflict``, ``QueueFull``, ``StorageUnavailable``.
        """
        job = await self._owned(job_id, caller, files=True)
        _check_not_expired(self._aged(job))
        await self._check_storage()
        kept = FileStatus.COMPLETED if job.status is JobStatus.FAILED else None
        plan = await self._book.plan([it.source for it in job.files if it.status is not kept])
        job = await self._store.retry(
            job_id,
            self._clock.now(),
            queue_limit=self._queue_limit,
            body_window=self._dedupe_window,
            work=plan.work,
            traceparent=traceparent,
        )
        log.info("job.retried", files=job.total_files, **job.log_context())
        self._metrics.retried("caller")
        return await self._waiting(job)

    async def _check_storage(self) -> None:
        if not await self._storage_there():
            raise StorageUnavailable("The storage cannot be reached; try again in a few seconds.")

    async def link(self, job_id: str, caller: Caller) -> tuple[Job, Archive, Link]:
        """Give a completed job's archive and a link that works for its whole time from now.

        Raises ``JobNotFound``, ``JobConflict`` until the job is completed,
        ``JobExpired`` when the archive's time is over.
        """
        job = self._aged(await self._owned(job_id, caller))
        if job.status is JobStatus.EXPIRED:
            raise JobExpired("The archive was removed after its time. Make the job again.")
        if job.status is not JobStatus.COMPLETED or job.archive is None:
            raise JobConflict(_no_archive(job))
        return job, job.archive, await self._objects.sign(job.archive)

    async def refresh(self, job: Job) -> Job:
        """Sign a completed job's link anew when it is past its time, or nearly."""
        job = await self._waiting(self._aged(job))
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
        last: Event | None = None
        try:
            async with aclosing(self._feed.watch(job.id, after)) as events:
                async for event in events:
                    if event.type.terminal:
                        if not ended and place_of(event.id) > place_of(job.cursor):
                            yield event
                            return
                        if event.id == job.cursor:
                            break
                        # The job was retried after this end.
                        continue
                    last = event
                    yield event
        except JobNotFound:
            if not ended:
                yield _lost_event(job, last)
        if ended:
            yield _last_event(job)

    async def _waiting(self, job: Job) -> Job:
        """The job, saying how long it will wait if it does."""
        if job.queue_position is None or job.work_left is None:
            return job
        try:
            wait, at = await self._book.wait(job.queue_position, job.work_left)
        except StateError as exc:
            log.info("job.wait_unknown", jobId=job.id, error=exc.message)
            return job
        told = job.evolve(wait=wait, wait_at=at)
        # Past its time, with nothing measured since: nobody knows what keeps the queue.
        overdue = told.completion is not None and told.completion < self._clock.now()
        return job if overdue else told

    def _aged(self, job: Job) -> Job:
        """The job, expired where its archive's time is over and nobody has removed it yet."""
        if job.status is not JobStatus.COMPLETED or job.completed_at is None:
            return job
        if self._clock.now() < job.completed_at + self._archive_ttl:
            return job
        return job.moved(JobStatus.EXPIRED, link=None)

    async def _owned(self, job_id: str, caller: Caller, *, files: bool = False) -> Job:
        job = await self._store.load(job_id, files=files)
        if not caller.may_see(job):
            raise JobNotFound(f"There is no job {job_id}; it may have expired.")
        return job

    def _new_job(self, request: JobRequest, work: float | None) -> Job:
        now = self._clock.now()
        return Job(
            id=str(uuid.uuid4()),
            user=request.caller.user,
            form=request.form,
            file_id=request.sources[0].file_id if request.form is Form.FILE else None,
            options=self._allowed(request.options, request.caller.role),
            files=tuple(
                FileEntry(index=index, source=source)
                for index, source in enumerate(request.sources)
            ),
            total_files=len(request.sources),
            created_at=now,
            updated_at=now,
            work_left=work,
            traceparent=request.traceparent,
            callback_url=request.callback_url,
        )

    def _allowed(self, options: Options, role: str) -> Options:
        highest = self._priorities.get(role, Priority.HIGH)
        order = list(Priority)
        return options.evolve(priority=max(options.priority, highest, key=order.index))

    def _deduplication(self, request: JobRequest) -> Deduplication:
        key = request.idempotency_key
        by_body = request.dedupe and self._dedupe_window > 0
        return Deduplication(
            body_key=_hash(request.caller.user, request.body_hash) if by_body else None,
            # Nobody is to be given a job whose archive's time is over.
            body_window=min(self._dedupe_window, self._archive_ttl),
            idempotency_key=_hash(request.caller.user, key) if key is not None else None,
            idempotency_body=request.body_hash if key is not None else None,
        )


def _last_event(job: Job) -> Event:
    """The terminal event of an ended job, made from the job, with its place in the stream."""
    return terminal_event(job).evolve(id=job.cursor)


def _check_not_expired(job: Job) -> None:
    """Redis may know a job as completed until its archive is removed."""
    if job.status is JobStatus.EXPIRED:
        raise JobConflict("The job has expired: make it again.")


def lost(job: Job) -> Job:
    """A job that Redis has forgotten, as whoever follows it is told of its end."""
    return job.evolve(status=JobStatus.FAILED, stage=None, error=LOST, error_code=StateLost.code)


def _lost_event(job: Job, last: Event | None) -> Event:
    """The end of a job that Redis has forgotten; ``last`` is what was told of it last."""
    end = terminal_event(lost(job))
    told = {} if last is None else last.data
    return end.evolve(data={**end.data, **told, "status": JobStatus.FAILED.value, "stage": None})


def _hash(user: str, value: str) -> str:
    # The zero byte, which neither part holds, keeps ("a", "bc") and ("ab", "c") apart.
    return hashlib.sha256(f"{user}\0{value}".encode()).hexdigest()


def _no_archive(job: Job) -> str:
    if job.status is JobStatus.FAILED:
        return f"The job failed and has no archive: {job.error}"
    if job.status is JobStatus.CANCELLED:
        return "The job was cancelled and has no archive."
    return f"The job is {job.status}; its archive is there when it is completed."
