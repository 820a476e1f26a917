"""The pool over a real Valkey: bounded, fenced, and at an end without losing a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from downloadd.model import JobStatus
from tests.e2e.archives import digests
from tests.e2e.service import eventually
from tests.integration.jobs.conftest import Rig, archive
from tests.origin import sha256
from tests.valkey import Valkey, valkey_server

MIB = 1 << 20


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server that the test may kill; what it was told is on its disk."""
    with valkey_server(durable=True) as server:
        yield server


async def test_no_more_jobs_than_allowed(local: Rig) -> None:
    """Of many queued jobs only so many run at once, and all are done."""
    origin, most = local.origin, 0
    async with local.pool(concurrency=3) as worker:
        jobs = [await worker.make([origin.url(seed=n, delay=0.1)]) for n in range(12)]
        ending = asyncio.gather(*map(worker.ended, jobs))
        while not ending.done():
            most = max(most, worker.pool.active)
            await asyncio.sleep(0.005)
        ended = await ending
        await worker.idle()
        assert worker.holds_nothing()
    assert most == 3
    assert {job.status for job in ended} == {JobStatus.COMPLETED}
    assert {job.attempts for job in ended} == {1}


async def test_a_cancel_reaches_another_process(local: Rig) -> None:
    """A job is cancelled through one process and stops within a second in the one that runs it."""
    async with local.pool() as worker, local.state() as elsewhere:
        job_id = await worker.make([local.origin.url(size=50 * MIB, rate=MIB)])
        await eventually(worker.spooled)
        await elsewhere.jobs.cancel(job_id, time.time())
        begun = time.monotonic()
        await worker.idle()
        assert time.monotonic() - begun < 3
        assert worker.holds_nothing()
        await eventually(lambda: local.origin.open_connections == 0)


async def test_a_drained_pool_gives_its_jobs_away(rig: Rig, tmp_path: Path) -> None:
    """What a stopped process has stored, the next one goes on from, at once."""
    origin = rig.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(4)]
    urls.append(origin.url(seed=9, size=2 * MIB, stall_after=MIB, times=1))
    async with rig.pool() as first, rig.pool(concurrency=1) as second:
        await second.pool.drain(0)  # it only lends its connection, to look
        job_id = await first.make(urls)

        async def stored() -> bool:
            return list((await rig.storage.parts()).values()) == [[1, 2]]

        await eventually(stored)
        await eventually(lambda: sum(first.spooled().values()) < 10 * MIB)
        begun = time.monotonic()
        await first.pool.drain(0.1)
        assert first.pool.active == 0
        assert first.spool.kept_jobs() == [job_id]
        assert first.spool.disk.used == sum(first.spooled().values())
        job = await second.state.jobs.load(job_id)
        assert job.status is JobStatus.PROCESSING
        async with rig.pool() as third:
            job = await third.ended(job_id)
            assert time.monotonic() - begun < 10, "no lease was waited for"
            await third.idle()
            assert third.holds_nothing()
    assert job.attempts == 2
    found = digests(await archive(rig, job, tmp_path))
    assert list(found.values()) == [
        *(sha256(n, 10 * MIB) for n in range(4)),
        sha256(9, 2 * MIB),
    ]
    # Two parts are 32 MiB: three whole files, and most of the fourth.
    assert sorted(origin.hits[f"/file/{n}/{10 * MIB}"] for n in range(4)) == [1, 1, 1, 2]
    assert await rig.storage.parts() == {}


async def test_a_lapsed_lease_is_taken_over_once(rig: Rig, tmp_path: Path) -> None:
    """A worker that was away for too long can neither write nor remove what its successor makes."""
    rig.lease = 1.0
    origin = rig.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(4)]
    urls.append(origin.url(seed=9, size=3 * MIB, rate=MIB))
    async with rig.pool() as first:
        job_id = await first.make(urls)
        await eventually(rig.storage.parts)
        # It neither renews nor claims, as if it were suspended, but works on.
        first.pool._draining = True
        renewer = first.pool._renewer
        assert renewer is not None
        renewer.cancel()
        async with rig.pool() as second:
            await eventually(lambda: second.pool.active == 1, what="the job is taken over")
            await first.idle()
            assert first.holds_nothing()
            job = await second.state.jobs.load(job_id)
            assert job.status is JobStatus.PROCESSING, "the first wrote no end"
            job = await second.ended(job_id)
            await second.idle()
            assert second.holds_nothing()
    assert job.attempts == 2
    found = digests(await archive(rig, job, tmp_path))
    assert list(found.values()) == [
        *(sha256(n, 10 * MIB) for n in range(4)),
        sha256(9, 3 * MIB),
    ]
    assert await rig.storage.objects() == [f"{job_id}.zip"]
    assert await rig.storage.parts() == {}


async def test_a_job_outlives_its_redis(local: Rig, own_valkey: Valkey, tmp_path: Path) -> None:
    """While Valkey is away a job goes on as far as it can, past its lease too, and ends well."""
    local.valkey, local.lease = own_valkey, 2.0
    urls = [local.origin.url(seed=n, size=10 * MIB) for n in range(4)]
    urls.append(local.origin.url(seed=9, size=MIB, rate=MIB // 2))
    async with local.pool() as worker:
        job_id = await worker.make(urls)
        await eventually(local.storage.parts)
        own_valkey.kill()
        await asyncio.sleep(2.5)
        own_valkey.start()
        job = await worker.ended(job_id)
        await worker.idle()
        assert worker.holds_nothing()
    assert job.attempts == 1
    assert len(digests(await archive(local, job, tmp_path))) == 5


async def test_a_job_claimed_twice_by_one_process_runs_once(local: Rig, tmp_path: Path) -> None:
    """A pool that claims its own job again lets the first worker end before the second begins."""
    urls = [local.origin.url(seed=n, size=10 * MIB) for n in range(4)]
    urls.append(local.origin.url(seed=9, size=3 * MIB, rate=MIB))
    async with local.pool() as worker:
        job_id = await worker.make(urls)
        await eventually(local.storage.parts)
        # As after a second in which the whole machine slept.
        await worker.state.client.execute("ZADD", worker.state.keys.active, "0", job_id)
        job = await worker.ended(job_id)
        await worker.idle()
        assert worker.holds_nothing()
    assert job.attempts == 2
    found = digests(await archive(local, job, tmp_path))
    assert list(found.values()) == [
        *(sha256(n, 10 * MIB) for n in range(4)),
        sha256(9, 3 * MIB),
    ]
    assert await local.storage.parts() == {}


@pytest.mark.parametrize("damage", ["{", '{"version": 1}', "[]"])
async def test_a_damaged_job_holds_nobody_up(local: Rig, damage: str) -> None:
    """A checkpoint that cannot be read fails its job; the pool goes on with others."""
    async with local.state() as state, local.pool(concurrency=1) as worker:
        await worker.pool.drain(0)
        bad = await worker.make([local.origin.url()])
        await state.client.execute("SET", state.keys.checkpoint(bad), damage)
        async with local.pool(concurrency=1) as other:
            good = await other.make([local.origin.url(seed=2)])
            assert (await other.ended(good)).status is JobStatus.COMPLETED
            assert (await other.ended(bad)).status.ended


async def test_a_stop_does_not_wait_for_a_redis_that_is_away(
    local: Rig, own_valkey: Valkey
) -> None:
    """A job whose end cannot be written does not keep the process from ending."""
    local.valkey = own_valkey

    async def gone() -> None:
        own_valkey.kill()

    local.objects.after["put"] = gone
    async with local.pool() as worker:
        await worker.make([local.origin.url()])
        await eventually(lambda: worker.pool.active == 1)
        await asyncio.sleep(1)
        async with asyncio.timeout(15):
            await worker.pool.drain(0)
        assert worker.pool.leases_left
