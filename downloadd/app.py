"""The composition root: settings in, a running service out.

One ``cleanup_ctx`` and one typed ``AppKey`` for each long-lived resource. They
begin in the order of ``RESOURCES`` and end in the reverse: what uses another
is gone before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

from aiohttp import web

from downloadd.config import Settings
from downloadd.errors import DownloaddError, SpoolError
from downloadd.jobs.pool import Pool
from downloadd.jobs.probe import Probe
from downloadd.jobs.service import JobService
from downloadd.jobs.sweeper import Sweeper
from downloadd.network.fetch import HttpSource
from downloadd.network.guard import AddressGuard
from downloadd.objects.links import load_secret
from downloadd.objects.local import open_local_store
from downloadd.pipeline import (
    DiskBudget,
    FetchPolicy,
    FetchServices,
    FetchSlots,
    JobRun,
    MemoryBudget,
    RunServices,
    Spool,
)
from downloadd.pipeline.spool_folder import SpoolFolder, spool_folder
from downloadd.ports import Claim, ObjectStore, SystemClock
from downloadd.state.embedded import embedded_valkey
from downloadd.state.setup import State, open_state
from downloadd.telemetry.metrics import Metrics
from downloadd.web import keys
from downloadd.web.health import Health
from downloadd.web.lifecycle import Lifecycle
from downloadd.web.routes import make_application
from downloadd.web.schemas import InitiateReader
from downloadd.web.sse import Streams

#: Bytes of small files that all jobs together may keep in memory.
SPOOL_MEMORY = 64 * 1024 * 1024
#: Threads for hashing, compressing and the temporary disk. Two keep two cores
#: busy; the others wait for the disk.
WORKER_THREADS = 4
#: Seconds that a new job waits to hear whether the storage is there.
STORAGE_PATIENCE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the resources are made from."""

    settings: Settings
    #: Where the server listens.
    host: str
    port: int

    @property
    def base_url(self) -> str:
        """How clients reach the server, without a slash at the end."""
        return self.settings.server.public_url.rstrip("/") or url_of(self.host, self.port)


SITE: web.AppKey[Site] = web.AppKey("site", Site)
CLOCK: web.AppKey[SystemClock] = web.AppKey("clock", SystemClock)
REDIS_URL: web.AppKey[str] = web.AppKey("redis_url", str)
STATE: web.AppKey[State] = web.AppKey("state", State)
OBJECTS: web.AppKey[ObjectStore] = web.AppKey("objects", ObjectStore)
GUARD: web.AppKey[AddressGuard] = web.AppKey("guard", AddressGuard)
SOURCE: web.AppKey[HttpSource] = web.AppKey("source", HttpSource)
SPOOL_FOLDER: web.AppKey[SpoolFolder] = web.AppKey("spool_folder", SpoolFolder)
STORAGE_PROBE: web.AppKey[Probe] = web.AppKey("storage_probe", Probe)
SPOOL: web.AppKey[Spool] = web.AppKey("spool", Spool)
POOL: web.AppKey[Pool] = web.AppKey("pool", Pool)


def create_app(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
) -> web.Application:
    """Put the application together; its resources begin with its start.

    ``host`` and ``port`` are those that the server listens on, where they are
    not the settings' own (port 0). Starting raises ``StateLocked`` and other
    ``StateError``s, ``StorageError``, ``SpoolError``.
    """
    metrics = Metrics()
    app = make_application(
        metrics=metrics,
        cors_origins=settings.server.cors_origins,
        local_files=settings.storage.kind == "local",
    )
    site = Site(
        settings=settings,
        host=settings.server.host if host is None else host,
        port=settings.server.port if port is None else port,
    )
    app[SITE] = site
    app[CLOCK] = SystemClock()
    app[GUARD] = _guard(site)
    app[keys.METRICS] = metrics
    app[keys.LIFECYCLE] = Lifecycle()
    app[keys.STREAMS] = Streams(metrics.active_sse_connections)
    app[keys.INITIATE] = InitiateReader(
        max_files=settings.jobs.max_files,
        check_url=app[GUARD].check_url,
    )
    app.cleanup_ctx.extend(RESOURCES)
    app.on_shutdown.append(_end_streams)
    return app


def url_of(host: str, port: int) -> str:
    """The address of a server that listens on ``host``, as its own machine sees it."""
    with suppress(ValueError):
        address = ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def begin_drain(app: web.Application) -> None:
    """Tell balancers and streams that this process goes away; requests are still answered."""
    app[keys.LIFECYCLE].draining = True
    app[keys.STREAMS].end_all()


async def _end_streams(app: web.Application) -> None:
    begin_drain(app)


def _guard(site: Site) -> AddressGuard:
    network = site.settings.network
    return AddressGuard(
        allow=network.allow,
        deny=network.deny,
        ports=network.ports,
        own=[(site.host, site.port)],
    )


# --- resources, from the ground up --------------------------------------------


async def _redis(app: web.Application) -> AsyncIterator[None]:
    state = app[SITE].settings.state
    if state.redis_url:
        app[REDIS_URL] = state.redis_url
        yield
        return
    async with embedded_valkey(state.data_dir) as url:
        app[REDIS_URL] = url
        yield


async def _spool(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    with (
        spool_folder(settings.state.data_dir / "spool") as folder,
        ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix="spool") as executor,
    ):
        app[SPOOL_FOLDER] = folder
        app[SPOOL] = Spool(
            folder.path,
            executor,
            DiskBudget(settings.jobs.max_disk_bytes),
            MemoryBudget(SPOOL_MEMORY),
            restore=folder.restore,
        )
        yield


async def _state(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    async with open_state(
        app[REDIS_URL],
        owner=app[SPOOL_FOLDER].owner,
        prefix=settings.state.prefix,
        lease=settings.jobs.lease,
        completed_ttl=settings.jobs.completed_ttl,
        failed_ttl=settings.jobs.failed_ttl,
        retry_window=settings.jobs.retry_window,
        archive_ttl=settings.storage.archive_ttl,
        wait_for_fsync=settings.state.wait_for_fsync,
        clock=app[CLOCK],
    ) as state:
        app[STATE] = state
        app[keys.QUEUE_DEPTH] = state.jobs.queue_depth
        yield


async def _objects(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    storage = settings.storage
    if storage.kind == "local":
        async with open_local_store(
            settings.state.data_dir / "archives",
            base_url=app[SITE].base_url,
            secret=load_secret(settings.state.data_dir / "links.key"),
            presign_ttl=storage.presign_ttl,
        ) as local:
            app[OBJECTS] = app[keys.LOCAL_STORE] = local
            yield
        return
    # Here, because botocore takes longer to import than all else that starts.
    from downloadd.objects.s3 import open_s3_store

    async with open_s3_store(
        bucket=storage.bucket,
        endpoint=storage.endpoint,
        public_endpoint=storage.public_endpoint,
        region=storage.region,
        access_key_id=storage.access_key_id,
        secret_access_key=storage.secret_access_key,
        force_path_style=storage.force_path_style,
        presign_ttl=storage.presign_ttl,
        create_bucket=storage.create_bucket,
    ) as s3:
        app[OBJECTS] = s3
        yield


async def _source(app: web.Application) -> AsyncIterator[None]:
    fetch = app[SITE].settings.fetch
    async with HttpSource.open_session(
        app[GUARD],
        connect_timeout=fetch.connect_timeout,
        stall_timeout=fetch.stall_timeout,
        max_redirects=fetch.max_redirects,
    ) as source:
        app[SOURCE] = source
        yield


async def _probes(app: web.Application) -> AsyncIterator[None]:
    checks = {"storage": app[OBJECTS].check, "redis": app[STATE].check}
    probes = {name: Probe(name, check, app[CLOCK]) for name, check in checks.items()}
    app[STORAGE_PROBE] = probes["storage"]
    app[keys.HEALTH] = Health(probes)
    yield
    for probe in probes.values():
        await probe.close()


async def _pool(app: web.Application) -> AsyncIterator[None]:
    settings, state, folder = app[SITE].settings, app[STATE], app[SPOOL_FOLDER]
    pool = Pool(
        store=state.jobs,
        clock=app[CLOCK],
        metrics=app[keys.METRICS],
        make_run=_run_maker(app),
        concurrency=settings.jobs.concurrency,
        lease=settings.jobs.lease,
        timeout=settings.jobs.timeout,
        keep_failed=settings.jobs.retry_window > 0,
        dead_owners=folder.dead,
        on_disowned=folder.forget_dead,
        clear=app[SPOOL].clear_kept,
        storage_there=app[STORAGE_PROBE].known,
        on_trouble=partial(_on_trouble, app),
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


def _run_maker(app: web.Application) -> Callable[[Claim], JobRun]:
    settings = app[SITE].settings
    services = RunServices(
        fetch=FetchServices(
            reader=app[SOURCE],
            clock=app[CLOCK],
            spool=app[SPOOL],
            slots=FetchSlots(settings.fetch.total, settings.fetch.per_host),
            policy=FetchPolicy(
                retries=settings.fetch.retries,
                backoff=settings.fetch.backoff,
                max_file_bytes=settings.jobs.max_file_bytes,
                format_check=settings.fetch.format_check,
            ),
            metrics=app[keys.METRICS],
        ),
        objects=app[OBJECTS],
        per_job=settings.fetch.per_job,
        max_job_bytes=settings.jobs.max_job_bytes,
    )
    return lambda claim: JobRun(services, claim.job, claim.checkpoint, namespace=claim.namespace)


async def _service(app: web.Application) -> AsyncIterator[None]:
    settings, state = app[SITE].settings, app[STATE]
    app[keys.SERVICE] = service = JobService(
        store=state.jobs,
        objects=app[OBJECTS],
        feed=state.feed,
        clock=app[CLOCK],
        queue_limit=settings.jobs.queue_limit,
        dedupe_window=settings.jobs.dedupe_window,
        archive_ttl=settings.storage.archive_ttl,
        storage_there=partial(app[STORAGE_PROBE].within, STORAGE_PATIENCE),
    )
    yield
    await service.close()


async def _sweeper(app: web.Application) -> AsyncIterator[None]:
    async with Sweeper(
        ledger=app[STATE].ledger,
        objects=app[OBJECTS],
        folders=app[SPOOL],
        clock=app[CLOCK],
    ):
        yield


async def _streams(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[keys.STREAMS].sweep(), name="stream-sweeper")
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


RESOURCES: Sequence[Callable[[web.Application], AsyncIterator[None]]] = (
    _redis,
    _spool,
    _state,
    _objects,
    _source,
    _probes,
    _pool,
    _sweeper,
    _service,
    _streams,
)
