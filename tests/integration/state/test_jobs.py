"""Making, reading and cancelling jobs in a real Valkey."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from downloadd.errors import IdempotencyConflict, JobConflict, JobNotFound, QueueFull
from downloadd.model import EventType, FileEntry, JobStatus, OnError, Options, Priority, Source
from downloadd.ports import Deduplication, JobStore
from downloadd.state.setup import State, open_state
from tests.integration.state.making import claimed, create, end, make_job
from tests.valkey import Valkey


def keyed(key: str = "k", body: str = "b", *, window: float = 3600) -> Deduplication:
    return Deduplication(
        body_key=body,
        body_window=window,
        idempotency_key=key,
        idempotency_body=body,
    )


async def names(state: State) -> set[str]:
    """The test's keys, without the prefix."""
    prefix = state.keys.prefix
    found = await state.client.execute("KEYS", f"{prefix}*")
    return {name.removeprefix(prefix) for name in found}


async def test_a_job_is_read_as_it_was_made(state: State) -> None:
    """Every field that a queued job has comes back, headers excepted: they are the worker's."""
    store: JobStore = state.jobs
    files = (
        FileEntry(
            index=0,
            source=Source(
                url="https://files.example/a?x=\ud800",
                name="a/b.pdf",
                sha256="a" * 64,
                md5="b" * 32,
                size=12,
                headers={"Authorization": "Bearer secret"},
            ),
        ),
        FileEntry(index=1, source=Source(url="https://files.example/ü", file_id=10_000)),
    )
    options = Options(
        compress=False,
        on_error=OnError.SKIP,
        manifest=True,
        file_name="ö.zip",
        metadata={"order": ["4711", None, 1.5]},
        priority=Priority.HIGH,
    )
    job = make_job(
        2,
        files=files,
        options=options,
        user="\udfff of {x}",
        traceparent=f"00-{'f' * 32}-{'e' * 16}-01",
    )
    assert (await create(state, job)).job_id == job.id

    read = await store.load(job.id, files=True)
    bare = replace(files[0].source, headers={})
    expected = job.evolve(
        files=(files[0].evolve(source=bare), files[1]),
        queue_position=1,
        cursor=read.cursor,
    )
    assert read == expected
    assert await store.load(job.id) == expected.evolve(files=())


async def test_an_unknown_job_is_not_found(state: State) -> None:
    """Reading or cancelling what is not there says so."""
    with pytest.raises(JobNotFound):
        await state.jobs.load("nope", files=True)
    with pytest.raises(JobNotFound):
        await state.jobs.cancel("nope", 0)


async def test_creating_the_same_job_again_changes_nothing(state: State) -> None:
    """A try whose answer was lost can be repeated: it is said to be made, once."""
    job = make_job()
    first, second = [await create(state, job, keyed()) for _ in range(2)]
    assert first == second
    assert not second.replayed
    assert await state.jobs.queue_depth() == 1


async def test_idempotency_key_gives_the_same_job_again(state: State) -> None:
    """The key with its body gives the job it made, even one that failed."""
    first = await create(state, None, keyed())
    (claim,) = await state.jobs.claim(1)
    await end(state, claim, JobStatus.FAILED)
    again = await create(state, None, keyed())
    assert (again.job_id, again.replayed, again.by_key) == (first.job_id, True, True)


async def test_idempotency_key_with_another_body_is_refused(state: State) -> None:
    """Nothing is written then."""
    await create(state, None, keyed())
    job = make_job()
    with pytest.raises(IdempotencyConflict):
        await create(state, job, keyed(body="other"))
    with pytest.raises(JobNotFound):
        await state.jobs.load(job.id)


async def test_200_requests_with_one_key_make_one_job(state: State) -> None:
    """A retry storm finds one job, however many come at once."""
    made = await asyncio.gather(*(create(state, None, keyed()) for _ in range(200)))
    assert len({one.job_id for one in made}) == 1
    assert [one.replayed for one in made].count(False) == 1
    assert await state.jobs.queue_depth() == 1


async def test_the_same_body_gives_the_job_that_is_under_way(state: State) -> None:
    """Queued, processing and completed jobs stand for their body."""
    dedup = Deduplication(body_key="b")
    first = await create(state, None, dedup)
    assert (await create(state, None, dedup)).job_id == first.job_id
    (claim,) = await state.jobs.claim(1)
    assert (await create(state, None, dedup)).job_id == first.job_id
    await end(state, claim)
    again = await create(state, None, dedup)
    assert (again.job_id, again.replayed, again.by_key) == (first.job_id, True, False)


async def test_a_new_key_makes_a_new_job(state: State) -> None:
    """Whoever sends a key of its own wants a job of its own; it then stands for the body too."""
    first = await create(state, None, Deduplication(body_key="b"))
    second = await create(state, None, keyed("new", "b"))
    assert (second.replayed, second.job_id != first.job_id) == (False, True)
    assert (await create(state, None, keyed("new", "b"))).job_id == second.job_id
    assert (await create(state, None, Deduplication(body_key="b"))).job_id == second.job_id


@pytest.mark.parametrize("how", ["failed", "cancelled", "finished as cancelled"])
async def test_a_job_that_came_to_nothing_frees_its_body(state: State, how: str) -> None:
    """After a failure or a cancellation the same body makes a new job."""
    dedup = Deduplication(body_key="b")
    first = await create(state, None, dedup)
    (claim,) = await state.jobs.claim(1)
    if how == "cancelled":
        await state.jobs.cancel(first.job_id, time.time())
    else:
        status = JobStatus.FAILED if how == "failed" else JobStatus.CANCELLED
        await end(state, claim, status)
    assert not (await create(state, None, dedup)).replayed


async def test_the_body_counts_for_its_window_alone(state: State) -> None:
    """``body_window`` and the 24 hours of a key are the keys' expiry."""
    await create(state, None, keyed(window=100))
    ttl = [
        await state.client.execute("TTL", name)
        for name in (state.keys.dedupe("b"), state.keys.idempotency("k"))
    ]
    assert 90 < ttl[0] <= 100
    assert 86_390 < ttl[1] <= 86_400


async def test_a_full_queue_takes_no_more(state: State) -> None:
    """The limit is on waiting jobs, and the refusal says when to come again."""
    await create(state, queue_limit=1)
    with pytest.raises(QueueFull) as caught:
        await create(state, queue_limit=1)
    assert caught.value.retry_after
    await state.jobs.claim(1)
    await create(state, queue_limit=1)


async def test_the_queue_goes_by_priority_then_by_arrival(state: State) -> None:
    """Positions say the order in which jobs are claimed."""
    order = [Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.NORMAL, Priority.HIGH]
    jobs = [make_job(priority=priority) for priority in order]
    for job in jobs:
        await create(state, job)
    expected = [jobs[index].id for index in (2, 4, 1, 3, 0)]
    places = {job.id: (await state.jobs.load(job.id)).queue_position for job in jobs}
    assert sorted(places, key=lambda job_id: places[job_id] or 0) == expected
    assert sorted(place or 0 for place in places.values()) == [1, 2, 3, 4, 5]
    assert [claim.job.id for claim in await state.jobs.claim(9)] == expected
    assert (await state.jobs.load(expected[0])).queue_position is None


async def test_a_user_s_jobs_are_listed_by_age(state: State) -> None:
    """The index of a user's jobs forgets what has long expired."""
    old = make_job(user="u", created_at=time.time() - 40 * 86_400)
    new = make_job(user="u")
    for job in (old, new):
        await create(state, job)
    assert await state.client.execute("ZRANGE", state.keys.user_jobs("u"), 0, -1) == [new.id]


async def test_counts(state: State) -> None:
    """What waits and what is under way, over all processes."""
    for _ in range(3):
        await create(state)
    await state.jobs.claim(1)
    assert await state.jobs.queue_depth() == 2
    assert await state.jobs.counts() == {JobStatus.QUEUED: 2, JobStatus.PROCESSING: 1}


async def test_cancelling_a_queued_job(state: State) -> None:
    """It leaves the queue, its last event says so, and only what expires is left."""
    job = make_job(1, files=(FileEntry(index=0, source=Source(url="u", headers={"A": "b"})),))
    await create(state, job, keyed())
    cancelled, _ = await state.jobs.cancel(job.id, 12.5)
    assert cancelled.status is JobStatus.CANCELLED
    assert (cancelled.completed_at, cancelled.updated_at) == (12.5, 12.5)
    assert await state.jobs.load(job.id) == cancelled
    assert await state.jobs.claim(1) == []
    (first, last) = [event async for event in state.feed.watch(job.id)]
    assert (first.type, last.type) == (EventType.STATUS, EventType.CANCELLED)
    assert last.data["status"] == "cancelled"
    assert last.id == cancelled.cursor

    left = await names(state)
    own = {f"job:{job.id}", f"job:{job.id}:events"}
    lists = {"user:anonymous:jobs", "user::jobs"}
    assert left == own | lists | {"sequence", "installation", "idempotency:k"}
    for name in own:
        ttl = await state.client.execute("TTL", state.keys.prefix + name)
        assert 604_700 < ttl <= 604_800


async def test_cancelling_what_has_ended_is_refused(state: State) -> None:
    """The conflict names the status; nothing changes, and no second event is appended."""
    claim = await claimed(state)
    job = await end(state, claim)
    before = await state.jobs.load(job.id)
    with pytest.raises(JobConflict, match="completed"):
        await state.jobs.cancel(job.id, 0)
    assert await state.jobs.load(job.id) == before


async def test_cancelling_once_is_cancelling_once(
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same call repeated after a lost answer gives the same job; another is a conflict."""
    job = make_job()
    await create(state, job)
    monkeypatch.setattr(state.jobs, "_operation", lambda: "one")
    first, second = [await state.jobs.cancel(job.id, 1.0) for _ in range(2)]
    assert first == second
    monkeypatch.setattr(state.jobs, "_operation", lambda: "two")
    with pytest.raises(JobConflict):
        await state.jobs.cancel(job.id, 1.0)


async def test_a_cancelled_job_is_announced_to_its_worker(state: State) -> None:
    """The control channel says ``wake`` for the first job of an empty queue, and ``cancel``."""
    heard: list[str] = []
    state.feed.on_control(wake=lambda: heard.append("wake"), cancel=heard.append)
    async with asyncio.timeout(10):
        while not heard:
            await asyncio.sleep(0.01)
        heard.clear()
        for _ in range(2):
            await create(state)
        job = make_job()
        await create(state, job)
        await state.jobs.cancel(job.id, 0)
        while job.id not in heard:
            await asyncio.sleep(0.01)
    assert heard == ["wake", job.id]


@pytest.mark.parametrize("count", [1000, 7001])
async def test_a_job_of_many_files(state: State, count: int) -> None:
    """However many files are allowed, the job is made, claimed, finished and read whole."""
    claim = await claimed(state, make_job(count))
    assert len(claim.job.files) == count
    await end(state, claim)
    read = await state.jobs.load(claim.job.id, files=True)
    assert {file.status.value for file in read.files} == {"completed"}


async def test_prefixes_do_not_meet(valkey: Valkey, state: State) -> None:
    """Two services on one server see nothing of each other."""
    await create(state)
    async with open_state(valkey.url, prefix="{elsewhere}:") as other:
        assert await other.jobs.claim(5) == []
