"""Jobs that meet trouble: put back, failed and retried, poison, cancelled by nobody's worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from downloadd.access.caller import ANONYMOUS
from downloadd.errors import SpoolError, StorageRefused, StorageUnavailable
from downloadd.jobs.service import JobService
from downloadd.model import Event, EventType, Job, JobStatus
from downloadd.ports import ObjectMeta, SystemClock
from downloadd.telemetry.metrics import Metrics
from tests.e2e.archives import digests
from tests.e2e.service import eventually
from tests.integration.jobs.conftest import Rig, Worker, archive
from tests.origin import sha256
from tests.valkey import Valkey, valkey_server

MIB = 1 << 20


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server that remembers nothing when it is started again."""
    with valkey_server() as server:
        yield server


def failing(rig: Rig, call: str, error: Exception, times: int = 1000) -> list[float]:
    """Let a call to the storage fail so often; returns when it did."""
    moments: list[float] = []

    async def fail() -> None:
        if len(moments) < times:
            moments.append(time.monotonic())
            raise error

    rig.objects.after[call] = fail
    return moments


def retries(worker: Worker) -> float:
    return worker.pool._metrics.download_retries.labels("job")._value.get()


async def there() -> bool:
    return True


def service(rig: Rig, worker: Worker) -> JobService:
    objects: Any = rig.objects
    return JobService(
        store=worker.state.jobs,
        objects=objects,
        feed=worker.state.feed,
        clock=SystemClock(),
        metrics=Metrics(),
        book=worker.pool._book,
        queue_limit=100,
        dedupe_window=0,
        archive_ttl=86400,
        storage_there=there,
    )


@pytest.mark.parametrize("error", [StorageUnavailable("Away."), SpoolError("The disk is full.")])
async def test_passing_trouble_puts_a_job_back(
    local: Rig, error: Exception, tmp_path: Path
) -> None:
    """It is tried again after a pause, and completes when the trouble is over."""
    local.pauses = (0.2, 0.4, 0.8)
    moments = failing(local, "upload_part", error, times=2)
    async with local.pool() as worker:
        job = await worker.ended(await worker.make([local.origin.url(seed=1, size=20 * MIB)]))
        await worker.idle()
        assert worker.holds_nothing()
        assert retries(worker) == job.attempts - 1 >= 1
    assert 1 <= len(moments) <= 2  # a part that was stored is not sent again
    assert list(digests(await archive(local, job, tmp_path)).values()) == [sha256(1, 20 * MIB)]
    assert await local.storage.parts() == {}


async def test_trouble_that_lasts_fails_a_job(local: Rig) -> None:
    """After the last pause it fails, saying how often it was tried; nothing is left of it."""
    local.pauses = (0.05, 0.1, 0.2)
    failing(local, "put", StorageUnavailable("The storage is away."))
    async with local.pool() as worker:
        job = await worker.ended(await worker.make([local.origin.url(size=5000)]))
        assert (job.status, job.error_code) == (JobStatus.FAILED, "storage_unavailable")
        assert job.error is not None
        assert "away. The job was tried again 3 times" in job.error
        assert (job.attempts, retries(worker)) == (4, 3)
        await worker.idle()
        assert worker.holds_nothing()
    assert await local.storage.objects() == []


async def test_a_refusal_is_final(local: Rig) -> None:
    """What trying again cannot mend fails at once."""
    local.pauses = (0.1,)
    failing(local, "put", StorageRefused("No."))
    async with local.pool() as worker:
        job = await worker.ended(await worker.make([local.origin.url(size=5000)]))
        assert (job.error_code, job.attempts) == ("storage_refused", 1)


async def test_a_retry_fetches_what_failed(rig: Rig, tmp_path: Path) -> None:
    """A failed job's upload is kept, and a retry goes on with it."""
    rig.retry_window = 60.0
    origin = rig.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(4)]
    urls.append(origin.url(seed=9, size=MIB, status=404, times=1, delay=3))
    async with rig.pool() as worker:
        jobs = service(rig, worker)
        job_id = await worker.make(urls)
        job = await worker.ended(job_id)
        await worker.idle()
        assert (job.status, job.error_code) == (JobStatus.FAILED, "source_refused")
        assert list((await rig.storage.parts()).values()) == [[1, 2]]
        watching = asyncio.create_task(_events(jobs, job))
        assert (await watching)[-1].type is EventType.FAILED
        queued = await jobs.retry(job_id, ANONYMOUS)
        assert queued.status is JobStatus.QUEUED
        told = await _events(jobs, queued)
        assert [event.type for event in told if event.type.terminal] == [EventType.COMPLETE]
        job = await worker.ended(job_id)
        await worker.idle()
        assert worker.holds_nothing()
    found = digests(await archive(rig, job, tmp_path))
    expected = [*(sha256(n, 10 * MIB) for n in range(4)), sha256(9, MIB)]
    assert sorted(found.values()) == sorted(expected)
    assert sum(origin.hits[f"/file/{n}/{10 * MIB}"] for n in range(4)) <= 6
    assert await rig.storage.parts() == {}


async def _events(jobs: JobService, job: Job, seen: list[Event] | None = None) -> list[Event]:
    """All events from the beginning, as somebody resumes who has seen none; also in ``seen``."""
    told = [] if seen is None else seen
    stream: AsyncGenerator[Event] = jobs.watch(job, "0-0")
    async with asyncio.timeout(20), aclosing(stream) as events:
        async for event in events:
            told.append(event)
    return told


async def test_poison_ends_and_the_others_go_on(local: Rig) -> None:
    """A job that has taken three processes with it is not run; its upload is gone."""
    async with local.pool() as worker:
        await worker.pool.drain(0)
        state = worker.state
        poison = await worker.make([local.origin.url(size=MIB)])
        for _ in range(3):
            await state.jobs.claim(1)
            await state.client.execute("ZADD", state.keys.active, 0, poison)
        await state.jobs.claim(1)
        key, upload = (
            f"{poison}.zip",
            await local.objects.begin(f"{poison}.zip", ObjectMeta(file_name="a.zip")),
        )
        text = (
            f'{{"version":3,"key":"{key}","uploadId":"{upload}","entries":[],"parts":[],'
            '"sealed":false,"validators":[],"sha256":null}'
        )
        await state.client.execute("SET", state.keys.checkpoint(poison), text)
        await state.client.execute("HDEL", state.keys.job(poison), "token")
        await state.client.execute("ZADD", state.keys.active, 0, poison)
        hits = local.origin.hits.total()
        assert list(await local.storage.parts()) == [upload]
        good = await worker.make([local.origin.url(seed=5)])
        async with local.pool(concurrency=1) as other:
            job = await other.ended(poison)
            assert (job.status, job.error_code) == (JobStatus.FAILED, "poison_job")
            assert (await other.ended(good)).status is JobStatus.COMPLETED
    assert local.origin.hits.total() == hits + 1
    assert await local.storage.parts() == {}


async def test_a_job_without_a_worker_is_cancelled(rig: Rig) -> None:
    """Its upload and its temporary folder are gone within a second all the same."""
    rig.pauses = (60.0,)
    origin = rig.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(3)]
    failing(rig, "upload_part", StorageUnavailable("Away."))
    async with rig.pool() as worker:
        job_id = await worker.make(urls)
        await eventually(rig.storage.parts)
        await worker.idle()
        assert (await worker.state.jobs.load(job_id)).status is JobStatus.PROCESSING
        assert await rig.storage.parts() != {}
        kept = worker.folder / job_id
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "0").write_bytes(b"kept")
        worker.spool.path(job_id, 0)
        jobs, begun = service(rig, worker), time.monotonic()
        await jobs.cancel(job_id, ANONYMOUS)
        await eventually(lambda: not kept.exists())
        await jobs.close()
        assert time.monotonic() - begun < 3
        assert await rig.storage.parts() == {}


@pytest.mark.parametrize("how", ["flushed", "restarted"])
async def test_a_redis_that_forgets(local: Rig, own_valkey: Valkey, how: str) -> None:
    """Running jobs end, what they made is gone, and whoever watches one is told why."""
    local.valkey, local.lease = own_valkey, 1.5
    origin = local.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(3)]
    async with local.pool() as worker:
        job_id = await worker.make([*urls, origin.url(seed=9, size=60 * MIB, rate=MIB)])
        await eventually(local.storage.parts)
        job = await worker.state.jobs.load(job_id)
        seen: list[Event] = []
        watching = asyncio.create_task(_events(service(local, worker), job, seen))
        await eventually(lambda: seen)
        if how == "flushed":
            own_valkey.call("FLUSHALL")
        else:
            own_valkey.kill()
            own_valkey.start()
        told = await watching
        assert told[-1].type is EventType.FAILED
        assert told[-1].data["errorCode"] == "state_lost"
        assert "again" in told[-1].data["error"]
        await worker.idle()
        assert worker.holds_nothing()
        assert await local.storage.parts() == {}
        again = await worker.ended(await worker.make([origin.url(seed=2)]))
        assert again.status is JobStatus.COMPLETED
        assert worker.pool._metrics.downloads.labels("failed")._value.get() == 1


async def test_the_queue_waits_for_the_storage(local: Rig) -> None:
    """While it is away no new job is begun; what was begun goes on; then all does by itself."""
    away = True
    async with local.pool() as first:
        await first.pool.drain(0)
        begun = await first.make([local.origin.url(seed=1)])
        (claim,) = await first.state.jobs.claim(1)
        await first.state.jobs.release(claim.lease)
        new = await first.make([local.origin.url(seed=2)])
        async with local.pool(storage_there=lambda: not away) as worker:
            assert (await worker.ended(begun)).status is JobStatus.COMPLETED
            await asyncio.sleep(1.5)
            assert (await worker.state.jobs.load(new)).status is JobStatus.QUEUED
            away = False
            assert (await worker.ended(new)).status is JobStatus.COMPLETED


async def test_the_dead_are_disowned_when_redis_is_there(local: Rig, own_valkey: Valkey) -> None:
    """A pool that starts without Redis says who is dead as soon as it can."""
    local.valkey = own_valkey
    told: list[bool] = []
    async with local.pool() as first:
        await first.pool.drain(0)
        job_id = await first.make([local.origin.url(seed=1)])
        (claim,) = await first.state.jobs.claim(1)
        owner = claim.lease.token.partition(":")[0]
        own_valkey.call("CONFIG", "SET", "maxmemory", "1")
        async with local.pool(dead_owners=[owner], on_disowned=lambda: told.append(True)) as worker:
            await asyncio.sleep(1.5)
            assert worker.pool.active == 0
            own_valkey.call("CONFIG", "SET", "maxmemory", "0")
            assert (await worker.ended(job_id)).status is JobStatus.COMPLETED
    assert told == [True]
