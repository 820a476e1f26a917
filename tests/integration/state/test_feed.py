"""Events from a real Valkey to many watchers, through lost connections and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from downloadd.errors import JobNotFound
from downloadd.model import Event, EventType, JobStatus, progress_event
from downloadd.ports import Claim
from downloadd.state.setup import State, open_state
from downloadd.state.topic import RING
from tests.integration.state.making import claimed, create, end, eventually, make_job
from tests.valkey import Valkey


async def collect(state: State, job_id: str, after: str = "") -> list[Event]:
    async with asyncio.timeout(20):
        return [event async for event in state.feed.watch(job_id, after)]


async def say(state: State, claim: Claim, numbers: Sequence[int]) -> None:
    """Append progress events that carry these numbers."""
    for number in numbers:
        job = claim.job.evolve(bytes_fetched=number)
        await state.jobs.save(claim.lease, job, event=progress_event(job))


def numbers(events: Sequence[Event]) -> list[int]:
    """The numbers of the events that ``say`` made."""
    return [e.data["bytesFetched"] for e in events if e.data["bytesFetched"]]


def ids(events: Sequence[Event]) -> list[str | None]:
    return [event.id for event in events]


async def watching(state: State, count: int = 1) -> None:
    """Wait until this many subscriptions are in place."""
    await eventually(lambda: sum(t.floor is not None for t in state.feed._topics.values()) == count)


async def test_events_come_live_and_end(state: State) -> None:
    """A watcher gets what was and what comes, in order, each once, up to the terminal event."""
    claim = await claimed(state)
    task = asyncio.create_task(collect(state, claim.job.id))
    await say(state, claim, range(1, 6))
    await watching(state)
    await say(state, claim, range(6, 11))
    await end(state, claim)
    events = await task
    kinds = [event.type for event in events]
    assert kinds[:2] == [EventType.STATUS, EventType.PROGRESS]
    assert kinds[-1] is EventType.COMPLETE
    assert numbers(events) == list(range(1, 11))
    assert not state.feed._topics


async def test_resuming_anywhere_leaves_no_gap(state: State) -> None:
    """From each id, ended or not, come exactly the events after it; from the last, none."""
    claim = await claimed(state)
    await say(state, claim, range(1, 4))
    await end(state, claim)
    events = await collect(state, claim.job.id)
    for place in range(len(events)):
        rest = await collect(state, claim.job.id, str(events[place].id))
        assert rest == events[place + 1 :]


async def test_a_snapshot_s_cursor_continues_in_the_feed(state: State) -> None:
    """Status read, then watched from its cursor: nothing missing, nothing twice."""
    claim = await claimed(state)
    await say(state, claim, [1, 2])
    cursor = (await state.jobs.load(claim.job.id)).cursor
    await say(state, claim, [3])
    await end(state, claim)
    events = await collect(state, claim.job.id, cursor or "")
    assert [event.type.value for event in events] == ["progress", "complete"]


@pytest.mark.parametrize("after", ["", "nonsense", "0-0", "-", "1-x", "²-1"])
async def test_an_id_that_is_none_means_from_the_beginning(state: State, after: str) -> None:
    """Clients send what they like; they get everything rather than a gap."""
    job = make_job()
    await create(state, job)
    await state.jobs.cancel(job.id, 0)
    assert len(await collect(state, job.id, after)) == 2


async def test_a_job_that_is_not_there(state: State) -> None:
    """Watching an unknown or expired job ends with an error, and leaves no subscription."""
    with pytest.raises(JobNotFound):
        await collect(state, "nope")
    assert not state.feed._topics


async def test_other_processes_events_arrive(valkey: Valkey, state: State) -> None:
    """Whoever works on the job, every process's subscribers hear of it."""
    async with open_state(valkey.url, prefix=state.keys.prefix) as other:
        claim = await claimed(other)
        task = asyncio.create_task(collect(state, claim.job.id))
        await watching(state)
        await say(other, claim, [1])
        await end(other, claim)
        assert numbers(await task)[0] == 1


async def test_a_slow_reader_misses_nothing_and_delays_nobody(state: State) -> None:
    """Who falls behind the ring reads on from the stream."""
    claim = await claimed(state)
    total = RING * 4
    async with aclosing(state.feed.watch(claim.job.id)) as slow:
        first = await anext(slow)
        quick = asyncio.create_task(collect(state, claim.job.id))
        await say(state, claim, range(1, total + 1))
        await end(state, claim)
        assert numbers(await quick)[:total] == list(range(1, total + 1))
        rest = [event async for event in slow]
    assert ids([first, *rest]) == ids(quick.result())


async def test_a_late_watcher_of_a_long_stream_gets_all_of_it(state: State) -> None:
    """More events than the ring holds come from the stream, then the live ones."""
    claim = await claimed(state)
    await say(state, claim, range(1, RING * 5))
    task = asyncio.create_task(collect(state, claim.job.id))
    await watching(state)
    await say(state, claim, [RING * 5])
    await end(state, claim)
    assert numbers(await task)[: RING * 5] == list(range(1, RING * 5 + 1))


async def test_the_last_to_leave_ends_the_subscription(state: State) -> None:
    """A client that goes away leaves nothing behind, and others stay."""
    claim = await claimed(state)

    async def subscribers() -> int:
        channel = state.keys.events(claim.job.id)
        return int((await state.client.execute("PUBSUB", "NUMSUB", channel))[1])

    tasks = [asyncio.create_task(collect(state, claim.job.id)) for _ in range(3)]
    await watching(state)
    for left in (2, 1, 0):
        task = tasks.pop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(state.feed._topics) == (left > 0)
    async with asyncio.timeout(5):
        while await subscribers():
            await asyncio.sleep(0.01)


async def test_coming_back_at_once_leaves_no_gap(state: State) -> None:
    """Leaving and watching again in one moment does not mix up the two subscriptions."""
    claim = await claimed(state)
    for number in range(1, 30):
        async with aclosing(state.feed.watch(claim.job.id)) as events:
            await anext(events)
        task = asyncio.create_task(collect(state, claim.job.id))
        await asyncio.sleep(0)
        await say(state, claim, [number])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    task = asyncio.create_task(collect(state, claim.job.id))
    await asyncio.sleep(0)
    await end(state, claim)
    assert numbers(await task)[:29] == list(range(1, 30))


async def test_a_killed_subscription_loses_nothing(own_state: State, own_valkey: Valkey) -> None:
    """Events published while the connection is away are read when it is back."""
    claim = await claimed(own_state)
    tasks = [asyncio.create_task(collect(own_state, claim.job.id)) for _ in range(5)]
    await watching(own_state)
    for round_ in range(4):
        own_valkey.call("CLIENT", "KILL", "TYPE", "pubsub")
        await say(own_state, claim, range(round_ * 50 + 1, round_ * 50 + 51))
        await asyncio.sleep(0.05)
    await end(own_state, claim)
    for events in await asyncio.gather(*tasks):
        assert numbers(events)[:200] == list(range(1, 201))
        assert events[-1].type is EventType.COMPLETE


async def test_a_server_killed_and_started_loses_nothing(
    own_state: State,
    own_valkey: Valkey,
) -> None:
    """Watchers wait through an outage, then get what they missed; workers are woken."""
    woken: list[bool] = []
    own_state.feed.on_control(wake=lambda: woken.append(True), cancel=lambda _: None)
    claim = await claimed(own_state)
    task = asyncio.create_task(collect(own_state, claim.job.id))
    await watching(own_state)
    await say(own_state, claim, [1, 2])
    own_valkey.kill()
    woken.clear()
    late = asyncio.create_task(collect(own_state, claim.job.id))
    await asyncio.sleep(0.3)
    own_valkey.start()
    await say(own_state, claim, [3])
    await end(own_state, claim)
    for events in await asyncio.gather(task, late):
        assert numbers(events)[:3] == [1, 2, 3]
    await eventually(lambda: bool(woken))


async def test_500_watchers_hear_at_once(state: State) -> None:
    """One subscription and one read of the stream serve them all."""
    claim = await claimed(state)

    async def watch() -> float:
        *_, last = [event async for event in state.feed.watch(claim.job.id)]
        assert last.type is EventType.COMPLETE
        return time.perf_counter()

    tasks = [asyncio.create_task(watch()) for _ in range(500)]
    await watching(state)
    assert len(state.feed._topics) == 1
    begun = time.perf_counter()
    await end(state, claim)
    async with asyncio.timeout(20):
        heard = await asyncio.gather(*tasks)
    assert max(heard) - begun < 5


async def test_many_jobs_are_watched_at_once(state: State) -> None:
    """Each watcher gets the events of its own job."""
    claims = [await claimed(state) for _ in range(30)]
    tasks = [asyncio.create_task(collect(state, claim.job.id)) for claim in claims]
    await watching(state, 30)
    for claim in claims:
        await end(state, claim, JobStatus.FAILED)
    for claim, events in zip(claims, await asyncio.gather(*tasks), strict=True):
        assert {event.data["jobId"] for event in events} == {claim.job.id}
        assert events[-1].type is EventType.FAILED
