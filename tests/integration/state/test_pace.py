"""Measurements in Redis: shared, bounded, older ones counting for less; and jobs' estimates."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest

from downloadd.errors import StateUnavailable
from downloadd.model import JobStatus
from downloadd.ports import History, Stint, Sums, Turn
from downloadd.state import pace as module
from downloadd.state.pace import FILE_DECAY, HOST_TTL, RedisPace
from downloadd.state.setup import State, open_state
from tests.integration.state.making import NO_DEDUP, end, make_job
from tests.valkey import Valkey

HOST = "files.example:443"
MIB = float(1 << 20)


def sums(files: float = 1, rate: float = MIB) -> Sums:
    size = files * MIB
    return Sums(files=files, size=size, received=size, seconds=size / rate, latency=files * 0.5)


async def record(
    pace: RedisPace, *hosts: str, stints: tuple[Stint, ...] = (), slots: int = 4, **how: Any
) -> None:
    await pace.record({host: sums(**how) for host in hosts}, stints, slots=slots, now=time.time())


async def test_nothing_is_known_at_first(state: State) -> None:
    """An empty Redis has no history, and nobody works."""
    assert await state.pace.read({HOST}) == History()


async def test_what_one_process_measures_all_know(state: State, valkey: Valkey) -> None:
    """Hosts, all transfers and jobs are added up over processes; their slots too."""
    async with open_state(valkey.url, prefix=state.keys.prefix) as other:
        await record(state.pace, HOST, "b:80", stints=(Stint(seconds=4.0, tail=1.0),))
        await record(other.pace, HOST, stints=(Stint(seconds=8.0),), slots=3)
        known = await other.pace.read({HOST, "new:443"})
    assert known.hosts.keys() == {HOST}
    assert known.hosts[HOST].files == pytest.approx(1 + FILE_DECAY)
    assert known.overall is not None
    assert known.overall.files == pytest.approx(1 + 2 * FILE_DECAY)
    assert known.job_seconds == pytest.approx(6.0, rel=0.02)
    assert known.tail == 1.0
    assert known.slots == 7
    assert time.time() - 5 < known.at <= time.time()


async def test_history_survives_a_restart(own_valkey: Valkey) -> None:
    """What was measured is there when everything comes back, after a kill too."""
    async with open_state(own_valkey.url) as before:
        await record(before.pace, HOST)
        known = await before.pace.read({HOST})
    own_valkey.kill()
    own_valkey.start()
    async with open_state(own_valkey.url) as after:
        again = await after.pace.read({HOST})
    assert again.hosts == known.hosts
    assert again.overall == known.overall


async def test_what_is_new_counts_for_more(state: State) -> None:
    """A host that has become ten times slower is known for that after some 50 files."""
    for _ in range(10):
        await record(state.pace, HOST, files=20.0)
    for _ in range(10):
        await record(state.pace, HOST, files=10.0, rate=MIB / 10)
    known = (await state.pace.read({HOST})).hosts[HOST]
    assert known.received / known.seconds < MIB / 8


async def test_few_hosts_are_remembered(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more hosts than are kept, those go that were not measured for the longest time."""
    monkeypatch.setattr(module, "HOSTS_KEPT", 3)
    names = [f"h{number}:443" for number in range(6)]
    for name in [*names, names[3]]:
        await record(state.pace, name)
    assert set((await state.pace.read(names)).hosts) == set(names[3:])
    await record(state.pace, "x" * 260, "")
    assert not (await state.pace.read(["x" * 260, ""])).hosts


async def test_hosts_are_forgotten_in_time(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that nobody has asked for long is dropped, and all of it ends with its users."""
    await record(state.pace, "old:443")
    keys = state.keys
    for name in (keys.pace, keys.pace_hosts, keys.pace_recent, keys.processes):
        assert HOST_TTL - 10 < await state.client.execute("TTL", name) <= HOST_TTL
    await state.client.execute("ZADD", keys.pace_recent, time.time() - HOST_TTL - 60, "old:443")
    await record(state.pace, HOST)
    assert (await state.pace.read(["old:443", HOST])).hosts.keys() == {HOST}


async def test_a_write_that_comes_twice_counts_once(state: State) -> None:
    """When its answer was lost a write is sent again, and adds nothing then."""
    await record(state.pace, HOST)
    known = await state.pace.read({HOST})
    state.pace._operations = itertools.count(1)
    await record(state.pace, HOST)
    assert await state.pace.read({HOST}) == known
    await record(state.pace, HOST)
    assert await state.pace.read({HOST}) != known


async def test_processes_that_are_gone_work_on_nothing(
    state: State, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that goes away says so; one that died counts no more after a minute."""
    async with open_state(valkey.url, prefix=state.keys.prefix) as other:
        await record(other.pace, slots=3)
        await record(state.pace, slots=4)
        await record(other.pace, slots=0)
        assert (await state.pace.read(())).slots == 4
    monkeypatch.setattr(module, "PROCESS_TTL", -1)
    assert (await state.pace.read(())).slots == 0
    await record(state.pace)
    assert not await state.client.execute("EXISTS", state.keys.processes)


@pytest.mark.parametrize(
    "text", ["", "1", "a b c d e", "nan 1 1 1 1", "0 1 1 1 1", "1 1 1 -1 1", "inf inf inf inf inf"]
)
async def test_what_makes_no_sense_is_not_known(state: State, text: str) -> None:
    """Whatever lies in Redis, it is read as nothing, and what is measured then is not spoilt."""
    await state.client.execute("HSET", state.keys.pace_hosts, HOST, text)
    await state.client.execute("HSET", state.keys.pace, "files", text, "jobs", text)
    known = await state.pace.read({HOST})
    assert (known.hosts, known.overall, known.job_seconds) == ({}, None, None)
    await record(state.pace, HOST)
    assert (await state.pace.read({HOST})).overall is not None


async def test_absurd_measurements_are_bounded(state: State) -> None:
    """A clock that was set by years spoils nothing for long."""
    odd = Sums(files=1, size=1e300, received=1e300, seconds=1e12, latency=-1e12)
    await state.pace.record({HOST: odd}, [Stint(seconds=-5.0, tail=1e12)], slots=1, now=0.0)
    known = await state.pace.read({HOST})
    assert known.hosts[HOST].seconds == 86_400
    assert known.hosts[HOST].latency == 0
    assert (known.job_seconds, known.tail) == (0.0, 86_400)


async def test_without_redis_nothing_is_added(own_state: State, own_valkey: Valkey) -> None:
    """The caller hears that the measurement is lost."""
    own_valkey.kill()
    with pytest.raises(StateUnavailable):
        await record(own_state.pace, HOST)


# --- jobs ---------------------------------------------------------------------


async def estimated(state: State, turn: Turn, work: float | None) -> tuple[str, int | None]:
    job = make_job(work_left=work)
    created = await state.jobs.create(job, NO_DEDUP, queue_limit=100, turn=turn)
    return job.id, created.estimated_time


async def events(state: State, job_id: str) -> list[Any]:
    rows = await state.client.execute("XRANGE", state.keys.events(job_id), "-", "+")
    return [json.loads(fields[3]) for _, fields in rows]


async def test_a_job_is_told_its_time_by_its_place(state: State) -> None:
    """Work, and a turn for each place beyond the free ones; the job, its event and reads agree."""
    turn = Turn(free=2, per_place=2.5)
    for place in range(1, 7):
        job_id, said = await estimated(state, turn, 3.2)
        assert said == -(-(turn.wait(place) + 3.2) // 1)
        job = await state.jobs.load(job_id)
        assert (job.estimated_time, job.work_left, job.queue_position) == (said, 3.2, place)
        (event,) = await events(state, job_id)
        assert event["estimatedTimeRemaining"] == said


async def test_a_job_of_unknown_length_has_no_time(state: State) -> None:
    """Nothing is said where nothing is known."""
    job_id, said = await estimated(state, Turn(free=0, per_place=10.0), None)
    job = await state.jobs.load(job_id)
    assert (said, job.estimated_time, job.work_left) == (None, None, None)
    assert (await events(state, job_id))[0]["estimatedTimeRemaining"] is None


async def test_a_creation_that_comes_twice_is_told_the_same(state: State) -> None:
    """When the answer was lost the next one has the same estimate."""
    job = make_job(work_left=3.2)
    turn = Turn(free=0, per_place=1.0)
    first = await state.jobs.create(job, NO_DEDUP, queue_limit=100, turn=turn)
    assert await state.jobs.create(job, NO_DEDUP, queue_limit=100, turn=turn) == first
    assert first.estimated_time == 5


async def test_a_claimed_job_has_its_work_before_it(state: State) -> None:
    """The wait is over: the event of the claim says what the work alone takes."""
    job_id, _ = await estimated(state, Turn(free=0, per_place=100.0), 7.5)
    (claim,) = await state.jobs.claim(1)
    assert claim.job.remaining == 8
    assert (await events(state, job_id))[-1]["estimatedTimeRemaining"] == 8
    await state.jobs.save(claim.lease, claim.job.evolve(work_left=4))
    assert (await state.jobs.load(job_id)).remaining == 4


async def test_an_ended_job_has_nothing_left(state: State) -> None:
    """A cancelled job says no time; queued again it has what is to be done again."""
    job_id, _ = await estimated(state, Turn(), 7.5)
    job, _ = await state.jobs.cancel(job_id, time.time())
    assert (job.remaining, job.completion) == (None, None)
    assert (await events(state, job_id))[-1]["estimatedTimeRemaining"] is None
    again = await state.jobs.retry(job_id, time.time(), queue_limit=9, body_window=0, work=2.5)
    assert (again.work_left, again.estimated_time) == (2.5, 8)
    (claim,) = await state.jobs.claim(1)
    await end(state, claim, JobStatus.FAILED)
    assert (await state.jobs.load(job_id)).remaining is None
