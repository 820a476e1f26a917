"""One claimed job, from the claim to its end: the only writer of its state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from typing import Any, TypeVar

import structlog

from downloadd.errors import (
    DownloaddError,
    JobCancelled,
    JobError,
    JobNotFound,
    JobTimeout,
    LeaseLost,
    PoisonJob,
    SpoolError,
    StateError,
    StateLost,
    StateUnavailable,
    StorageUnavailable,
)
from downloadd.jobs.endings import completed, failed, used_up
from downloadd.jobs.news import News
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.stops import Stop
from downloadd.model import (
    POISON_DEATHS,
    Event,
    FileEntry,
    Job,
    JobStatus,
    terminal_event,
)
from downloadd.pipeline import JobRun, Step
from downloadd.ports import Claim, Clock, JobStore, Stint
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Span, fail_by, within

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

#: Seconds that removing what is in the storage may hold up the end of a job.
_CLEAN_UP_TIMEOUT = 5.0
#: Seconds between tries to write while Redis is away: from, to.
_AWAY_BACKOFF = (0.2, 5.0)
#: Seconds until a job is tried again that trouble with storage or disk has ended.
PAUSES = (5.0, 10.0, 20.0)
#: What the callers of a job hear that Redis has forgotten.
LOST = "The server has lost the state of the job; make the job again."


#: What it means that a step cannot be written. For Redis the worker waits, until a shutdown.
_STOPS: Mapping[type[DownloaddError], Stop] = {
    JobCancelled: Stop.CANCELLED,
    LeaseLost: Stop.LOST,
    StateUnavailable: Stop.SHUTDOWN,
}


class Worker:
    """Works on one claim. ``work`` never raises but on cancellation from outside."""

    def __init__(
        self,
        *,
        store: JobStore,
        clock: Clock,
        metrics: Metrics,
        book: PaceBook,
        run: JobRun,
        claim: Claim,
        span: Span,
        timeout: float,
        keep_failed: bool = False,
        pauses: Sequence[float] = PAUSES,
        on_trouble: Callable[[DownloaddError], None] = lambda _: None,
    ) -> None:
        """``timeout`` is in seconds, for this claim: time without a worker does not count.

        ``keep_failed``: what a job has made when it fails is kept for its retry.
        ``on_trouble`` hears of the trouble with storage or disk that has ended a run.
        ``span`` is that of this work, begun.
        """
        self.claim = claim
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._book = book
        self._news = News(clock, book)
        self._run = run
        self._span = span
        self._timeout = timeout
        self._keep_failed = keep_failed
        self._pauses = pauses
        self._on_trouble = on_trouble
        self._job = claim.job
        self._unsaved: dict[int, FileEntry] = {}
        #: Since when it works, as a time stamp.
        self.begun = clock.now()
        #: Why it was told to stop.
        self.reason: Stop | None = None
        self._behind = ""
        self._task: asyncio.Task[Any] | None = None
        self._ending = False
        #: Whether another run of the job will want its temporary files.
        self._keep = True
        #: Whether the lease is held still although nobody works on the job any more.
        self.lease_left = False
        self._hurry = asyncio.Event()

    @property
    def fetched(self) -> int:
        """Bytes that this run has fetched, those of files that failed among them."""
        return self._run.fetched

    def stop(self, reason: Stop) -> None:
        """End the work soon, unless it is at its last write already."""
        if reason is Stop.SHUTDOWN:
            self._hurry.set()
        if self._ending or self.reason is not None:
            return
        self.reason = reason
        if self._task is not None:
            self._task.cancel()

    def step_aside(self, behind: str) -> None:
        """Make room for this job."""
        self._behind = behind
        self.stop(Stop.ASIDE)

    async def work(self) -> None:
        """Do the job; write its end, or give it up as ``stop`` asked."""
        structlog.contextvars.bind_contextvars(**self._job.log_context())
        with within(self._span):
            await self._work()

    async def _work(self) -> None:
        log.info("job.started", attempt=self._job.attempts, files=self._job.total_files)
        self._task = asyncio.current_task()
        with ExitStack() as end:
            try:
                ending = self.reason or self._poison() or await self._follow()
                self._ending = True  # from here on nothing may be stopped half-way
                end.enter_context(self._run.ending())
                await self._end(ending)
            finally:
                await asyncio.shield(self._run.close(keep=self._keep))

    # --- working ---

    def _poison(self) -> PoisonJob | None:
        """Why the job is not to be worked on at all."""
        if self.claim.deaths < POISON_DEATHS:
            return None
        log.error("job.poison", deaths=self.claim.deaths)
        return PoisonJob(
            f"The server died {self.claim.deaths} times while it worked on this job, which is "
            "not tried again by itself. The server's log and memory say why; retry the job then."
        )

    async def _follow(self) -> Stop | DownloaddError | None:
        """Run the job; return what kept it from being completed, if anything did."""
        try:
            async with asyncio.timeout(self._timeout), aclosing(self._run.steps()) as steps:
                async for step in steps:
                    await self._write(step)
        except asyncio.CancelledError:
            if self.reason is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            return self.reason
        except (JobCancelled, LeaseLost, StateUnavailable) as exc:
            return _STOPS[type(exc)]
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
        self._book.fetched(step.transfers)
        if step.job.archive is not None:
            return  # the end is written with its status, in one step
        self._job = await self._news.estimated(step)
        step = step.evolve(job=self._job)
        event = self._news.of(self._job)
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

    def _save(self, step: Step, event: Event | None) -> Callable[[], Awaitable[None]]:
        files = tuple(self._unsaved.values())
        return lambda: self._store.save(
            self.claim.lease, step.job, event=event, checkpoint=step.checkpoint, files=files
        )

    async def _persist(self, write: Callable[[], Awaitable[_T]]) -> _T:
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
        try:
            if isinstance(ending, Stop):
                await self._give_up(ending)
                return
            if ending is not None:
                await self._clean_up(self._run.stop())
                if isinstance(ending, (StorageUnavailable, SpoolError)):
                    self._on_trouble(ending)
                    if self._pauses and await self._put_back(ending):
                        return
                    ending = used_up(ending, len(self._pauses))
                # Who has lost the lease unnoticed must not remove what is another's now.
                await self._persist(self._hold)
                await self._leave(keep=self._keep_failed)
            await self._finish(ending)
            self._keep = ending is not None and self._keep_failed
        except JobCancelled:
            await self._give_up(Stop.CANCELLED)
        except LeaseLost:
            await self._give_up(Stop.LOST)
        except StateUnavailable as exc:
            # The lease lapses; whoever claims the job then finds what is done.
            self.lease_left = True
            log.warning("job.end_not_written", error=exc.message)

    async def _put_back(self, error: DownloaddError) -> bool:
        """Leave the job to whoever claims it after a pause; False when there were enough."""
        await self._persist(self._save_last)
        await self._clean_up(self._run.forsake())
        lease = self.claim.lease
        count = await self._persist(lambda: self._store.postpone(lease, self._pauses))
        if count is None:
            return False
        self._metrics.retried("job")
        fail_by(self._span, error)
        pause = self._pauses[count - 1]
        log.warning("job.put_back", code=error.code, error=error.message, time=count, pause=pause)
        return True

    async def _save_last(self) -> None:
        files = tuple(self._unsaved.values())
        await self._store.save(self.claim.lease, self._job, files=files)

    async def _leave(self, *, keep: bool) -> None:
        """Remove what the storage has of the archive, or but what a later run cannot know of."""
        await self._clean_up(self._run.forsake() if keep else self._run.discard())

    async def _hold(self) -> None:
        """Make sure of the lease, for its whole time from now."""
        if await self._store.renew([self.claim.lease]):
            raise LeaseLost(f"Job {self.claim.lease.job_id} is another worker's now.")

    async def _give_up(self, reason: Stop) -> None:
        log.info("job.given_up", reason=reason.name.lower())
        self._span.set_attribute("job.given_up", reason.name.lower())
        self._keep = reason in (Stop.SHUTDOWN, Stop.ASIDE)
        status = await self._fate() if reason is Stop.LOST else None
        if reason is Stop.CANCELLED or status is JobStatus.CANCELLED:
            await self._leave(keep=False)  # counted where it was cancelled
            # Changes nothing, unless the job was retried before we heard of the
            # cancellation and this is its new claim: it must not wait for a lease.
            await self._release()
        elif reason is Stop.LOST and status is None:
            await self._mourn()
        else:
            await self._leave(keep=True)
            if reason is Stop.SHUTDOWN:
                await self._release()
            elif reason is Stop.ASIDE and not await self._put_aside():
                # It was cancelled meanwhile, or taken by another.
                await self._give_up(Stop.LOST)

    async def _put_aside(self) -> bool:
        lease = self.claim.lease
        return await self._persist(lambda: self._store.put_aside(lease, behind=self._behind))

    async def _release(self) -> None:
        try:
            await self._store.release(self.claim.lease)
        except StateUnavailable as exc:
            self.lease_left = True
            log.warning("job.not_released", error=exc.message)

    async def _fate(self) -> JobStatus | None:
        """What has become of a job whose lease is lost; None: there is no such job any more."""
        try:
            return (await self._store.load(self.claim.lease.job_id)).status
        except JobNotFound:
            return None
        except StateUnavailable:
            return self._job.status

    async def _mourn(self) -> None:
        """Remove what was made of a job that Redis has forgotten, and tell who watches it."""
        error = StateLost(LOST)
        now = self._clock.now()
        log.error("job.state_lost", code=error.code, files=self._job.files_completed)
        await self._leave(keep=False)
        job = failed(self._job, error, now)
        try:
            await self._store.announce(job.id, terminal_event(job))
        except StateError as exc:
            log.warning("job.loss_not_told", error=exc.message)
        self._metrics.ended(JobStatus.FAILED, self._seconds(now))

    async def _clean_up(self, removal: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_CLEAN_UP_TIMEOUT):
                await removal
        except (DownloaddError, TimeoutError) as exc:
            log.warning("job.upload_left", error=str(exc) or "timed out")

    async def _finish(self, error: DownloaddError | None) -> None:
        now = self._clock.now()
        job = completed(self._job, now) if error is None else failed(self._job, error, now)
        if error is not None:
            fail_by(self._span, error)
        files = tuple(self._unsaved.values())
        event = terminal_event(job)
        try:
            await self._persist(
                lambda: self._store.finish(self.claim.lease, job, event, files=files)
            )
        except LeaseLost:
            if not await self._is_written(job):
                raise
        self._report(job, now)

    async def _is_written(self, end: Job) -> bool:
        """Whether this is the job's end already: the answer that said so was lost."""
        with suppress(StateError, JobNotFound):
            known = await self._store.load(end.id)
            return (known.status, known.completed_at) == (end.status, end.completed_at)
        return False

    def _report(self, job: Job, now: float) -> None:
        seconds = self._seconds(now)
        self._span.set_attributes({"job.status": job.status, "job.bytes": job.bytes_fetched})
        self._metrics.ended(job.status, seconds)
        self._book.worked(self._stint(job, now))
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

    def _stint(self, job: Job, now: float) -> Stint:
        """How long this run was busy, and how long with what comes after the last file."""
        last = max((entry.fetched_at or 0.0 for entry in job.files), default=0.0)
        fetched_here = last >= self.begun and job.status is JobStatus.COMPLETED
        return Stint(seconds=now - self.begun, tail=now - last if fetched_here else None)

    def _seconds(self, now: float) -> float:
        return now - (self._job.started_at or now)
