"""Jobs in Redis: ``ports.JobStore``, every method one script.

Each script may run again when the answer to it was lost with the connection,
and then changes nothing more: a job is created under its own id, every write
carries a number of its own, and a claim remembers what it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from downloadd.errors import (
    IdempotencyConflict,
    JobConflict,
    JobNotFound,
    QueueFull,
    StateError,
)
from downloadd.model import Event, Job, JobStatus, event_data
from downloadd.ports import Created, Deduplication, JobStore, Page, Turn
from downloadd.state import codec
from downloadd.state.client import Arg
from downloadd.state.scripts import SOURCES, script, whole_seconds
from downloadd.state.work import Work

#: Seconds for which an Idempotency-Key is remembered (SPEC "Initiate").
IDEMPOTENCY_TTL = 24 * 3600

_CREATE = script("create")
_LOAD = script("load")
_LIST = script("list")
_CANCEL = script("cancel")
_RETRY = script("retry")
_ANNOUNCE = script("announce")


class RedisJobStore(Work, JobStore):
    """``ports.JobStore``: what callers do with jobs; ``Work`` is what workers do."""

    # --- making and reading --------------------------------------------------

    async def create(
        self, job: Job, dedup: Deduplication, *, queue_limit: int, turn: Turn | None = None
    ) -> Created:
        keys, turn = self._keys, turn or Turn()
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
            keys.turns,
            keys.all_jobs,
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
            whole_seconds(dedup.body_window),
            self._listed,
            codec.dumps(event_data(job)),
            self._sealed_headers(job),
            turn.free,
            turn.per_place,
            codec.text(job.work_left),
            *codec.encode_new(job),
        ]
        return _created(await self._durable.run(_CREATE, names, args))

    def _sealed_headers(self, job: Job) -> str:
        """The headers of the job's sources, to be opened as this job's alone."""
        headers = codec.encode_headers(job.files)
        if not headers:
            return ""
        if self._sealer is None:
            raise StateError("There is no key to seal the headers of sources with.")
        return self._sealer.seal(headers, job.id)

    async def load(self, job_id: str, *, files: bool = False) -> Job:
        if files:
            async with self._whole:
                return await self._load_whole(job_id)
        (values,) = await self._read(job_id)
        return codec.decode_job(job_id, values)

    async def list(
        self, user: str | None, statuses: Collection[JobStatus], *, first: int, limit: int
    ) -> Page:
        keys = self._keys
        args: list[Arg] = [
            keys.job("%s"),
            " ".join(statuses),
            first,
            limit,
            self._clock.now(),
            self._archive_ttl,
        ]
        jobs = keys.all_jobs if user is None else keys.user_jobs(user)
        reply = await self._client.run(_LIST, [jobs, keys.queue], args)
        total, ids, rows = reply[0], reply[1::2], reply[2::2]
        read = (codec.decode_job(job_id, row) for job_id, row in zip(ids, rows, strict=True))
        return Page(jobs=tuple(read), total=total)

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

    # --- moves that callers make ----------------------------------------------

    async def cancel(self, job_id: str, now: float) -> tuple[Job, str | None]:
        keys = self._keys
        names = [
            keys.job(job_id),
            keys.files(job_id),
            keys.events(job_id),
            keys.checkpoint(job_id),
            keys.headers(job_id),
            keys.queue,
            keys.active,
            keys.deliveries(job_id),
            keys.webhooks,
            keys.turns,
        ]
        args: list[Arg] = [
            job_id,
            now,
            self._operation(),
            SOURCES[JobStatus.CANCELLED],
            self._ttl[JobStatus.CANCELLED],
            keys.control,
            keys.dedupe("%s"),
        ]
        reply = await self._client.run(_CANCEL, names, args)
        if reply is None:
            raise _unknown(job_id)
        if isinstance(reply, str):
            raise JobConflict(f"The job is {reply} and can no longer be cancelled.")
        return codec.decode_job(job_id, reply[0]), reply[1] if len(reply) > 1 else None

    async def retry(
        self,
        job_id: str,
        now: float,
        *,
        queue_limit: int,
        body_window: float,
        work: float | None = None,
        traceparent: str | None = None,
    ) -> Job:
        keys = self._keys
        names = [
            keys.job(job_id),
            keys.files(job_id),
            keys.events(job_id),
            keys.checkpoint(job_id),
            keys.headers(job_id),
            keys.queue,
            keys.sequence,
            keys.deliveries(job_id),
            keys.webhooks,
            keys.turns,
        ]
        args: list[Arg] = [
            job_id,
            now,
            self._operation(),
            SOURCES[JobStatus.QUEUED],
            queue_limit,
            keys.control,
            keys.dedupe("%s"),
            whole_seconds(body_window),
            codec.text(work),
            codec.text(traceparent),
        ]
        reply = await self._durable.run(_RETRY, names, args)
        if reply is None:
            raise _unknown(job_id)
        if isinstance(reply, str):
            raise _not_retried(reply)
        return codec.decode_job(job_id, reply[0])

    async def announce(self, job_id: str, event: Event) -> None:
        args = [event.type.value, codec.encode_event(event)]
        await self._client.run(_ANNOUNCE, [self._keys.events(job_id)], args)


def _not_retried(reason: str) -> JobConflict | QueueFull:
    if reason == "full":
        return _full()
    if reason == "forgotten":
        return JobConflict(
            "The request headers of the job's sources are kept no longer; make the job again.",
        )
    return JobConflict(f"The job is {reason}; only one that failed or was cancelled is retried.")


def _full() -> QueueFull:
    return QueueFull("The queue is full; try again later.", retry_after=10.0)


def _unknown(job_id: str) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id}; it may have expired.")


def _created(reply: Sequence[Any]) -> Created:
    match reply:
        case ["made", job_id, place, estimate]:
            return Created(
                job_id=job_id,
                queue_position=int(place) or None,
                estimated_time=int(estimate) if estimate else None,
            )
        case ["full"]:
            raise _full()
        case ["conflict"]:
            raise IdempotencyConflict(
                "This Idempotency-Key was used with another body; use a new key.",
            )
        case [how, job_id]:
            return Created(job_id=job_id, replayed=True, by_key=how == "key")
    raise AssertionError(reply)
