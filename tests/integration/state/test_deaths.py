"""Processes that die with their jobs, and jobs that are put back, in a real Valkey."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from downloadd.errors import JobCancelled, LeaseLost
from downloadd.model import POISON_DEATHS, FileStatus, JobStatus
from downloadd.ports import Claim
from downloadd.state.setup import State, open_state
from tests.integration.state.making import claimed, create, end, make_job
from tests.valkey import Valkey

Process = Callable[[str], AbstractAsyncContextManager[State]]


@pytest.fixture
def process(valkey: Valkey) -> Process:
    """Processes by their owner's name, on one Redis."""
    prefix = f"{{{uuid.uuid4().hex}}}:"

    @asynccontextmanager
    async def opened(owner: str) -> AsyncIterator[State]:
        async with open_state(valkey.url, prefix=prefix, owner=owner) as state:
            yield state

    return opened


async def lapse(state: State, job_id: str) -> None:
    """As when a process has died long ago."""
    await state.client.execute("ZADD", state.keys.active, 0, job_id)


async def die(state: State, claim: Claim) -> Claim:
    """Lose a process with one job, and claim it again."""
    await lapse(state, claim.job.id)
    (again,) = await state.jobs.claim(1)
    assert again.job.id == claim.job.id
    return again


async def test_the_jobs_of_the_dead_are_free_at_once(process: Process) -> None:
    """Whoever knows that a process is dead need not wait for its leases; others keep theirs."""
    async with process("one") as one, process("two") as two, process("new") as new:
        dead = await claimed(one)
        alive = await claimed(two)
        assert await new.jobs.disown(["one", "never"]) == 1
        (claim,) = await new.jobs.claim(5)
        assert (claim.job.id, claim.deaths) == (dead.job.id, 1)
        assert await one.jobs.renew([dead.lease]) == [dead.lease]
        assert await two.jobs.renew([alive.lease]) == []
        assert await new.jobs.disown(["one"]) == 0


async def test_deaths_are_counted(state: State) -> None:
    """A lease that lapses is a death, one that was given up is none; a settled file clears it."""
    claim = await claimed(state)
    assert claim.deaths == 0
    claim = await die(state, claim)
    assert claim.deaths == 1
    await state.jobs.release(claim.lease)
    (claim,) = await state.jobs.claim(1)
    assert claim.deaths == 1
    claim = await die(state, claim)
    assert claim.deaths == 2
    await state.jobs.save(claim.lease, claim.job.evolve(files_completed=1))
    claim = await die(state, claim)
    assert claim.deaths == 1
    claim = await die(state, claim)
    claim = await die(state, claim)
    assert claim.deaths == POISON_DEATHS


async def test_one_suspect_at_a_time(state: State) -> None:
    """Jobs that died twice wait for each other, and hold up nobody behind them."""
    suspects = [await claimed(state) for _ in range(3)]
    for claim in suspects:
        await die(state, claim)
    ids = [claim.job.id for claim in suspects]
    innocent = await claimed(state)
    for job_id in ids:
        await lapse(state, job_id)
    await state.jobs.release(innocent.lease)
    queued = await create(state)
    claims = await state.jobs.claim(10)
    assert {claim.deaths for claim in claims if claim.job.id in ids} == {2}
    assert len(claims) == 3
    assert {innocent.job.id, queued.job_id} < {claim.job.id for claim in claims}
    assert await state.jobs.claim(10, suspects=False) == []
    (second,) = await state.jobs.claim(10)
    assert {second.deaths, second.job.id in ids} == {2, True}


async def test_poison_is_told_from_what_lies_beside_it(state: State) -> None:
    """Processes die of one job of four, over and over: it alone is found out."""
    jobs = [make_job() for _ in range(4)]
    for job in jobs:
        await create(state, job)
    poison, done = jobs[2].id, set[str]()
    for _ in range(20):
        claims = await state.jobs.claim(8)
        for claim in claims:
            if claim.deaths >= POISON_DEATHS:
                assert claim.job.id == poison
                await end(state, claim, JobStatus.FAILED)
                done.add(claim.job.id)
        running = [claim for claim in claims if claim.job.id not in done]
        if any(claim.job.id == poison for claim in running):
            for claim in running:
                await lapse(state, claim.job.id)
            continue
        for claim in running:
            await end(state, claim)
            done.add(claim.job.id)
        if len(done) == len(jobs):
            break
    ends = {job.id: (await state.jobs.load(job.id)).status for job in jobs}
    expected = {job.id: JobStatus.COMPLETED for job in jobs} | {poison: JobStatus.FAILED}
    assert ends == expected


async def test_a_job_is_put_back_so_often(state: State) -> None:
    """Each time it can be claimed after its pause, not before, and that is no death."""
    claim = await claimed(state)
    pauses = (100.0, 200.0)
    assert await state.jobs.postpone(claim.lease, pauses) == 1
    assert await state.jobs.claim(1) == []
    job = await state.jobs.load(claim.job.id)
    assert job.status is JobStatus.PROCESSING
    with pytest.raises(LeaseLost):
        await state.jobs.save(claim.lease, claim.job)
    due = float(await state.client.execute("ZSCORE", state.keys.active, job.id))
    seconds = int((await state.client.execute("TIME"))[0])
    assert 90 < due - seconds < 101
    claim = await die(state, claim)
    assert claim.deaths == 0
    assert await state.jobs.postpone(claim.lease, pauses) == 2
    claim = await die(state, claim)
    assert await state.jobs.postpone(claim.lease, pauses) is None
    assert await state.jobs.renew([claim.lease]) == [], "it is still held"
    settled = claim.job.files[0].evolve(status=FileStatus.COMPLETED)
    await state.jobs.save(claim.lease, claim.job.evolve(files_completed=1), files=[settled])
    assert await state.jobs.postpone(claim.lease, pauses) == 1, "it has got on"


async def test_putting_back_repeated_after_a_lost_answer_is_done_once(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = await claimed(state)
    monkeypatch.setattr(state.jobs, "_operation", lambda: "again")
    answers = [await state.jobs.postpone(claim.lease, (1.0, 2.0)) for _ in range(2)]
    assert answers == [1, 1]


async def test_only_who_holds_a_job_puts_it_back(state: State) -> None:
    """A lost lease, and a cancelled job, are said to be so."""
    claim = await claimed(state)
    await state.jobs.release(claim.lease)
    with pytest.raises(LeaseLost):
        await state.jobs.postpone(claim.lease, (1.0,))
    await state.jobs.cancel(claim.job.id, 1.0)
    with pytest.raises(JobCancelled):
        await state.jobs.postpone(claim.lease, (1.0,))


async def test_the_queue_can_be_left_alone(state: State) -> None:
    """What was begun is claimed though nothing new is wanted."""
    begun = await claimed(state)
    await create(state)
    await state.jobs.release(begun.lease)
    (claim,) = await state.jobs.claim(5, queued=False)
    assert claim.job.id == begun.job.id
    assert await state.jobs.queue_depth() == 1
