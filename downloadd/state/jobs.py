"""Jobs in Redis: ``ports.JobStore``, every method one script.

Each script may run again when the answer to it was lost with the connection,
and then changes nothing more: a job is created under its own id, every write
carries a number of its own, and a claim remembers what it took.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from downloadd.errors import (
    IdempotencyConflict,
    JobCancelled,
    JobConflict,
    JobNotFound,
    LeaseLost,
    QueueFull,
)
from downloadd.model import (
    TRANSITIONS,
    Event,
    FileEntry,
    Job,
    JobStatus,
    check_transition,
    event_data,
    terminal_event,
)
from downloadd.ports import Claim, Clock, Created, Deduplication, JobStore, Lease, SystemClock
from downloadd.state import codec
from downloadd.state.client import Arg, Client, Script
from downloadd.state.installation import Installation
from downloadd.state.keys import Keys
from downloadd.state.ledger import EXPIRED_TTL, archive_expiry

log = structlog.get_logger(__name__)

#: Jobs that are read with their files at once: such an answer may have megabytes.
_WHOLE_AT_ONCE = 8
#: Seconds for which an Idempotency-Key is remembered (SPEC "Initiate").
IDEMPOTENCY_TTL = 24 * 3600

_PREAMBLE = "local FIELDS = {" + ",".join(f"'{name}'" for name in codec.FIELDS) + "}"
_CREATE = Script.load("create", preamble=_PREAMBLE)
_LOAD = Script.load("load", preamble=_PREAMBLE)
_CLAIM = Script.load("claim", preamble=_PREAMBLE)
_WRITE = Script.load("write", preamble=_PREAMBLE)
_RENEW = Script.load("renew", preamble=_PREAMBLE)
_RELEASE = Script.load("release", preamble=_PREAMBLE)
_CANCEL = Script.load("cancel", preamble=_PREAMBLE)


def _sources(target: JobStatus) -> str:
    """The statuses from which a job may become ``target``, for a script."""
    return " ".join(old.value for old, targets in TRANSITIONS.items() if target in targets)


_SOURCES: Mapping[JobStatus, str] = {status: _sources(status) for status in JobStatus}


class RedisJobStore(JobStore):
    """``ports.JobStore``. Durations are in seconds."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        lease: float,
        completed_ttl: float,
        failed_ttl: float,
        retry_window: float,
        archive_ttl: float,
        installation: Installation,
        durable: Client | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        #: Where a job is created: its answer may have to wait for the disk.
        self._durable = durable or client
        self._keys = keys
        self._lease = lease
        self._clock = clock or SystemClock()
        self._ttl: Mapping[JobStatus, int] = {
            # A job outlives its archive, so that callers learn what became of it.
            JobStatus.COMPLETED: _whole(max(completed_ttl, archive_ttl + EXPIRED_TTL)),
            JobStatus.FAILED: _whole(failed_ttl),
            JobStatus.CANCELLED: _whole(failed_ttl),
        }
        self._retry_window = int(retry_window)
        self._archive_ttl = archive_ttl
        self._installation = installation
        # A list may forget what ended long ago; no job waits that long.
        self._listed = 2 * max(self._ttl.values())
        self._whole = asyncio.Semaphore(_WHOLE_AT_ONCE)
        self._owner = uuid.uuid4().hex
        self._operations = itertools.count(1)

    def _operation(self) -> str:
        """A name for one write or claim, never used again."""
        return f"{self._owner}:{next(self._operations)}"

    # --- making and reading --------------------------------------------------

    async def create(self, job: Job, dedup: Deduplication, *, queue_limit: int) -> Created:
        keys = self._keys
        key = dedup.idempotency_key
        names = [
            keys.job(job.id),
            keys.events(job.id),
            keys.queue,
            keys.sequence,
            keys.user_jobs(job.user),
            keys.headers(job.id),
            keys.idempotency(key) if key else keys.job(job.id),
            keys.dedupe(dedup.body_key) if dedup.body_key else keys.job(job.id),
        ]
        args: list[Arg] = [
            job.id,
            queue_limit,
            codec.PRIORITY_RANKS[job.options.priority],
            job.created_at,
            keys.control,
            keys.job("%s"),
            key or "",
            dedup.idempotency_body or "",
            IDEMPOTENCY_TTL,
            dedup.body_key or "",
            _whole(dedup.body_window),
            self._listed,
            codec.dumps(event_data(job)),
            codec.encode_headers(job.files),
            *codec.encode_new(job),
        ]
        return _created(await self._durable.run(_CREATE, names, args))

    async def load(self, job_id: str, *, files: bool = False) -> Job:
        if files:
            async with self._whole:
                return await self._load_whole(job_id)
        (values,) = await self._read(job_id)
        return codec.decode_job(job_id, values)

    async def _load_whole(self, job_id: str) -> Job:
        values, spec, flight, ended = await self._read(job_id, "1")
        return codec.decode_job(job_id, values, codec.decode_files(spec, ended, flight=flight))

    async def _read(self, job_id: str, files: str = "") -> Sequence[Any]:
        keys = self._keys
        names = [keys.job(job_id), keys.queue, keys.files(job_id)]
        reply: Sequence[Any] | None = await self._client.run(_LOAD, names, [job_id, files])
        if reply is None:
            raise _unknown(job_id)
        return reply

    async def queue_depth(self) -> int:
        """How many jobs wait."""
        return int(await self._client.execute("ZCARD", self._keys.queue, repeatable=True))

    async def counts(self) -> Mapping[JobStatus, int]:
        """How many jobs wait and how many are under way, in all processes."""
        waiting, active = await asyncio.gather(
            self.queue_depth(),
            self._client.execute("ZCARD", self._keys.active, repeatable=True),
        )
        return {JobStatus.QUEUED: waiting, JobStatus.PROCESSING: int(active)}

    # --- working -------------------------------------------------------------

    async def claim(self, limit: int) -> Sequence[Claim]:
        keys = self._keys
        installation = await self._installation.name()
        token = self._operation()
        args: list[Arg] = [
            limit,
            token,
            self._lease,
            self._clock.now(),
            _SOURCES[JobStatus.PROCESSING],
            keys.job("%s"),
            keys.files("%s"),
            keys.events("%s"),
            keys.checkpoint("%s"),
            keys.headers("%s"),
            installation,
        ]
        names = [keys.queue, keys.active, keys.last_claim(self._owner), keys.installation]
        claims: list[Claim] = []
        for row in await self._client.run(_CLAIM, names, args):
            try:
                claims.append(_claim(token, row, f"{installation}/"))
            except (ValueError, TypeError, LookupError):
                log.exception("job.unreadable", jobId=row[0])
                await self._fail_unreadable(Lease(job_id=row[0], token=token))
        return claims

    async def _fail_unreadable(self, lease: Lease) -> None:
        """End a job of which another version wrote what this one cannot read.

        It would stop worker after worker, and the jobs behind it.
        """
        now = self._clock.now()
        job = Job(
            id=lease.job_id,
            total_files=0,
            status=JobStatus.FAILED,
            created_at=now,
            updated_at=now,
            completed_at=now,
            error="The job cannot be read by this version of the server; make it again.",
            error_code="job_unreadable",
        )
        await self.finish(lease, job, terminal_event(job))

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        if not leases:
            return []
        names = [self._keys.active, *(self._keys.job(lease.job_id) for lease in leases)]
        args: list[Arg] = [
            self._lease,
            *(part for lease in leases for part in (lease.job_id, lease.token)),
        ]
        lost = await self._client.run(_RENEW, names, args)
        return [leases[place - 1] for place in lost]

    async def save(
        self,
        lease: Lease,
        job: Job,
        *,
        event: Event | None = None,
        checkpoint: str | None = None,
        files: Sequence[FileEntry] = (),
    ) -> None:
        fields = [*codec.encode_progress(job), "flight", codec.encode_flight(job.files)]
        await self._write(lease, job, fields, event=event, checkpoint=checkpoint, files=files)

    async def finish(
        self,
        lease: Lease,
        job: Job,
        event: Event,
        *,
        files: Sequence[FileEntry] = (),
    ) -> None:
        check_transition(JobStatus.PROCESSING, job.status)
        fields = codec.encode_end(job)
        await self._write(lease, job, fields, event=event, files=files, end=job.status)

    async def _write(
        self,
        lease: Lease,
        job: Job,
        fields: Sequence[Arg],
        *,
        event: Event | None,
        files: Sequence[FileEntry],
        checkpoint: str | None = None,
        end: JobStatus | None = None,
    ) -> None:
        keys, job_id = self._keys, lease.job_id
        names = [
            keys.job(job_id),
            keys.files(job_id),
            keys.events(job_id),
            keys.checkpoint(job_id),
            keys.headers(job_id),
            keys.active,
            keys.archives,
        ]
        failed = end in (JobStatus.FAILED, JobStatus.CANCELLED)
        args: list[Arg] = [
            job_id,
            lease.token,
            self._operation(),
            end.value if end else "",
            _SOURCES[end] if end else JobStatus.PROCESSING.value,
            event.type.value if event else "",
            codec.encode_event(event) if event else codec.dumps(event_data(job)),
            "" if checkpoint is None else "1",
            checkpoint or "",
            self._ttl[end] if end else 0,
            self._retry_window if end is JobStatus.FAILED else 0,
            keys.dedupe("%s") if failed else "",
            *archive_expiry(job, self._archive_ttl),
            len(fields),
            *fields,
            *codec.encode_files(files),
        ]
        _check_written(job_id, await self._client.run(_WRITE, names, args))

    async def release(self, lease: Lease) -> None:
        names = [self._keys.job(lease.job_id), self._keys.active]
        args = [lease.job_id, lease.token, self._keys.control]
        await self._client.run(_RELEASE, names, args)

    async def cancel(self, job_id: str, now: float) -> Job:
        keys = self._keys
        names = [
            keys.job(job_id),
            keys.files(job_id),
            keys.events(job_id),
            keys.checkpoint(job_id),
            keys.headers(job_id),
            keys.queue,
            keys.active,
        ]
        args: list[Arg] = [
            job_id,
            now,
            self._operation(),
            _SOURCES[JobStatus.CANCELLED],
            self._ttl[JobStatus.CANCELLED],
            keys.control,
            keys.dedupe("%s"),
        ]
        reply = await self._client.run(_CANCEL, names, args)
        if reply is None:
            raise _unknown(job_id)
        if isinstance(reply, str):
            raise JobConflict(f"The job is {reply} and can no longer be cancelled.")
        return codec.decode_job(job_id, reply[0])


def _whole(seconds: float) -> int:
    """Redis counts expiry in whole seconds, from 1."""
    return max(1, round(seconds))


def _unknown(job_id: str) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id}; it may have expired.")


def _created(reply: Sequence[Any]) -> Created:
    match reply:
        case ["made", job_id, place]:
            return Created(job_id=job_id, queue_position=int(place) or None)
        case ["full"]:
            raise QueueFull("The queue is full; try again later.", retry_after=10.0)
        case ["conflict"]:
            raise IdempotencyConflict(
                "This Idempotency-Key was used with another body; use a new key.",
            )
        case [how, job_id]:
            return Created(job_id=job_id, replayed=True, by_key=how == "key")
    raise AssertionError(reply)


def _claim(token: str, row: Sequence[Any], namespace: str) -> Claim:
    job_id, values, spec, headers, checkpoint, ended = row
    files = codec.decode_files(spec, ended, headers=headers)
    return Claim(
        lease=Lease(job_id=job_id, token=token),
        job=codec.decode_job(job_id, values, files),
        checkpoint=checkpoint,
        namespace=namespace,
    )


def _check_written(job_id: str, reply: str) -> None:
    if reply == "ok":
        return
    if reply == "cancelled":
        raise JobCancelled(f"Job {job_id} was cancelled.")
    raise LeaseLost(f"Job {job_id} is no longer this process's to work on.")
