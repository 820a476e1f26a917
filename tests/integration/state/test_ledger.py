"""What is still somebody's, against a real Valkey."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from downloadd.errors import StateError
from downloadd.model import Archive, Deposit, Job, JobStatus, Link, Standing, terminal_event
from downloadd.ports import Claim
from downloadd.state.setup import State, open_state
from tests.valkey import Valkey

from .making import claimed, create, end, make_job

DAY = 86_400


async def completed(state: State, *, key: str = "", user: str = "u") -> Job:
    """A job that has an archive; its key is made from the job's id unless it is given."""
    claim = await claimed(state, make_job(user=user))
    job = claim.job.moved(
        JobStatus.COMPLETED,
        progress=100,
        completed_at=time.time(),
        archive=Archive(
            key=key or f"{claim.namespace}{claim.job.id}.zip", size=5, sha256="", file_name="a.zip"
        ),
        link=Link(url="https://s3.example/k", expires_at=time.time() + 60),
    )
    await state.jobs.finish(claim.lease, job, terminal_event(job))
    return job


def deposit(job: Job) -> Deposit:
    assert job.archive is not None
    return Deposit(job_id=job.id, key=job.archive.key)


async def standing(state: State, *deposits: Deposit) -> list[str]:
    return list(await state.ledger.standing(await state.ledger.namespace(), deposits))


# --- the installation -----------------------------------------------------------


async def test_processes_share_a_name(state: State, valkey: Valkey) -> None:
    """Every process of an installation has the same namespace, another installation another."""
    async with (
        open_state(valkey.url, prefix=state.keys.prefix) as other,
        open_state(valkey.url, prefix=f"{{{uuid.uuid4().hex}}}:") as stranger,
    ):
        ours = await asyncio.gather(state.ledger.namespace(), other.ledger.namespace())
        assert ours[0] == ours[1]
        assert (await claimed(other)).namespace == ours[0]
        assert await stranger.ledger.namespace() not in ours
    assert len(ours[0]) == 17
    assert ours[0].endswith("/")


async def test_a_lost_name_is_set_again(state: State) -> None:
    """A Redis that was emptied has the same name again, by the next claim or the next sweep."""
    name = await state.ledger.namespace()
    await state.client.execute("DEL", state.keys.installation)
    assert (await claimed(state)).namespace == name
    assert await state.client.execute("GET", state.keys.installation) == name[:-1]
    await state.client.execute("DEL", state.keys.installation)
    assert await state.ledger.namespace() == name


async def test_another_redis_tells_nothing(state: State) -> None:
    """Where the name changes between listing and looking up, nothing is an orphan."""
    name = await state.ledger.namespace()
    await state.client.execute("SET", state.keys.installation, "another")
    with pytest.raises(StateError, match="nothing is removed"):
        await state.ledger.standing(name, [Deposit(job_id="x", key="x")])
    assert await state.ledger.namespace() == "another/"


# --- standing -------------------------------------------------------------------


async def test_what_is_living(state: State) -> None:
    """Queued, processing, and failed with a checkpoint, whatever the key."""

    async def ended(status: JobStatus, checkpoint: str | None) -> str:
        claim: Claim = await claimed(state)
        if checkpoint:
            await state.jobs.save(claim.lease, claim.job, checkpoint=checkpoint)
        await end(state, claim, status)
        return claim.job.id

    gone_on_with = await ended(JobStatus.FAILED, "x")
    given_up = await ended(JobStatus.FAILED, None)
    cancelled = await ended(JobStatus.CANCELLED, "x")
    processing = (await claimed(state)).job.id
    queued = (await create(state)).job_id
    ids = [queued, processing, gone_on_with, given_up, cancelled, str(uuid.uuid4())]
    found = await standing(state, *(Deposit(job_id=it, key="k") for it in ids))
    assert found == ["living"] * 3 + ["orphan"] * 3
    # What lies on a disk can be gone on with, checkpoint or not, while a retry may come.
    found = await standing(state, *(Deposit(job_id=it) for it in ids))
    assert found == ["living"] * 4 + ["orphan"] * 2
    await state.client.execute("DEL", state.keys.checkpoint(gone_on_with))
    assert await standing(state, Deposit(job_id=gone_on_with, key="k")) == ["orphan"]
    await state.client.execute("HSET", state.keys.job(given_up), "retry_until", 1)
    assert await standing(state, Deposit(job_id=given_up)) == ["orphan"]


async def test_archives_are_kept(state: State) -> None:
    """A completed job's own archive; another object of the same job is nobody's."""
    job = await completed(state)
    other = Deposit(job_id=job.id, key="other.zip")
    found = await standing(state, deposit(job), other, Deposit(job_id=job.id))
    assert found == [Standing.KEPT, Standing.ORPHAN, Standing.ORPHAN]
    # Forgotten by Redis, but for the archive's time.
    await state.client.execute("DEL", state.keys.job(job.id))
    assert await standing(state, deposit(job), other) == ["kept", "orphan"]
    await state.client.execute("ZREM", state.keys.archives, f"{job.id} {deposit(job).key}")
    assert await standing(state, deposit(job)) == ["orphan"]


# --- expiry ---------------------------------------------------------------------


async def test_archives_become_due(valkey: Valkey) -> None:
    """A completion notes when its archive's time is over; the oldest comes first."""
    async with open_state(
        valkey.url, prefix=f"{{{uuid.uuid4().hex}}}:", archive_ttl=100, completed_ttl=50
    ) as state:
        now = time.time()
        jobs = [await completed(state) for _ in range(3)]
        await end(state, await claimed(state))  # without an archive
        assert await state.ledger.due(now + 99) == []
        next_due = await state.ledger.next_due(now)
        assert next_due is not None
        assert 100 <= next_due - now < 160
        assert await state.ledger.due(now + 200) == [deposit(job) for job in jobs]
        assert await state.ledger.due(now + 200, skip=1, limit=1) == [deposit(jobs[1])]
        assert await state.ledger.next_due(now + 200) is None
        # The job outlives its archive by an hour, although it was to be kept for less.
        ttl = await state.client.execute("TTL", state.keys.job(jobs[0].id))
        assert 3600 < ttl <= 3700


async def test_a_job_expires(state: State) -> None:
    """Its link goes and it stays for an hour at the least; doing it twice changes nothing more."""
    job = await completed(state)
    await state.client.execute("EXPIRE", state.keys.job(job.id), 5)
    assert await state.ledger.expired(deposit(job), 99.5)
    read = await state.jobs.load(job.id)
    assert (read.status, read.link, read.updated_at) == (JobStatus.EXPIRED, None, 99.5)
    assert read.archive == job.archive
    assert await state.ledger.due(time.time() + 2 * DAY) == []
    assert 3590 < await state.client.execute("TTL", state.keys.job(job.id)) <= 3600
    assert not await state.ledger.expired(deposit(job), 100.5)
    assert await state.jobs.load(job.id) == read
    assert await standing(state, deposit(job)) == ["orphan"]


async def test_a_longer_memory_is_not_cut_short(state: State) -> None:
    """A job that would be kept for longer than the hour is."""
    job = await completed(state)
    assert await state.ledger.expired(deposit(job), 99.5)
    assert await state.client.execute("TTL", state.keys.job(job.id)) > DAY


async def test_expiry_of_another_archive(state: State) -> None:
    """Where the job has another archive, or is gone, or failed, only the entry goes."""
    job = await completed(state)
    claim = await claimed(state)
    for other in (
        Deposit(job_id=job.id, key="old.zip"),
        Deposit(job_id=str(uuid.uuid4()), key="gone.zip"),
        Deposit(job_id=claim.job.id, key="k"),
    ):
        member = f"{other.job_id} {other.key}"
        await state.client.execute("ZADD", state.keys.archives, 1, member)
        assert not await state.ledger.expired(other, 99.5)
    assert await state.ledger.due(5) == []
    assert (await state.jobs.load(job.id)).status is JobStatus.COMPLETED
    assert (await state.jobs.load(claim.job.id)).status is JobStatus.PROCESSING


# --- dead entries ---------------------------------------------------------------


async def test_dead_entries_are_dropped(state: State) -> None:
    """Of the queue, of leases and of users' lists; what lives and what is not ours stays."""
    keys, client = state.keys, state.client
    await claimed(state, make_job(user="bob"))
    gone = await completed(state, user="bob")
    queued = (await create(state, make_job(user="ann"))).job_id
    await client.execute("DEL", keys.job(gone.id))
    await client.execute("ZADD", keys.queue, 1, "dead", 1, gone.id)
    await client.execute("ZADD", keys.active, 1, "dead")
    await client.execute("ZADD", keys.user_jobs("cid"), 1, "dead")
    await client.execute("ZADD", keys.webhooks, 1e12, "dead", 1e12, queued)
    for number in range(1000):
        await client.execute("ZADD", keys.user_jobs("dan"), number, f"dead-{number}")
    strangers = [f"{keys.prefix}user:x:jobs:more", f"x{keys.prefix}user:x:jobs"]
    for name in strangers:
        await client.execute("ZADD", name, 1, "theirs")
    await client.execute("SET", keys.user_jobs("no-set"), "theirs")

    # One of the dead is in bob's list, and in everybody's.
    assert await state.ledger.prune() == 2 + 1 + 1 + 1 + 2 + 1000

    assert await client.execute("ZRANGE", keys.queue, 0, -1) == [queued]
    assert len(await client.execute("ZRANGE", keys.active, 0, -1)) == 1
    assert await client.execute("ZRANGE", keys.user_jobs("ann"), 0, -1) == [queued]
    assert len(await client.execute("ZRANGE", keys.user_jobs("bob"), 0, -1)) == 1
    assert await client.execute("ZRANGE", keys.webhooks, 0, -1) == [queued]
    assert not await client.execute("EXISTS", keys.user_jobs("cid"), keys.user_jobs("dan"))
    assert await client.execute("EXISTS", *strangers, keys.user_jobs("no-set")) == 3
    assert await state.ledger.prune() == 0
    await client.execute("DEL", *strangers)


async def test_ended_jobs_are_no_entries_of_the_queue(state: State) -> None:
    """A job that ended keeps its place in its user's list alone."""
    job = await completed(state)
    for name in (state.keys.queue, state.keys.active):
        await state.client.execute("ZADD", name, 1, job.id)
    assert await state.ledger.prune() == 2
    assert await state.client.execute("ZRANGE", state.keys.user_jobs("u"), 0, -1) == [job.id]


async def test_a_prefix_with_wildcards(valkey: Valkey) -> None:
    """A prefix that means something to SCAN is taken as it stands."""
    mark = uuid.uuid4().hex
    async with (
        open_state(valkey.url, prefix=f"[*]?{{{mark}}}\\:") as odd,
        open_state(valkey.url, prefix=f"*a{{{mark}}}\\:") as other,
    ):
        for state in (odd, other):
            await state.client.execute("ZADD", state.keys.user_jobs("u"), 1, "dead")
        assert await odd.ledger.prune() == 1
        assert await other.ledger.prune() == 1


async def test_pruning_while_jobs_are_made(state: State) -> None:
    """A job that is made at the same moment keeps every entry of its own."""
    done = asyncio.Event()

    async def prune() -> None:
        while not done.is_set():
            assert await state.ledger.prune() == 0

    task = asyncio.create_task(prune())
    jobs = [make_job(1, user="u") for _ in range(300)]
    for start in range(0, len(jobs), 20):
        await asyncio.gather(*(create(state, job) for job in jobs[start : start + 20]))
        await asyncio.sleep(0.01)
    done.set()
    await task
    ids = {job.id for job in jobs}
    for name in (state.keys.queue, state.keys.user_jobs("u")):
        assert set(await state.client.execute("ZRANGE", name, 0, -1)) == ids
