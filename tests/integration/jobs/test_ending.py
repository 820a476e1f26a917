"""Jobs that end before they are done, at the worst moments, leave nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from downloadd.errors import StateUnavailable, StorageUnavailable
from downloadd.model import JobStatus
from tests.integration.jobs.conftest import Rig, Worker

MIB = 1 << 20
#: One that is put in one request, and one that is uploaded in two parts.
SMALL, LARGE = 5000, 20 * MIB


class Moment:
    """A call to the storage that has done its work, and takes its time to say so."""

    def __init__(self, rig: Rig, call: str) -> None:
        self.reached = asyncio.Event()
        #: Without the answer nobody knows the id of what was begun.
        self._seconds = 1.2 if call == "begin" else 60
        rig.objects.after[call] = self._hold

    async def _hold(self) -> None:
        self.reached.set()
        await asyncio.sleep(self._seconds)


MOMENTS = [("put", SMALL), ("begin", LARGE), ("upload_part", LARGE), ("complete", LARGE)]


async def assert_nothing_left(rig: Rig, worker: Worker) -> None:
    await worker.idle()
    assert worker.holds_nothing()
    assert await rig.storage.objects() == []
    assert await rig.storage.parts() == {}


@pytest.mark.parametrize(("call", "size"), MOMENTS)
async def test_a_cancelled_job_leaves_nothing(rig: Rig, call: str, size: int) -> None:
    """Whatever the storage was just asked for, a cancelled job's archive is not in it."""
    moment = Moment(rig, call)
    async with rig.pool() as worker:
        job_id = await worker.make([rig.origin.url(size=size)])
        async with asyncio.timeout(20):
            await moment.reached.wait()
        await asyncio.sleep(0.5 if call == "begin" else 0)
        await worker.state.jobs.cancel(job_id, 1.0)
        await assert_nothing_left(rig, worker)
        assert (await worker.ended(job_id)).status is JobStatus.CANCELLED


async def test_what_an_ending_job_holds_is_not_given_twice(local: Rig) -> None:
    """However slow the storage is to forget a cancelled job, its disk is another's only then."""
    local.disk, most = 64 * MIB, 0
    aborting = asyncio.Event()

    async def slow() -> None:
        aborting.set()
        await asyncio.sleep(1)

    local.objects.after["abort"] = slow
    stuck = local.origin.url(seed=2, size=40 * MIB, stall_after=39 * MIB)
    async with local.pool() as worker:
        first = await worker.make([local.origin.url(size=20 * MIB), stuck])
        async with asyncio.timeout(20):
            while worker.spool.disk.used < 40 * MIB or not await local.storage.parts():
                await asyncio.sleep(0.02)
        second = await worker.make([local.origin.url(seed=3, size=60 * MIB)])
        async with asyncio.timeout(20):
            while not local.origin.sent[f"/file/3/{60 * MIB}"]:  # it waits for disk from here on
                await asyncio.sleep(0.02)
        await worker.state.jobs.cancel(first, 1.0)
        async with asyncio.timeout(20):
            await aborting.wait()
        while not (job := await worker.state.jobs.load(second)).status.ended:
            most = max(most, worker.spool.disk.used)
            await asyncio.sleep(0.02)
        assert job.status is JobStatus.COMPLETED
        assert 60 * MIB <= most <= 64 * MIB, f"{most / MIB:.1f} MiB"
        del local.objects.after["abort"]
        await worker.idle()
        assert worker.holds_nothing()


async def test_an_end_whose_answer_is_lost(
    local: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written is counted and told once, though nobody heard that it was."""
    async with local.pool() as worker:
        finish, lost = worker.state.jobs.finish, []

        async def deaf(*args: Any, **known: Any) -> None:
            await finish(*args, **known)
            if not lost:
                lost.append(1)
                raise StateUnavailable("The answer is lost.")

        monkeypatch.setattr(worker.state.jobs, "finish", deaf)
        job_id = await worker.make([local.origin.url(size=SMALL)])
        assert (await worker.ended(job_id)).status is JobStatus.COMPLETED
        await worker.idle()
        ended = worker.metrics.downloads.labels("completed")._value.get()
    assert (lost, ended) == ([1], 1)
    assert capsys.readouterr().out.count("job.completed") == 1


async def test_a_job_that_is_forgotten_at_its_end(
    local: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Redis lost it just before its end was written: it is told as lost, and leaves nothing."""
    async with local.pool() as worker:
        finish, keys = worker.state.jobs.finish, worker.state.keys

        async def late(lease: Any, *args: Any, **known: Any) -> None:
            await worker.state.client.execute("DEL", keys.job(lease.job_id))
            await finish(lease, *args, **known)

        monkeypatch.setattr(worker.state.jobs, "finish", late)
        await worker.make([local.origin.url(size=SMALL)])
        async with asyncio.timeout(20):
            while not (ended := worker.metrics.downloads.labels("failed")._value.get()):
                await asyncio.sleep(0.02)
        await assert_nothing_left(local, worker)
    assert ended == 1
    told = capsys.readouterr().out
    assert "job.state_lost" in told
    assert "crashed" not in told


@pytest.mark.parametrize(("call", "size"), MOMENTS)
async def test_a_job_past_its_time_leaves_nothing(local: Rig, call: str, size: int) -> None:
    """The same holds for a job that was stopped because it took too long."""
    moment = Moment(local, call)
    async with local.pool(timeout=1.0) as worker:
        job_id = await worker.make([local.origin.url(size=size)])
        job = await worker.ended(job_id)
        assert moment.reached.is_set()
        assert (job.status, job.error_code) == (JobStatus.FAILED, "job_timeout")
        await assert_nothing_left(local, worker)


async def test_a_storage_that_fails_fails_the_job(local: Rig) -> None:
    """A storage that stays away ends the job with its code; disk and memory are given back."""

    async def away() -> None:
        raise StorageUnavailable("The storage is away.")

    local.objects.after["upload_part"] = away
    async with local.pool() as worker:
        job = await worker.ended(await worker.make([local.origin.url(size=LARGE)]))
        assert (job.status, job.error_code) == (JobStatus.FAILED, "storage_unavailable")
        await assert_nothing_left(local, worker)


async def test_a_bug_fails_its_own_job_alone(local: Rig) -> None:
    """An error that nobody foresaw ends its job with no internals told; the next job is done."""

    async def broken() -> None:
        raise ZeroDivisionError("internal")

    local.objects.after["put"] = broken
    async with local.pool(concurrency=1) as worker:
        job = await worker.ended(await worker.make([local.origin.url(size=SMALL)]))
        assert (job.status, job.error_code) == (JobStatus.FAILED, "job_failed")
        assert "internal" not in (job.error or "")
        await assert_nothing_left(local, worker)
        local.objects.after.clear()
        job = await worker.ended(await worker.make([local.origin.url(size=SMALL)]))
        assert job.status is JobStatus.COMPLETED
