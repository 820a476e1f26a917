"""Claims, leases and writes of running jobs in a real Valkey."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from downloadd.errors import IllegalTransition, JobCancelled, JobNotFound, LeaseLost
from downloadd.model import (
    Archive,
    EventType,
    FileEntry,
    FileStatus,
    JobStatus,
    Link,
    Source,
    Stage,
    progress_event,
    terminal_event,
)
from downloadd.state.setup import State, open_state
from tests.fakes import FakeClock
from tests.integration.state.making import claimed, create, end, make_job
from tests.valkey import Valkey

LEASE = 0.2


@pytest.fixture
async def hasty(valkey: Valkey) -> AsyncIterator[State]:
    """A process whose leases lapse soon, on a clock of its own."""
    prefix = f"{{{uuid.uuid4().hex}}}:"
    async with open_state(
        valkey.url, prefix=prefix, lease=LEASE, clock=FakeClock(), secret=b"s" * 32
    ) as state:
        yield state


async def types(state: State, job_id: str) -> list[str]:
    entries = await state.client.execute("XRANGE", state.keys.events(job_id), "-", "+")
    return [fields[1] for _, fields in entries]


async def test_a_claim_begins_the_job(hasty: State) -> None:
    """Status, attempts and start are written, an event says so, and headers are there."""
    source = Source(url="https://files.example/a", headers={"Cookie": "x"})
    job = make_job(1, files=(FileEntry(index=0, source=source),))
    claim = await claimed(hasty, job)
    assert claim.checkpoint is None
    assert claim.job.files == job.files
    assert (claim.job.status, claim.job.attempts) == (JobStatus.PROCESSING, 1)
    assert claim.job.started_at == claim.job.updated_at == FakeClock().now()
    assert await hasty.jobs.load(job.id) == claim.job.evolve(files=())
    assert await types(hasty, job.id) == ["status", "progress"]


async def test_no_job_is_claimed_twice(state: State) -> None:
    """Many claims at once share the queue out."""
    jobs = [make_job() for _ in range(40)]
    for job in jobs:
        await create(state, job)
    claims = await asyncio.gather(*(state.jobs.claim(3) for _ in range(20)))
    ids = [claim.job.id for some in claims for claim in some]
    assert sorted(ids) == sorted(job.id for job in jobs)


async def test_jobs_that_are_gone_are_passed_over(state: State) -> None:
    """An id in the queue, or in the leases, whose job has vanished stops nobody."""
    gone, lapsed, there = make_job(), make_job(), make_job()
    await create(state, lapsed)
    (claim,) = await state.jobs.claim(1)
    await state.jobs.release(claim.lease)
    for job in (gone, there):
        await create(state, job)
    for job in (gone, lapsed):
        await state.client.execute("DEL", state.keys.job(job.id))
    assert [claim.job.id for claim in await state.jobs.claim(5)] == [there.id]


async def test_a_claim_repeated_after_a_lost_answer_gives_the_same_jobs(
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The jobs of a claim whose answer was lost are not stranded until their lease lapses."""
    for _ in range(3):
        await create(state)
    monkeypatch.setattr(state.jobs, "_operation", lambda: "token")
    first, second = await state.jobs.claim(2), await state.jobs.claim(2)
    assert first == second
    assert len(first) == 2
    assert await state.jobs.queue_depth() == 1


async def test_a_lapsed_lease_is_taken_over(hasty: State) -> None:
    """Another claim gets the job with its checkpoint; the old holder's writes are refused."""
    old = await claimed(hasty)
    saved = old.job.evolve(progress=40, files_completed=1)
    await hasty.jobs.save(old.lease, saved, checkpoint="here")
    assert await hasty.jobs.claim(1) == []
    await asyncio.sleep(LEASE * 1.5)
    await create(hasty)
    (new,) = await hasty.jobs.claim(1)
    assert new.job.id == old.job.id
    assert (new.job.attempts, new.job.progress, new.checkpoint) == (2, 40, "here")
    assert new.lease.token != old.lease.token

    before = await hasty.jobs.load(old.job.id, files=True)
    with pytest.raises(LeaseLost):
        await hasty.jobs.save(old.lease, saved, event=progress_event(saved), checkpoint="mine")
    with pytest.raises(LeaseLost):
        await end(hasty, old)
    await hasty.jobs.release(old.lease)
    assert await hasty.jobs.renew([old.lease, new.lease]) == [old.lease]
    assert await hasty.jobs.load(old.job.id, files=True) == before


async def test_a_renewed_lease_does_not_lapse(hasty: State) -> None:
    """Renewing in time keeps the job, however long it takes."""
    claim = await claimed(hasty)
    for _ in range(6):
        await asyncio.sleep(LEASE / 3)
        assert await hasty.jobs.renew([claim.lease]) == []
    assert await hasty.jobs.claim(1) == []
    assert await hasty.jobs.renew([]) == []


async def test_a_released_job_can_be_claimed_at_once(state: State) -> None:
    """Giving a lease up hands the job on, before the queue, and fences the old holder."""
    claim = await claimed(state)
    await create(state)
    await state.jobs.release(claim.lease)
    (again,) = await state.jobs.claim(1)
    assert again.job.id == claim.job.id
    with pytest.raises(LeaseLost):
        await state.jobs.save(claim.lease, claim.job)


async def test_saved_state_is_read(state: State) -> None:
    """Progress, files that ended and live bytes of those in flight are in the next read."""
    claim = await claimed(state, make_job(3))
    done = claim.job.files[0].evolve(
        status=FileStatus.COMPLETED,
        name="0.pdf",
        size=10,
        sha256="a" * 64,
        attempts=2,
        bytes_fetched=10,
        fetched_at=1.5,
    )
    live = claim.job.files[1].evolve(
        status=FileStatus.FETCHING, bytes_fetched=7, size=9, attempts=1
    )
    job = claim.job.evolve(
        files=(done, live, claim.job.files[2]),
        stage=Stage.UPLOADING,
        progress=59,
        files_completed=1,
        current_file="70000",
        bytes_fetched=17,
        bytes_total=30,
        updated_at=3.25,
        partial=True,
    )
    await state.jobs.save(claim.lease, job, files=[done])
    read = await state.jobs.load(job.id, files=True)
    assert read == job.evolve(cursor=read.cursor)

    after = job.evolve(files=(done, live.evolve(status=FileStatus.PENDING), job.files[2]))
    await state.jobs.save(claim.lease, after)
    read = await state.jobs.load(job.id, files=True)
    assert [file.status.value for file in read.files] == ["completed", "pending", "pending"]


async def test_a_checkpoint_stays_until_another_comes(state: State) -> None:
    """``None`` keeps it, the empty one replaces it."""
    claim = await claimed(state)
    key = state.keys.checkpoint(claim.job.id)
    for given, stored in (("a", "a"), (None, "a"), ("", "")):
        await state.jobs.save(claim.lease, claim.job, checkpoint=given)
        assert await state.client.execute("GET", key) == stored


async def test_a_write_repeated_after_a_lost_answer_is_one_write(
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its event is appended once, and the end is an end though the lease is given up."""
    claim = await claimed(state)
    monkeypatch.setattr(state.jobs, "_operation", lambda: "save")
    for _ in range(2):
        await state.jobs.save(claim.lease, claim.job, event=progress_event(claim.job))
    monkeypatch.setattr(state.jobs, "_operation", lambda: "finish")
    for _ in range(2):
        await end(state, claim)
    assert await types(state, claim.job.id) == ["status", "progress", "progress", "complete"]


async def test_a_cancelled_job_takes_no_more_writes(state: State) -> None:
    """Its worker learns at its next step, whichever that is; nothing is written."""
    claim = await claimed(state)
    await state.jobs.cancel(claim.job.id, 1.0)
    before = await state.jobs.load(claim.job.id)
    with pytest.raises(JobCancelled):
        await state.jobs.save(claim.lease, claim.job.evolve(progress=9), checkpoint="x")
    with pytest.raises(JobCancelled):
        await end(state, claim)
    assert await state.jobs.renew([claim.lease]) == [claim.lease]
    assert await state.jobs.load(claim.job.id) == before
    assert await state.client.execute("EXISTS", state.keys.checkpoint(claim.job.id)) == 0
    assert await state.jobs.counts() == {JobStatus.QUEUED: 0, JobStatus.PROCESSING: 0}


async def test_a_finished_job(state: State) -> None:
    """Archive, link and files are read back, the last event ends the stream, the lease is gone."""
    claim = await claimed(state)
    job = claim.job.moved(
        JobStatus.COMPLETED,
        progress=100,
        completed_at=9.5,
        archive=Archive(key="k", size=5, sha256="c" * 64, file_name="ö.zip"),
        link=Link(url="https://s3.example/k?X-Amz-Signature=1", expires_at=99.5),
    )
    await state.jobs.finish(claim.lease, job, terminal_event(job))
    read = await state.jobs.load(job.id)
    assert read == job.evolve(files=(), cursor=read.cursor)
    assert (await types(state, job.id))[-1] == "complete"
    assert await state.jobs.renew([claim.lease]) == [claim.lease]
    with pytest.raises(LeaseLost):
        await state.jobs.save(claim.lease, claim.job)
    assert await state.jobs.claim(1) == []


@pytest.mark.parametrize(
    ("status", "job_ttl", "rest_ttl"),
    [
        (JobStatus.COMPLETED, 90_000, None),
        (JobStatus.FAILED, 604_800, 3600),
        (JobStatus.CANCELLED, 604_800, None),
    ],
)
async def test_what_an_end_leaves(
    state: State,
    status: JobStatus,
    job_ttl: int,
    rest_ttl: int | None,
) -> None:
    """Ended jobs expire; checkpoint and headers outlive only a failure, for the retry window."""
    source = Source(url="u", headers={"A": "secret"})
    claim = await claimed(state, make_job(1, files=(FileEntry(index=0, source=source),)))
    await state.jobs.save(claim.lease, claim.job, checkpoint="x")
    await end(state, claim, status)
    keys, job_id = state.keys, claim.job.id
    for key in (keys.job(job_id), keys.files(job_id), keys.events(job_id)):
        assert job_ttl - 60 < await state.client.execute("TTL", key) <= job_ttl
    for key in (keys.checkpoint(job_id), keys.headers(job_id)):
        ttl = await state.client.execute("TTL", key)
        assert ttl == -2 if rest_ttl is None else rest_ttl - 60 < ttl <= rest_ttl


async def test_an_illegal_end_is_refused(state: State) -> None:
    """A running job cannot finish as queued; nothing is written."""
    claim = await claimed(state)
    job = claim.job.evolve(status=JobStatus.QUEUED)
    with pytest.raises(IllegalTransition):
        await state.jobs.finish(claim.lease, job, progress_event(job))
    assert (await state.jobs.load(job.id)).status is JobStatus.PROCESSING


async def test_a_job_that_expired_under_its_worker(state: State) -> None:
    """Writes to a job that is gone are refused, not revived."""
    claim = await claimed(state)
    await state.client.execute("DEL", state.keys.job(claim.job.id))
    with pytest.raises(LeaseLost):
        await state.jobs.save(claim.lease, claim.job)
    with pytest.raises(JobNotFound):
        await state.jobs.load(claim.job.id)


async def test_events_of_store_moves_are_whole(state: State) -> None:
    """What the store itself appends on claim and cancel has every field, the last saved state."""
    claim = await claimed(state)
    job = claim.job.evolve(progress=30, bytes_fetched=2**45, stage=Stage.FETCHING)
    await state.jobs.save(claim.lease, job)
    await state.jobs.cancel(job.id, 1.0)
    *_, last = [event async for event in state.feed.watch(job.id)]
    assert last.type is EventType.CANCELLED
    expected = dict(progress_event(job).data) | {"status": "cancelled", "stage": None}
    # 2^45 bytes (32 TiB) have the 14 digits that a number keeps in Lua's JSON.
    assert dict(last.data) == expected
