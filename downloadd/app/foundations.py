"""What jobs stand on: state, temporary disk, object storage, sources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from downloadd import __version__
from downloadd.app import access
from downloadd.app.site import (
    CLOCK,
    DEAD_OWNERS,
    GUARD,
    OBJECTS,
    REDIS_URL,
    SECRET,
    SITE,
    SOURCE,
    SPOOL,
    SPOOL_FOLDER,
    STATE,
    TRACING,
)
from downloadd.network.fetch import HttpSource
from downloadd.objects.links import load_secret
from downloadd.objects.local import open_local_store
from downloadd.pipeline import DiskBudget, MemoryBudget, Spool
from downloadd.pipeline.spool_folder import spool_folder
from downloadd.state.embedded import embedded_valkey
from downloadd.state.limits import open_limits
from downloadd.state.setup import open_state
from downloadd.web import keys
from downloadd.web.health import Disk
from downloadd.web.requests import EVENT_TOKENS

#: Bytes of small files that all jobs together may keep in memory.
SPOOL_MEMORY = 64 * 1024 * 1024
#: Threads for hashing, compressing and the temporary disk. Two keep two cores
#: busy; the others wait for the disk.
WORKER_THREADS = 4


async def tracing(app: web.Application) -> AsyncIterator[None]:
    """What ends last: the others' last spans are to be sent."""
    yield
    await asyncio.to_thread(app[TRACING].close)


async def redis(app: web.Application) -> AsyncIterator[None]:
    state = app[SITE].settings.state
    if state.redis_url:
        app[REDIS_URL] = state.redis_url
        yield
        return
    async with embedded_valkey(state.data_dir) as url:
        app[REDIS_URL] = url
        yield


async def spool(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    with (
        spool_folder(settings.state.data_dir / "spool") as folder,
        ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix="spool") as executor,
    ):
        app[SPOOL_FOLDER] = folder
        app[DEAD_OWNERS] = folder.dead
        app[SPOOL] = Spool(
            folder.path,
            executor,
            DiskBudget(settings.jobs.max_disk_bytes),
            MemoryBudget(SPOOL_MEMORY),
            restore=folder.restore,
        )
        yield


async def meters(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    app[keys.METRICS].describe(
        version=__version__,
        workers=settings.jobs.concurrency,
        queue_limit=settings.jobs.queue_limit,
        spool_limit=settings.jobs.max_disk_bytes,
        spool=lambda: app[SPOOL].disk.used,
    )
    app[keys.DISK] = Disk(settings.state.data_dir)
    yield


async def secret(app: web.Application) -> AsyncIterator[None]:
    settings = app[SITE].settings
    app[SECRET] = key = access.secret_key(settings)
    if key is not None and settings.auth.mode != "none":
        app[EVENT_TOKENS] = access.event_tokens(settings, key)
    yield


async def state(app: web.Application) -> AsyncIterator[None]:
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
        secret=app[SECRET],
    ) as state:
        app[STATE] = state
        app[keys.QUEUE_DEPTH] = state.jobs.queue_depth
        yield


async def limits(app: web.Application) -> AsyncIterator[None]:
    # Nobody shares the embedded one.
    alone = not app[SITE].settings.state.redis_url
    async with open_limits(app[REDIS_URL], app[STATE].keys, alone=alone) as limits:
        app[keys.LIMITER] = limits
        app[keys.QUOTAS] = access.quotas(app[SITE].settings.limits, limits)
        yield


async def objects(app: web.Application) -> AsyncIterator[None]:
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
    # Here, because botocore takes long to import.
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
        metrics=app[keys.METRICS],
    ) as s3:
        app[OBJECTS] = s3
        yield


async def source(app: web.Application) -> AsyncIterator[None]:
    fetch = app[SITE].settings.fetch
    async with HttpSource.open_session(
        app[GUARD],
        connect_timeout=fetch.connect_timeout,
        stall_timeout=fetch.stall_timeout,
        max_redirects=fetch.max_redirects,
        tracing=app[TRACING],
    ) as source:
        app[SOURCE] = source
        yield
