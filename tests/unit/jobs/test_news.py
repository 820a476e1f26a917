"""When a running job is news."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from downloadd.jobs.estimate import Lanes
from downloadd.jobs.news import News
from downloadd.jobs.pace import PaceBook
from downloadd.model import FileEntry, FileStatus, Job, JobStatus, Source
from downloadd.pipeline import Flight, Step
from tests.fakes import FakeClock, FakePace

MIB = 1 << 20


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def news(clock: FakeClock) -> News:
    lanes = Lanes(per_job=8, per_host=6)
    return News(clock, PaceBook(FakePace(), clock, lanes=lanes, concurrency=4))


def job(**fields: Any) -> Job:
    known = {"total_files": 1, "created_at": 1, "updated_at": 1, "status": JobStatus.PROCESSING}
    return Job(id="j", **{**known, **fields})


def test_what_changes_is_told_four_times_a_second(clock: FakeClock, news: News) -> None:
    """The first is told a little after the claim, then each change, none too soon."""
    assert news.of(job()) is None
    told = []
    for step in range(100):
        clock.time += 0.05
        told.append(news.of(job(bytes_fetched=step)) is not None)
    assert 15 <= sum(told) <= 20


def test_another_estimate_alone_is_told_seldom(clock: FakeClock, news: News) -> None:
    """A job that stands still for an hour, its estimate growing, makes few events."""
    told = []
    for step in range(4 * 3600):
        clock.time += 0.25
        if (event := news.of(job(work_left=1 + step / 4))) is not None:
            told.append(event.data["estimatedTimeRemaining"])
    assert 5 < len(told) < 40
    assert all(new > old * 1.2 for old, new in itertools.pairwise(told))


def test_an_estimate_that_wavers_is_no_news(clock: FakeClock, news: News) -> None:
    """A second more or less is not told by itself; that it is unknown now is."""
    clock.time += 1
    assert news.of(job(work_left=30)) is not None
    for step in range(100):
        clock.time += 1
        assert news.of(job(work_left=30 + step % 3)) is None
    assert news.of(job(work_left=None)) is not None
    clock.time += 1
    assert news.of(job(work_left=30)) is None
    clock.time += 5
    assert news.of(job(work_left=30)) is not None


async def test_a_step_is_estimated(clock: FakeClock, news: News) -> None:
    """The job of a step says what is left by its own pace, where there is no history."""
    source = Source(url="https://a/f", size=10 * MIB)
    said = []
    for second in range(1, 4):
        clock.time += 1
        entry = FileEntry(
            index=0, source=source, status=FileStatus.FETCHING, bytes_fetched=second * MIB
        )
        begun = clock.time - second
        flight = Flight(arrived=second * MIB, came=second * MIB, asked=begun, begun=begun)
        step = Step(job=job(files=(entry,)), flights={0: flight})
        said.append((await news.estimated(step)).remaining)
    assert said == [9, 8, 7]
