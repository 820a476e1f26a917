"""What a job leaves for its next run is counted all the time that it lies there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest

from downloadd.model import Job
from downloadd.pipeline import DiskBudget, JobRun, MemoryBudget, Spool
from tests.folders import file_sizes
from tests.unit.pipeline.conftest import Bench, make_job
from tests.unit.pipeline.test_run import MIB, serve, sources

MakeBench = Callable[..., Bench]
CAP = 64 * MIB
#: What notes take.
NOTES = 64 << 10


class Watched:
    """The most that lay in a folder, until the end of the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most = 0

    async def __aenter__(self) -> Watched:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, sum(file_sizes(self.folder).values()))
            await asyncio.sleep(0.002)


async def follow(run: JobRun) -> Job:
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            job = step.job
    return job


async def fetched(bench: Bench, count: int, size: int) -> tuple[JobRun, asyncio.Task[Job]]:
    """A run whose files are all here, whole, and none of which the storage takes."""
    run = bench.run(make_job(sources(*(f"random/{size}/{n}" for n in range(count)))))
    task = asyncio.create_task(follow(run))
    async with asyncio.timeout(20):
        while len(run._packing.payloads) < count:
            await asyncio.sleep(0.01)
    return run, task


async def ended(task: asyncio.Task[Job]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def held_up(_: int) -> object:
    return asyncio.Event().wait()


async def test_a_job_that_is_put_aside_gives_no_room_away_that_it_keeps(
    make_bench: MakeBench,
) -> None:
    """Whoever waits for disk gets it when what is kept is gone, not when the job is put aside."""
    bench = make_bench(serve, disk=CAP)
    bench.store.before_part = held_up
    first, task = await fetched(bench, 3, 20 * MIB)
    second = bench.run(make_job(sources(f"random/{40 * MIB}/7")))
    bench.store.before_part = lambda _: None
    waiting = asyncio.create_task(follow(second))
    await asyncio.sleep(0.05)
    await ended(task)
    async with Watched(bench.folder) as disk:
        await first.close(keep=True)
        job = await asyncio.wait_for(waiting, 20)
    await second.close()
    assert 40 * MIB <= disk.most <= CAP + NOTES, f"{disk.most / MIB:.1f} MiB"
    assert job.archive is not None
    bench.spool.evict_all()
    async with asyncio.timeout(20):
        while not bench.clean():
            await asyncio.sleep(0.01)


def restarted(bench: Bench, disk: int) -> Bench:
    """Another process on the same folder."""
    spool = Spool(bench.folder, ThreadPoolExecutor(4), DiskBudget(disk), MemoryBudget(32 << 20))
    fetch = bench.services.fetch.evolve(spool=spool)
    services = bench.services.evolve(fetch=fetch)
    return Bench(bench.reader, bench.store, bench.clock, spool, bench.folder, services)


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_kept_is_counted_until_its_turn_comes(
    make_bench: MakeBench, killed: bool
) -> None:
    """A job that goes on, file by file, still has the room of those that it has not come to."""
    bench = make_bench(serve, disk=CAP)
    bench.store.before_part = held_up
    run, task = await fetched(bench, 3, 20 * MIB)
    await ended(task)
    if not killed:
        await run.close(keep=True)
    bench = restarted(bench, CAP)
    bench.services = bench.services.evolve(per_job=1)
    bench.store.before_part = lambda _: asyncio.sleep(0.1)
    again, other = bench.run(run._job), bench.run(make_job(sources(f"random/{40 * MIB}/7")))
    asked = len(bench.reader.asked)
    async with Watched(bench.folder) as disk:
        going_on = asyncio.create_task(follow(again))
        await asyncio.sleep(0.01)
        jobs = await asyncio.gather(going_on, follow(other))
        await asyncio.gather(again.close(), other.close())
    assert 60 * MIB <= disk.most <= CAP + NOTES, f"{disk.most / MIB:.1f} MiB"
    assert all(job.archive for job in jobs)
    assert len(bench.reader.asked) == asked + 1, "what was kept was fetched again"
    assert bench.clean()
