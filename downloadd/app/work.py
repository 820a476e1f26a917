"""What works on jobs and answers for them: pool, service, sweeper, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import structlog
from aiohttp import web

from downloadd.app.site import (
    CLOCK,
    DEAD_OWNERS,
    OBJECTS,
    PACE,
    POOL,
    SITE,
    SOURCE,
    SPOOL,
    SPOOL_FOLDER,
    STATE,
    STORAGE_PROBE,
    TRACING,
)
from downloadd.config.sections import Simulation
from downloadd.errors import DownloaddError, SpoolError
from downloadd.jobs.estimate import Lanes
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.pool import Pool
from downloadd.jobs.preflight import Preflight
from downloadd.jobs.probe import Probe
from downloadd.jobs.service import JobService
from downloadd.jobs.sweeper import Sweeper
from downloadd.model import Priority
from downloadd.network.describe import HttpDescriber
from downloadd.objects.sources import Describers, Sources, StoredSource
from downloadd.pipeline import FetchPolicy, FetchServices, FetchSlots, JobRun, RunServices
from downloadd.ports import Claim
from downloadd.web import keys
from downloadd.web.health import Health

log = structlog.get_logger(__name__)

#: Seconds that a new job waits to hear whether the storage is there.
STORAGE_PATIENCE = 0.1


async def probes(app: web.Application) -> AsyncIterator[None]:
    checks = {"storage": app[OBJECTS].check, "redis": app[STATE].check}
    probes = {name: Probe(name, check, app[CLOCK]) for name, check in checks.items()}
    app[STORAGE_PROBE] = probes["storage"]
    app[keys.HEALTH] = Health(probes)
    yield
    for probe in probes.values():
        await probe.close()


async def pace(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    fetch = settings.fetch
    lanes = Lanes(per_job=min(fetch.per_job, fetch.total), per_host=fetch.per_host)
    async with PaceBook(
        app[STATE].pace, app[CLOCK], lanes=lanes, concurrency=settings.jobs.concurrency
    ) as book:
        app[PACE] = book
        yield


async def pool(app: web.Application) -> AsyncIterator[None]:
    settings, state, folder = app[SITE].settings, app[STATE], app[SPOOL_FOLDER]
    pool = Pool(
        store=state.jobs,
        clock=app[CLOCK],
        metrics=app[keys.METRICS],
        book=app[PACE],
        make_run=_run_maker(app),
        concurrency=settings.jobs.concurrency,
        lease=settings.jobs.lease,
        timeout=settings.jobs.timeout,
        keep_failed=settings.jobs.retry_window > 0,
        dead_owners=app[DEAD_OWNERS],
        on_disowned=folder.forget_dead,
        clear=app[SPOOL].clear_kept,
        storage_there=app[STORAGE_PROBE].known,
        on_trouble=partial(_on_trouble, app),
        charge=app[keys.QUOTAS].fetched,
        tracing=app[TRACING],
    )
    state.feed.on_control(wake=pool.wake, cancel=pool.cancel)
    async with pool:
        app[POOL] = pool
        yield
    folder.wanted |= pool.leases_left


def _on_trouble(app: web.Application, error: DownloaddError) -> None:
    """See to what has ended a job: is the storage there, and can the disk be made less full?"""
    if isinstance(error, SpoolError):
        app[SPOOL].evict_all()
    else:
        app[STORAGE_PROBE].doubt()


def _delay(simulation: Simulation) -> tuple[float, float]:
    if not simulation.enabled:
        return 0.0, 0.0
    least, most = simulation.min_ms / 1000, simulation.max_ms / 1000
    log.warning("simulation.on", minSeconds=least, maxSeconds=most)
    return least, most


def _run_maker(app: web.Application) -> Callable[[Claim], JobRun]:
    settings = app[SITE].settings
    services = RunServices(
        fetch=FetchServices(
            reader=Sources(app[SOURCE], StoredSource(app[OBJECTS])),
            clock=app[CLOCK],
            spool=app[SPOOL],
            slots=FetchSlots(settings.fetch.total, settings.fetch.per_host),
            policy=FetchPolicy(
                retries=settings.fetch.retries,
                backoff=settings.fetch.backoff,
                max_file_bytes=settings.jobs.max_file_bytes,
                format_check=settings.fetch.format_check,
                delay=_delay(settings.simulation),
            ),
            metrics=app[keys.METRICS],
            tracing=app[TRACING],
        ),
        objects=app[OBJECTS],
        per_job=settings.fetch.per_job,
        max_job_bytes=settings.jobs.max_job_bytes,
    )
    return lambda claim: JobRun(services, claim.job, claim.checkpoint, namespace=claim.namespace)


async def service(app: web.Application) -> AsyncIterator[None]:
    settings, state = app[SITE].settings, app[STATE]
    app[keys.SERVICE] = service = JobService(
        store=state.jobs,
        objects=app[OBJECTS],
        feed=state.feed,
        clock=app[CLOCK],
        metrics=app[keys.METRICS],
        book=app[PACE],
        queue_limit=settings.jobs.queue_limit,
        dedupe_window=settings.jobs.dedupe_window,
        archive_ttl=settings.storage.archive_ttl,
        priorities={
            role: Priority(highest) for role, highest in settings.limits.priorities.items()
        },
        storage_there=partial(app[STORAGE_PROBE].within, STORAGE_PATIENCE),
    )
    yield
    await service.close()


async def preflight(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    app[keys.PREFLIGHT] = Preflight(
        describer=Describers(HttpDescriber(app[SOURCE]), StoredSource(app[OBJECTS])),
        estimate=app[keys.SERVICE].estimate,
        storage_there=partial(app[STORAGE_PROBE].within, STORAGE_PATIENCE),
        total=settings.fetch.total,
        per_host=settings.fetch.per_host,
        max_file_bytes=settings.jobs.max_file_bytes,
    )
    yield


async def sweeper(app: web.Application) -> AsyncIterator[None]:
    async with Sweeper(
        ledger=app[STATE].ledger,
        objects=app[OBJECTS],
        folders=app[SPOOL],
        clock=app[CLOCK],
    ):
        yield


async def streams(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[keys.STREAMS].sweep(), name="stream-sweeper")
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
