"""What workers do with jobs in Redis: the half of the job store that goes by leases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog

from downloadd.errors import JobCancelled, LeaseLost
from downloadd.model import (
    POISON_DEATHS,
    SUSPECT_DEATHS,
    Event,
    FileEntry,
    Job,
    JobStatus,
    check_transition,
    event_data,
    terminal_event,
)
from downloadd.ports import Claim, Demand, Lease, Waiting
from downloadd.sealing import SealBroken
from downloadd.state import codec
from downloadd.state.client import Arg
from downloadd.state.ledger import archive_expiry
from downloadd.state.scripts import SOURCES, Scripts, script

log = structlog.get_logger(__name__)

_CLAIM = script("claim")
_WRITE = script("write")
_RENEW = script("renew")
_DEMAND = script("demand")
_RELEASE = script("release")
_ASIDE = script("aside")
_POSTPONE = script("postpone")
_DISOWN = script("disown")


_UNREADABLE = "The job cannot be read by this version of the server; make it again."
_SEALED = (
    "The request headers of the job's sources cannot be read: the server's key "
    "(state.secret_key) has changed. Make the job again."
)


class Work(Scripts):
    """Claims, leases, and the writes of those who hold them (``ports.JobStore``)."""

    async def claim(
        self, limit: int, *, queued: bool = True, suspects: bool = True
    ) -> Sequence[Claim]:
        keys = self._keys
        installation = await self._installation.name()
        token = self._operation()
        args: list[Arg] = [
            limit,
            token,
            self._lease,
            self._clock.now(),
            SOURCES[JobStatus.PROCESSING],
            keys.job("%s"),
            keys.files("%s"),
            keys.events("%s"),
            keys.checkpoint("%s"),
            keys.headers("%s"),
            "1" if queued else "",
            "1" if suspects else "",
            SUSPECT_DEATHS,
            POISON_DEATHS,
            installation,
        ]
        names = [
            keys.queue,
            keys.active,
            keys.last_claim(self._owner),
            keys.installation,
            keys.turns,
        ]
        claims: list[Claim] = []
        for row in await self._client.run(_CLAIM, names, args):
            try:
                claims.append(self._claimed(token, row, f"{installation}/"))
            except SealBroken:
                log.error("job.sealed", jobId=row[0])  # noqa: TRY400 - no trace says more
                await self._fail_unreadable(Lease(job_id=row[0], token=token), _SEALED)
            except (ValueError, TypeError, LookupError):
                log.exception("job.unreadable", jobId=row[0])
                await self._fail_unreadable(Lease(job_id=row[0], token=token), _UNREADABLE)
        return claims

    async def demand(self, limit: int) -> Demand:
        args: list[Arg] = [limit, self._keys.job("%s")]
        names = [self._keys.queue, self._keys.active]
        rows, users = await self._client.run(_DEMAND, names, args)
        ranks = {rank: priority for priority, rank in codec.PRIORITY_RANKS.items()}
        waiting = [
            Waiting(job_id=job_id, user=user, priority=ranks[int(rank)], since=float(created))
            for job_id, user, rank, created in rows
            # Of a priority that this version does not know is for a claim to say.
            if int(rank) in ranks
        ]
        return Demand(waiting=waiting, running=Counter(users))

    async def is_first(self, seconds: float) -> bool:
        milliseconds = round(seconds * 1000)
        reply = await self._client.execute("SET", self._keys.sharing, 1, "NX", "PX", milliseconds)
        return reply is not None

    def _claimed(self, token: str, row: Sequence[Any], namespace: str) -> Claim:
        job_id, values, spec, headers, checkpoint, ended, deaths = row
        if headers:
            if self._sealer is None:
                raise SealBroken("there is no key")
            headers = self._sealer.open(headers, job_id)
        files = codec.decode_files(spec, ended, headers=headers)
        return Claim(
            lease=Lease(job_id=job_id, token=token),
            job=codec.decode_job(job_id, values, files),
            checkpoint=checkpoint,
            deaths=int(deaths),
            namespace=namespace,
        )

    async def _fail_unreadable(self, lease: Lease, error: str) -> None:
        """End a job of which this server cannot read what another one wrote.

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
            error=error,
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
            keys.deliveries(job_id),
            keys.webhooks,
        ]
        failed = end in (JobStatus.FAILED, JobStatus.CANCELLED)
        args: list[Arg] = [
            job_id,
            lease.token,
            self._operation(),
            end.value if end else "",
            SOURCES[end] if end else JobStatus.PROCESSING.value,
            event.type.value if event else "",
            codec.encode_event(event) if event else codec.dumps(event_data(job)),
            "" if checkpoint is None else "1",
            checkpoint or "",
            self._ttl[end] if end else 0,
            self._retry_window if end is JobStatus.FAILED else 0,
            keys.dedupe("%s") if failed else "",
            *archive_expiry(job, self._archive_ttl),
            keys.control,
            len(fields),
            *fields,
            *codec.encode_files(files),
        ]
        _check_written(job_id, await self._client.run(_WRITE, names, args))

    async def release(self, lease: Lease) -> None:
        names = [self._keys.job(lease.job_id), self._keys.active]
        args = [lease.job_id, lease.token, self._keys.control]
        await self._client.run(_RELEASE, names, args)

    async def put_aside(self, lease: Lease, *, behind: str) -> bool:
        keys, job_id = self._keys, lease.job_id
        names = [keys.job(job_id), keys.events(job_id), keys.active]
        names += [keys.queue, keys.sequence, keys.turns]
        args: list[Arg] = [job_id, lease.token, keys.control, behind, self._clock.now()]
        return bool(await self._client.run(_ASIDE, names, args))

    async def postpone(self, lease: Lease, pauses: Sequence[float]) -> int | None:
        names = [self._keys.job(lease.job_id), self._keys.active]
        args: list[Arg] = [lease.job_id, lease.token, self._operation(), *pauses]
        reply = await self._client.run(_POSTPONE, names, args)
        if isinstance(reply, str):
            _check_written(lease.job_id, reply)
        return int(reply) or None

    async def disown(self, owners: Sequence[str]) -> int:
        args = [self._keys.job("%s"), self._keys.control, *owners]
        return int(await self._client.run(_DISOWN, [self._keys.active], args))


def _check_written(job_id: str, reply: str) -> None:
    if reply == "ok":
        return
    if reply == "cancelled":
        raise JobCancelled(f"Job {job_id} was cancelled.")
    raise LeaseLost(f"Job {job_id} is no longer this process's to work on.")
