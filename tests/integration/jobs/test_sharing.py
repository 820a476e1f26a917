"""One user's slow jobs and another's wish for one: over a real Valkey and storage."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from downloadd.jobs import sharing
from downloadd.model import JobStatus, Priority
from tests.e2e.archives import digests
from tests.e2e.service import eventually
from tests.integration.jobs.conftest import Rig, archive
from tests.origin import sha256

MIB = 1 << 20


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PATIENCE", 0.3)


async def test_slow_jobs_of_one_user_do_not_stop_another(rig: Rig, tmp_path: Path) -> None:
    """The latest makes room, and is completed in the end, from what it had stored."""
    origin = rig.origin
    async with rig.pool(concurrency=3) as process:
        slow = [
            await process.make([origin.url(seed=n, size=3 * MIB, rate=MIB)], user="eve")
            for n in range(4)
        ]
        await eventually(lambda: process.pool.active == 3)
        other = await process.make([origin.url(seed=9, size=1000)], user="ann")
        job = await process.ended(other)
        assert job.status is JobStatus.COMPLETED
        running = [await process.state.jobs.load(it) for it in slow]
        assert not any(it.status.ended for it in running), "they were slow"
        ended = [await process.ended(it) for it in slow]
        await process.idle()
        assert process.holds_nothing()
    assert {it.status for it in ended} == {JobStatus.COMPLETED}
    # The first two were never touched; the third, the latest of those that ran, was.
    assert [it.attempts for it in ended[:3]] == [1, 1, 2]
    for n, it in enumerate(ended):
        assert list(digests(await archive(rig, it, tmp_path)).values()) == [sha256(n, 3 * MIB)]
    assert await rig.storage.parts() == {}


async def test_what_is_here_is_not_fetched_again(
    local: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file goes on from the byte that is missing, where its source can."""
    monkeypatch.setattr(sharing, "PATIENCE", 1.0)
    origin, size = local.origin, 12 * MIB
    async with local.pool(concurrency=2) as process:
        slow = [
            await process.make([origin.url(seed=n, size=size, rate=4 * MIB)], user="eve")
            for n in range(2)
        ]
        await eventually(lambda: process.pool.active == 2)
        other = await process.make([origin.url(size=1000)], user="ann")
        assert (await process.ended(other)).status is JobStatus.COMPLETED
        ended = [await process.ended(it) for it in slow]
        await process.idle()
        assert process.holds_nothing()
    assert [it.attempts for it in ended] == [1, 2]
    # It had had at least 4 MiB when it went, and more than one of it in the kernel's hands.
    assert origin.sent[f"/file/1/{size}"] < size + 3 * MIB


async def test_the_place_is_not_taken_back_at_once(local: Rig) -> None:
    """Who makes room waits behind the one it makes room for, and for all that came before."""
    origin = local.origin
    async with local.pool(concurrency=2) as process:
        slow = [
            await process.make([origin.url(seed=n, size=4 * MIB, rate=MIB)], user="eve")
            for n in range(2)
        ]
        await eventually(lambda: process.pool.active == 2)
        urls = [origin.url(size=10, delay=0.5)]
        others = [await process.make(urls, user="ann") for _ in range(3)]
        jobs = [await process.ended(it) for it in others]
        assert not any([(await process.state.jobs.load(it)).status.ended for it in slow])
        ended = [await process.ended(it) for it in slow]
    assert {it.status for it in jobs} == {JobStatus.COMPLETED}
    assert max(it.attempts for it in ended) <= 3


async def test_a_job_that_gave_way_keeps_its_place_then(local: Rig) -> None:
    """However often somebody comes with a small one: what cannot be resumed is to end, too."""
    origin = local.origin
    async with local.pool(concurrency=2) as process:
        urls = [origin.url(size=4 * MIB, rate=MIB, norange=1)]
        slow = [await process.make(urls, user="eve") for _ in range(2)]
        await eventually(lambda: process.pool.active == 2)
        ending = asyncio.gather(*(process.ended(it) for it in slow))
        while not ending.done():
            await process.make([origin.url(size=10)], user="ann")
            await asyncio.sleep(0.5)
        assert max(it.attempts for it in await ending) == 2


@pytest.mark.parametrize("change", [("HSET", "rank", "9"), ("HDEL", "created_at")])
async def test_a_job_in_the_queue_that_cannot_be_read(local: Rig, change: tuple[str, ...]) -> None:
    """It is a claim's to judge; nobody else's place depends on it."""
    origin = local.origin
    async with local.pool(concurrency=2) as process:
        for _ in range(2):
            await process.make([origin.url(size=3 * MIB, rate=MIB)], user="eve")
        await eventually(lambda: process.pool.active == 2)
        odd = await process.make([origin.url(size=10)], user="odd")
        command, *fields = change
        key = process.state.keys.job(odd)
        await process.state.client.execute(command, key, *fields)
        other = await process.make([origin.url(size=10)], user="ann")
        assert (await process.ended(other)).status is JobStatus.COMPLETED
        assert process.pool._claimer is not None
        assert not process.pool._claimer.done()


async def test_places_in_other_processes_count(local: Rig) -> None:
    """A user who has one place in each of several processes has several."""
    origin = local.origin
    async with local.pool(concurrency=1) as one, local.pool(concurrency=1) as two:
        for _ in range(2):
            await one.make([origin.url(size=MIB, stall_after=1)], user="eve")
        await eventually(lambda: one.pool.active == two.pool.active == 1)
        other = await one.make([origin.url(size=10)], user="ann")
        assert (await one.ended(other)).status is JobStatus.COMPLETED


async def test_a_job_that_is_cancelled_while_it_goes(local: Rig) -> None:
    """It is cancelled, and leaves nothing."""
    origin = local.origin
    async with local.pool(concurrency=2) as process:
        slow = [
            await process.make([origin.url(size=40 * MIB, rate=2 * MIB)], user="eve")
            for _ in range(2)
        ]
        await eventually(lambda: origin.open_connections == 2)
        worker = list(process.pool._workers.values())[-1]
        worker.step_aside("")
        await process.state.jobs.cancel(slow[1], time.time())
        await eventually(lambda: process.pool.active == 1)
        await eventually(lambda: origin.open_connections == 1)
        assert await process.state.client.execute("ZCARD", process.state.keys.queue) == 0


async def test_everybody_gets_a_place(local: Rig) -> None:
    """Of four places two new users get one each, while the first keeps two: no more are taken."""
    origin = local.origin
    async with local.pool(concurrency=4) as process:
        for _ in range(6):
            await process.make([origin.url(size=MIB, stall_after=1)], user="eve")
        await eventually(lambda: process.pool.active == 4)
        for user in ("ann", "bob"):
            for _ in range(6):
                await process.make([origin.url(size=MIB, stall_after=1)], user=user)

        def shares() -> list[str]:
            return sorted(it.claim.job.user for it in process.pool._workers.values())

        await eventually(lambda: shares() == ["ann", "bob", "eve", "eve"])
        for _ in range(30):
            await asyncio.sleep(0.1)
            assert shares() == ["ann", "bob", "eve", "eve"]


@pytest.mark.parametrize(
    ("who", "priority"),
    [("eve", Priority.HIGH), ("ann", Priority.LOW)],
    ids=("one's own", "less important"),
)
async def test_who_does_not_make_room(local: Rig, who: str, priority: Priority) -> None:
    """Nobody's running job goes for another of theirs, nor for one of less importance."""
    origin = local.origin
    async with local.pool(concurrency=2) as process:
        slow = [
            await process.make([origin.url(seed=n, size=2 * MIB, rate=MIB)], user="eve")
            for n in range(2)
        ]
        await eventually(lambda: process.pool.active == 2)
        other = await process.make([origin.url(size=10)], user=who, priority=priority)
        jobs = [await process.ended(it) for it in [*slow, other]]
    assert [it.attempts for it in jobs] == [1, 1, 1]


async def test_the_only_job_of_each_stays(local: Rig) -> None:
    """Where every user has one, whoever comes waits for a place."""
    origin = local.origin
    async with local.pool(concurrency=2) as process:
        slow = [
            await process.make([origin.url(seed=n, size=2 * MIB, rate=MIB)], user=f"user-{n}")
            for n in range(2)
        ]
        await eventually(lambda: process.pool.active == 2)
        other = await process.make([origin.url(size=10)], user="ann")
        jobs = [await process.ended(it) for it in [*slow, other]]
    assert [it.attempts for it in jobs] == [1, 1, 1]
