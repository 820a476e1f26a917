"""What a process measures and knows, over a store that is told by hand what it has."""

from __future__ import annotations

import asyncio

import pytest

from downloadd.errors import StateUnavailable
from downloadd.jobs import pace as module
from downloadd.jobs.estimate import Lanes
from downloadd.jobs.pace import PaceBook
from downloadd.model import FileEntry, Job, Source
from downloadd.ports import History, Stint, Sums, Transfer
from tests.e2e.service import eventually
from tests.fakes import FakeClock, FakePace

HOST = "a:443"
SOURCE = Source(url="https://a/f", size=100)
STINT = Stint(seconds=3.0)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GATHER", 0.01)


def transfer(host: str = HOST, size: int = 100) -> Transfer:
    return Transfer(host=host, size=size, received=size, latency=0.5, seconds=2.0)


def make_book(store: FakePace, clock: FakeClock | None = None) -> PaceBook:
    lanes = Lanes(per_job=8, per_host=6)
    return PaceBook(store, clock or FakeClock(), lanes=lanes, concurrency=4)


def known() -> History:
    sums = Sums.of(transfer())
    return History(overall=sums, hosts={HOST: sums}, job_seconds=10.0, slots=4, waiting=7, active=4)


async def test_measurements_go_together() -> None:
    """Many files and jobs are one write; what comes later is another; the last says goodbye."""
    store = FakePace()
    async with make_book(store) as book:
        for _ in range(50):
            book.fetched([transfer(), transfer("b:443")])
        book.worked(STINT)
        await eventually(lambda: len(store.written) == 1)
        book.worked(STINT)
        await eventually(lambda: len(store.written) == 2)
        book.fetched([transfer()])
    (transfers, stints, slots), second, last = store.written
    assert {host: sums.files for host, sums in transfers.items()} == {HOST: 50, "b:443": 50}
    assert transfers[HOST].received == 5000
    assert (list(stints), slots) == ([STINT], 4)
    assert second == ({}, [STINT], 4)
    assert (last[0][HOST].files, last[2]) == (1, 0)


async def test_a_process_that_measures_nothing_writes_nothing() -> None:
    """A server that was started and stopped leaves no trace."""
    store = FakePace()
    async with make_book(store):
        await asyncio.sleep(0.05)
    assert store.written == []


async def test_a_process_that_worked_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slots count as long as it says so from time to time."""
    monkeypatch.setattr(module, "_SIGN", 0.01)
    store = FakePace()
    async with make_book(store) as book:
        book.worked(STINT)
        await eventually(lambda: len(store.written) >= 3)
    assert store.written[1] == ({}, [], 4)


async def test_without_redis_only_a_measurement_is_lost() -> None:
    """Jobs go on, the next measurements are written, and an outlook is one without history."""
    store = FakePace()
    store.error = StateUnavailable("Redis is away.")
    async with make_book(store) as book:
        book.fetched([transfer()])
        await eventually(lambda: not book._transfers)
        entry = FileEntry(index=0, source=SOURCE)
        job = Job(id="j", total_files=1, created_at=1, updated_at=1, files=(entry,))
        outlook = await book.outlook(job)
        assert outlook.remaining(job.files, {}, 0.0) is None
        with pytest.raises(StateUnavailable):
            await book.plan([SOURCE])
        store.error = None
        book.fetched([transfer("b:443")])
        await eventually(lambda: len(store.written) == 1)
    assert store.written[0][0].keys() == {"b:443"}


async def test_what_was_read_counts_for_some_seconds() -> None:
    """A burst of jobs costs one read; another host, or later times, cost another."""
    store, clock = FakePace(), FakeClock()
    store.known = known()
    book = make_book(store, clock)
    plans = [await book.plan([SOURCE] * 3) for _ in range(100)]
    assert store.reads == [{HOST}]
    assert plans[-1] == plans[0]
    assert plans[0].work == 2.5
    await book.plan([SOURCE, Source(url="https://new/f")])
    assert store.reads[1:] == [{"new:443"}]
    await book.plan([SOURCE])
    clock.time += 3
    await book.plan([SOURCE])
    assert store.reads[2:] == [{HOST}]


async def test_many_hosts_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of hosts is dropped when there are too many; all are still answered."""
    monkeypatch.setattr(module, "_HELD", 10)
    store = FakePace()
    book = make_book(store)
    for number in range(50):
        await book.history({f"h{number}:443"})
        assert len(book._hosts) <= 10


async def test_a_forecast_counts_the_queue() -> None:
    """Seven wait and all four slots are taken: eight turns of 2.5 s, and its own 2.5 s."""
    store = FakePace()
    store.known = known()
    assert await make_book(store).forecast([SOURCE]) == 23
    assert await make_book(FakePace()).forecast([SOURCE]) is None
