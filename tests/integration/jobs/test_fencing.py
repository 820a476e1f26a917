"""Workers that lost their jobs without hearing of it: what is another's now stays as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from downloadd.errors import StateUnavailable, StorageCorrupt, StorageUnavailable
from downloadd.jobs.stops import Stop
from downloadd.model import JobStatus
from tests.e2e.archives import digests
from tests.e2e.service import eventually
from tests.integration.jobs.conftest import Rig, Worker, archive
from tests.origin import sha256

MIB = 1 << 20


def cut_off(worker: Worker) -> None:
    """From now on the process does not reach Redis."""

    async def away(*_: object, **__: object) -> None:
        raise StateUnavailable("The test has cut the line.")

    worker.state.client.execute = away  # type: ignore[method-assign]
    worker.state.client.run = away  # type: ignore[method-assign]
    worker.pool._draining = True


def let_go(worker: Worker) -> None:
    """As its process ends: it waits for Redis no more."""
    for it in worker.pool._workers.values():
        it.stop(Stop.SHUTDOWN)


@pytest.mark.parametrize("how", ["timeout", "storage"])
async def test_who_lost_a_job_removes_nothing_of_it(rig: Rig, how: str) -> None:
    """A worker without Redis that fails at the end leaves the archive its successor completed."""
    rig.lease = 1.0
    completed, released = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        if completed.is_set():
            return
        completed.set()
        await released.wait()
        raise StorageUnavailable("The answer was lost.")

    rig.objects.after["complete"] = hold
    async with rig.pool(timeout=4 if how == "timeout" else 60) as first:
        job_id = await first.make([rig.origin.url(size=20 * MIB)])
        await asyncio.wait_for(completed.wait(), 20)
        cut_off(first)
        async with rig.pool() as second:
            job = await second.ended(job_id)
            assert (job.status, job.attempts) == (JobStatus.COMPLETED, 2)
            assert job.archive is not None
            if how == "storage":
                released.set()
            # It has nothing left to work on, and waits to be told whether it may clean up.
            (worker,) = first.pool._workers.values()
            await eventually(lambda: worker._ending)
            let_go(first)
            await first.idle()
            assert await rig.storage.objects() == [job.archive.key.rpartition("/")[2]]


async def test_who_lost_a_job_does_not_stop_its_upload(rig: Rig) -> None:
    """A worker without Redis that runs out of time does not abort what its successor uploads."""
    rig.lease = 1.0
    origin = rig.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(4)]
    urls.append(origin.url(seed=9, size=12 * MIB, rate=2 * MIB))
    async with rig.pool(timeout=4) as first:
        job_id = await first.make(urls)

        async def stored() -> bool:
            return any((await rig.storage.parts()).values())

        await eventually(stored)
        cut_off(first)
        async with rig.pool() as second:
            job = await second.ended(job_id)
            let_go(first)
            await first.idle()
            assert (job.status, job.attempts) == (JobStatus.COMPLETED, 2), job.error
    assert await rig.storage.parts() == {}


async def test_an_upload_that_goes_missing_is_begun_anew(rig: Rig, tmp_path: Path) -> None:
    """Somebody tidied the bucket: the job goes on with another upload."""
    origin = rig.origin
    urls = [origin.url(seed=n, size=10 * MIB) for n in range(3)]
    urls.append(origin.url(seed=9, size=12 * MIB, rate=6 * MIB))
    async with rig.pool() as worker:
        job_id = await worker.make(urls)
        (upload_id,) = await eventually(rig.storage.parts)

        async def uploads() -> list[Any]:
            return [it async for it in rig.objects.find_uploads("")]

        # Its folder is there a moment before it says whose it is.
        (found,) = await eventually(uploads)
        await rig.objects.abort(found.key, upload_id)
        job = await worker.ended(job_id)
        assert job.status is JobStatus.COMPLETED, job.error
        await worker.idle()
        assert worker.holds_nothing()
    found = digests(await archive(rig, job, tmp_path))
    assert sorted(found.values()) == sorted(
        [*(sha256(n, 10 * MIB) for n in range(3)), sha256(9, 12 * MIB)]
    )
    assert await rig.storage.parts() == {}


async def test_parts_that_are_not_what_was_sent_are_sent_anew(rig: Rig, tmp_path: Path) -> None:
    """As when a late worker's part has replaced one: the archive is made once more, whole."""
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageCorrupt("S3 does not have part 1 as it was sent.")

    rig.objects.after["complete"] = once
    async with rig.pool() as worker:
        job = await worker.ended(await worker.make([rig.origin.url(seed=1, size=20 * MIB)]))
        assert (job.status, calls) == (JobStatus.COMPLETED, 2), job.error
        await worker.idle()
        assert worker.holds_nothing()
    assert job.archive is not None
    assert list(digests(await archive(rig, job, tmp_path)).values()) == [sha256(1, 20 * MIB)]
    assert await rig.storage.objects() == [job.archive.key.rpartition("/")[2]]
    assert await rig.storage.parts() == {}
