"""A cancellation that comes while a job changes hands."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from downloadd.errors import StorageUnavailable
from downloadd.model import JobStatus
from downloadd.pipeline import JobRun
from tests.e2e.service import eventually
from tests.integration.jobs.conftest import Rig
from tests.integration.jobs.test_trouble import MIB, failing


async def test_cancelled_while_its_files_are_being_kept(
    local: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is put back, its worker has not yet closed: the files go, not at the next sweep."""
    local.pauses = (60.0,)
    closing, go_on = asyncio.Event(), asyncio.Event()
    close = JobRun.close

    async def slow(run: JobRun, **options: Any) -> None:
        closing.set()
        await go_on.wait()
        await close(run, **options)

    monkeypatch.setattr(JobRun, "close", slow)
    failing(local, "upload_part", StorageUnavailable("Away."))
    heard = asyncio.Event()

    async with local.pool() as worker:

        def cancel(job_id: str) -> None:
            worker.pool.cancel(job_id)
            heard.set()

        worker.state.feed.on_control(wake=worker.pool.wake, cancel=cancel)
        job_id = await worker.make([local.origin.url(seed=n, size=10 * MIB) for n in range(3)])
        async with asyncio.timeout(10):
            await closing.wait()
        await worker.state.jobs.cancel(job_id, time.time())
        async with asyncio.timeout(10):
            await heard.wait()
        go_on.set()
        await worker.idle()
        await eventually(worker.holds_nothing)
        assert worker.spool.kept_jobs() == []


async def test_a_cancellation_heard_late_does_not_hold_up_the_retry(local: Rig) -> None:
    """The message concerns the claim before: the job goes on at once, not after the lease."""
    async with local.pool() as worker:
        url = local.origin.url(seed=1, size=4 * MIB, rate=2 * MIB)
        job_id = await worker.make([url])
        await eventually(lambda: worker.pool.active)
        begun = time.monotonic()
        worker.pool.cancel(job_id)
        job = await worker.ended(job_id)
        assert job.status is JobStatus.COMPLETED
        assert time.monotonic() - begun < 10
