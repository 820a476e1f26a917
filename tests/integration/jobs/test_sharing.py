"""One user's slow jobs and another's wish for one: over a real Valkey and storage."""

from __future__ import annotations

import asyncio
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
