"""One claimed job, from the claim to its end: the only writer of its state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from enum import Enum, auto
from typing import Any

import structlog

from downloadd.errors import (
    DownloaddError,
    JobCancelled,
    JobError,
    JobNotFound,
    JobTimeout,
    LeaseLost,
    StateUnavailable,
)
from downloadd.model import Event, FileEntry, Job, JobStatus, progress_event, terminal_event
from downloadd.pipeline import JobRun, Step
from downloadd.ports import Claim, Clock, JobStore
from downloadd.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

#: Seconds that removing what is in the storage may hold up the end of a job.
_CLEAN_UP_TIMEOUT = 5.0
#: Seconds between two progress events, at the least (SPEC §5: four a second).
_EVENT_PAUSE = 0.25
#: Seconds between tries to write while Redis is away: from, to.
_AWAY_BACKOFF = (0.2, 5.0)


class Stop(Enum):
    """Why a worker stops although its job has not ended by itself."""

    #: Its caller has cancelled the job; that is written already.
    CANCELLED = auto()
    #: The lease is another's; its work must not be touched.
    LOST = auto()
    #: This process ends; another goes on from the checkpoint.
    SHUTDOWN = auto()


class Worker:
    """Works on one claim. ``work`` never raises but on cancellation from outside."""

    def __init__(
        self,
        *,
        store: JobStore,
        clock: Clock,
        metrics: Metrics,
        run: JobRun,
        claim: Claim,
        timeout: float,
    ) -> None:
        """``timeout`` is in seconds, for this claim: time without a worker does not count."""
        self.claim = claim
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._run = run
        self._timeout = timeout
        self._job = claim.job
        self._unsaved: dict[int, FileEntry] = {}
        self._told: Event | None = None
        self._told_at = clock.monotonic()  # the claim has made an event
        self._reason: Stop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ending = False
        self._hurry = asyncio.Event()

    def stop(self, reason: Stop) -> None:
        """End the work soon, unless it is at its last write already."""
        if reason is Stop.SHUTDOWN:
            self._hurry.set()
        if self._ending or self._reason is not None:
            return
        self._reason = reason
        if self._task is not None:
            self._task.cancel()

    async def work(self) -> None:
        """Do the job; write its end, or give it up as ``stop`` asked."""
        structlog.contextvars.bind_contextvars(
            **self._job.log_context(), traceId=self._job.trace_id
        )
        log.info("job.started", attempt=self._job.attempts, files=self._job.total_files)
        self._task = asyncio.current_task()
        try:
            ending = self._reason or await self._follow()
            self._ending = True  # from here on nothing may be stopped half-way
            await self._end(ending)
        finally:
            await asyncio.shield(self._run.close())

    # --- working ---

    async def _follow(self) -> Stop | DownloaddError | None:
        """Run the job; return what kept it from being completed, if anything did."""
        try:
            async with asyncio.timeout(self._timeout), aclosing(self._run.steps()) as steps:
                async for step in steps:
                    await self._write(step)
        except asyncio.CancelledError:
            if self._reason is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            return self._reason
        except JobCancelled:
            return Stop.CANCELLED
        except LeaseLost:
            return Stop.LOST
        except TimeoutError:
            return JobTimeout(f"The job took longer than the {self._timeout:g} seconds allowed.")
        except DownloaddError as exc:
            return exc
        except Exception:
            log.exception("job.crashed")
            return JobError("The server failed while it worked on the job; try again.")
        return None

    async def _write(self, step: Step) -> None:
        self._job = step.job
        self._unsaved |= {entry.index: entry for entry in step.files}
        if step.job.archive is not None:
            return  # the end is written with its status, in one step
        event = self._news(step)
        if event is None and step.checkpoint is None:
            return
        save = self._save(step, event)
        if step.checkpoint is not None:
            await self._persist(save)
        else:
            try:
                await save()
            except StateUnavailable:
                return  # the next step tells of this one's progress too
        self._unsaved.clear()

    def _news(self, step: Step) -> Event | None:
        """What subscribers are to be told of a step: nothing when it is nothing new, or too soon.

        What is held back here is in the next event, and the last one is never held back.
        """
        now = self._clock.monotonic()
        event = progress_event(step.job)
        if event == self._told or now - self._told_at < _EVENT_PAUSE:
            return None
        self._told, self._told_at = event, now
        return event

    def _save(self, step: Step, event: Event | None) -> Callable[[], Awaitable[None]]:
        files = tuple(self._unsaved.values())
        return lambda: self._store.save(
            self.claim.lease, step.job, event=event, checkpoint=step.checkpoint, files=files
        )

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write, however long Redis is away, but for a shutdown's sake.

        What is fenced may be written twice. Raises ``StateUnavailable`` when
        the process is to end.
        """
        pause, longest = _AWAY_BACKOFF
        while True:
            try:
                return await write()
            except StateUnavailable as exc:
                if self._hurry.is_set():
                    raise
                log.warning("job.state_away", error=exc.message, pause=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            pause = min(pause * 2, longest)

    # --- ending ---

    async def _end(self, ending: Stop | DownloaddError | None) -> None:
        if isinstance(ending, Stop):
            await self._give_up(ending)
            return
        try:
            if ending is not None:
                await self._clean_up(self._run.stop())
                # Who has lost the lease unnoticed must not remove what is another's now.
                await self._persist(self._hold)
                await self._clean_up(self._run.discard())
            await self._finish(ending)
        except JobCancelled:
            await self._give_up(Stop.CANCELLED)
        except LeaseLost:
            await self._give_up(Stop.LOST)
        except StateUnavailable as exc:
            # The lease lapses; whoever claims the job then finds what is done.
            log.warning("job.end_not_written", error=exc.message)

    async def _hold(self) -> None:
        """Make sure of the lease, for its whole time from now."""
        if await self._store.renew([self.claim.lease]):
            raise LeaseLost(f"Job {self.claim.lease.job_id} is another worker's now.")

    async def _give_up(self, reason: Stop) -> None:
        log.info("job.given_up", reason=reason.name.lower())
        if reason is Stop.LOST and await self._was_cancelled():
            reason = Stop.CANCELLED
        if reason is Stop.CANCELLED:
            await self._clean_up(self._run.discard())
            self._metrics.ended(JobStatus.CANCELLED, self._seconds(self._clock.now()))
            return
        await self._clean_up(self._run.forsake())
        if reason is Stop.SHUTDOWN:
            try:
                await self._store.release(self.claim.lease)
            except StateUnavailable as exc:
                log.warning("job.not_released", error=exc.message)

    async def _was_cancelled(self) -> bool:
        """Whether a lost lease was lost to the job's caller, not to another worker."""
        try:
            job = await self._store.load(self.claim.lease.job_id)
        except JobNotFound:
            return True
        except StateUnavailable:
            return False
        return job.status is JobStatus.CANCELLED

    async def _clean_up(self, removal: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_CLEAN_UP_TIMEOUT):
                await removal
        except (DownloaddError, TimeoutError) as exc:
            log.warning("job.upload_left", error=str(exc) or "timed out")

    async def _finish(self, error: DownloaddError | None) -> None:
        now = self._clock.now()
        changes: dict[str, Any] = {"progress": 100}
        status = JobStatus.COMPLETED
        if error is not None:
            changes = {"error": error.message, "error_code": error.code}
            status = JobStatus.FAILED
        job = self._job.moved(status, stage=None, completed_at=now, updated_at=now, **changes)
        files = tuple(self._unsaved.values())
        event = terminal_event(job)
        await self._persist(lambda: self._store.finish(self.claim.lease, job, event, files=files))
        self._report(job, now)

    def _report(self, job: Job, now: float) -> None:
        seconds = self._seconds(now)
        self._metrics.ended(job.status, seconds)
        log.log(
            30 if job.status is JobStatus.FAILED else 20,
            f"job.{job.status}",
            seconds=round(seconds, 3),
            bytes=job.bytes_fetched,
            files=job.files_completed,
            filesFailed=job.files_failed,
            code=job.error_code,
            error=job.error,
        )

    def _seconds(self, now: float) -> float:
        return now - (self._job.started_at or now)
