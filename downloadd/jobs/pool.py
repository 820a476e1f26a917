"""Bounded tasks that claim jobs under leases, renew the leases, and drain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Self

import structlog

from downloadd.errors import DownloaddError, StateError
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.sharing import LOOKED_AT, Running, one_too_many
from downloadd.jobs.stops import Stop
from downloadd.jobs.worker import PAUSES, Worker
from downloadd.model import SUSPECT_DEATHS
from downloadd.pipeline import JobRun
from downloadd.ports import Claim, Clock, JobStore
from downloadd.telemetry.metrics import Metrics
from downloadd.telemetry.tracing import Tracing, traceparent

log = structlog.get_logger(__name__)

#: Seconds after which the queue is looked at although nobody called.
_POLL = 1.0


def _nothing() -> None:
    """Nobody wants to know."""


async def _for_free(_: str, __: int) -> None:
    """Nobody counts."""


def _always() -> bool:
    return True


class Pool:
    """The workers of this process. An async context manager: leaving it drains.

    It hears of new and of cancelled jobs through ``wake`` and ``cancel``; a
    message that is lost costs a second, or a lease's renewal.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        clock: Clock,
        metrics: Metrics,
        book: PaceBook,
        make_run: Callable[[Claim], JobRun],
        concurrency: int,
        lease: float,
        timeout: float,
        keep_failed: bool = False,
        pauses: Sequence[float] = PAUSES,
        dead_owners: Sequence[str] = (),
        on_disowned: Callable[[], object] = _nothing,
        clear: Callable[[str], Awaitable[None]] | None = None,
        storage_there: Callable[[], bool] = _always,
        on_trouble: Callable[[DownloaddError], None] = lambda _: None,
        charge: Callable[[str, int], Awaitable[None]] = _for_free,
        tracing: Tracing | None = None,
    ) -> None:
        """``lease`` and ``timeout`` (of a job) are in seconds; see ``Worker`` for the next two.

        The jobs of ``dead_owners`` are given free before the first claim;
        ``on_disowned`` is called then, in a thread. ``clear`` removes what is
        left here of a job that nobody works on. While ``storage_there`` says
        no, which it is asked often, no new jobs are begun. ``on_trouble`` as in
        ``Worker``. ``charge`` is told what was fetched for which user.
        """
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._book = book
        self._make_run = make_run
        self._concurrency = concurrency
        self._lease = lease
        self._timeout = timeout
        self._keep_failed = keep_failed
        self._pauses = pauses
        self._dead_owners = tuple(dead_owners)
        self._on_disowned = on_disowned
        self._clear = clear
        self._storage_there = storage_there
        self._on_trouble = on_trouble
        self._charge = charge
        self._tracing = tracing or Tracing()
        self._clearing: set[asyncio.Task[None]] = set()
        self._workers: dict[asyncio.Task[None], Worker] = {}
        self._wake = asyncio.Event()
        #: Whether a job was left whose lease could not be given up: Redis was away.
        self.leases_left = False
        self._draining = False
        self._renewed = self._shared = clock.monotonic()
        self._claimer: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._claimer = asyncio.create_task(self._claim_forever(), name="pool-claim")
        self._renewer = asyncio.create_task(self._renew_forever(), name="pool-renew")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(0)

    @property
    def active(self) -> int:
        """Jobs that are being worked on."""
        return len(self._workers)

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop working on a job whose caller has cancelled it, and forget what is left of it."""
        mine = self._workers_of(job_id)
        for task in mine:
            self._workers[task].stop(Stop.CANCELLED)
        if self._clear is not None:
            tidy = self._tidy(self._clear, job_id, mine)
            task = asyncio.create_task(tidy, name=f"clear-{job_id}")
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def _tidy(
        self,
        clear: Callable[[str], Awaitable[None]],
        job_id: str,
        workers: Collection[asyncio.Task[None]],
    ) -> None:
        """Forget what is left of a job when those are through who may be keeping it just now."""
        if workers:
            await asyncio.wait(workers)
        try:
            await clear(job_id)
        except Exception:
            log.exception("pool.job_not_cleared", jobId=job_id)

    async def drain(self, grace: float) -> None:
        """Claim nothing more; give running jobs ``grace`` seconds, then release them."""
        self._draining = True
        self._wake.set()
        if self._claimer is not None:
            await self._claimer
        if self._workers:
            log.info("pool.draining", jobs=len(self._workers), grace=grace)
            await asyncio.wait(set(self._workers), timeout=grace)
        for worker in self._workers.values():
            worker.stop(Stop.SHUTDOWN)
        while self._workers or self._clearing:
            await asyncio.wait({*self._workers, *self._clearing})
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.gather(self._renewer, return_exceptions=True)

    # --- claiming ---

    async def _claim_forever(self) -> None:
        while not self._draining:
            self._wake.clear()
            free = self._concurrency - len(self._workers)
            if free > 0 and await self._claim(free):
                continue
            if free <= 0:
                await self._share()
            try:
                async with asyncio.timeout(_POLL):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to look anyhow

    async def _claim(self, limit: int) -> bool:
        # After Redis was away, or we were, our own jobs are not to be claimed again.
        late = self._clock.monotonic() - self._renewed > self._lease / 2
        if late and not await self._renew():
            return False
        suspects = all(it.claim.deaths < SUSPECT_DEATHS for it in self._workers.values())
        try:
            await self._disown()
            claims = await self._store.claim(limit, queued=self._storage_there(), suspects=suspects)
        except StateError as exc:
            log.warning("pool.state_away", error=exc.message)
            return False
        except Exception:
            # Whatever it is, the jobs behind it are not to wait for a restart.
            log.exception("pool.claim_failed")
            return False
        for claim in claims:
            self._start(claim)
        return bool(claims)

    async def _share(self) -> None:
        """Let a job make room for somebody who has waited for long, and has fewer running."""
        # One after the other, and not for each job that is made.
        stopping = any(it.reason is not None for it in self._workers.values())
        if stopping or self._clock.monotonic() - self._shared < _POLL or not self._storage_there():
            return
        self._shared = self._clock.monotonic()
        running = [Running(claim=it.claim, since=it.begun) for it in self._workers.values()]
        try:
            demand = await self._store.demand(LOOKED_AT)
            found = one_too_many(demand, running, self._clock.now())
            if found is None or not await self._store.is_first(_POLL):
                return
        except StateError as exc:
            log.warning("pool.state_away", error=exc.message)
            return
        except Exception:
            log.exception("pool.sharing_failed")
            return
        goes, waiting = found
        for task in self._workers_of(goes.claim.lease.job_id):
            self._workers[task].step_aside(waiting.job_id)

    async def _disown(self) -> None:
        """Give free what the processes held that died here."""
        if not self._dead_owners:
            return
        jobs = await self._store.disown(self._dead_owners)
        log.info("pool.took_over", processes=len(self._dead_owners), jobs=jobs)
        self._dead_owners = ()
        await asyncio.to_thread(self._on_disowned)

    def _start(self, claim: Claim) -> None:
        job = claim.job
        earlier = self._workers_of(job.id)
        for task in earlier:
            self._workers[task].stop(Stop.LOST)
        if job.attempts == 1 and job.started_at is not None:
            self._metrics.started(max(0.0, job.started_at - job.created_at))
        span = self._tracing.job(job)
        if span.is_recording():
            claim = claim.evolve(job=job.evolve(run_traceparent=traceparent(span)))
        worker = Worker(
            store=self._store,
            clock=self._clock,
            metrics=self._metrics,
            book=self._book,
            run=self._make_run(claim),
            claim=claim,
            span=span,
            timeout=self._timeout,
            keep_failed=self._keep_failed,
            pauses=self._pauses,
            on_trouble=self._on_trouble,
        )
        task = asyncio.create_task(self._work(worker, earlier), name=f"job-{job.id}")
        self._workers[task] = worker
        self._count()
        task.add_done_callback(self._ended)

    async def _work(self, worker: Worker, earlier: Collection[asyncio.Task[None]]) -> None:
        """Work when those are through who held the same job here: they share its folder."""
        if earlier:
            await asyncio.wait(earlier)
        await worker.work()
        await self._charge(worker.claim.job.user, worker.fetched)

    def _workers_of(self, job_id: str) -> list[asyncio.Task[None]]:
        return [task for task, it in self._workers.items() if it.claim.lease.job_id == job_id]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.leases_left |= self._workers.pop(task).lease_left
        self._count()
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pool.worker_crashed", exc_info=error)

    def _count(self) -> None:
        self._metrics.downloads_active.set(len(self._workers))
        self._metrics.download_active_workers.set(len(self._workers))

    # --- leases ---

    async def _renew_forever(self) -> None:
        while True:
            await self._clock.sleep(self._lease / 3)
            await self._renew()

    async def _renew(self) -> bool:
        held = {worker.claim.lease: worker for worker in self._workers.values()}
        try:
            lost = await self._store.renew(list(held))
        except StateError as exc:
            log.warning("pool.leases_not_renewed", error=exc.message)
            return False
        except Exception:
            log.exception("pool.renewal_failed")
            return False
        self._renewed = self._clock.monotonic()
        for lease in lost:
            held[lease].stop(Stop.LOST)
        return True
