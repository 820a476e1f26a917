"""Rules of jobs that do not need a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from downloadd.access.caller import Caller
from downloadd.errors import DownloaddError, JobConflict, JobExpired, JobNotFound, StateUnavailable
from downloadd.jobs.estimate import Lanes
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.service import JobRequest, JobService
from downloadd.model import (
    Archive,
    Event,
    EventType,
    Job,
    JobStatus,
    Link,
    Source,
    terminal_event,
)
from downloadd.ports import Created, Deduplication, History, SystemClock, Turn
from downloadd.telemetry.metrics import Metrics
from tests.fakes import FakePace

ARCHIVE = Archive(key="k.zip", size=5, sha256="a" * 64, file_name="order.zip")


class Clock(SystemClock):
    def now(self) -> float:
        return 1000.0


class World:
    """One job, its events, and a signer that counts."""

    def __init__(self, job: Job, events: list[Event] | None = None) -> None:
        self.job = job
        self.events = events or []
        self.signed = 0
        self.cancelled = False
        self.pace = FakePace()
        self.dedup: list[Deduplication] = []

    async def load(self, job_id: str, *, files: bool = False) -> Job:
        return self.job

    async def cancel(self, job_id: str, now: float) -> tuple[Job, str | None]:
        self.cancelled = True
        return self.job, None

    async def storage_there(self) -> bool:
        return True

    async def create(
        self, job: Job, dedup: Deduplication, *, queue_limit: int, turn: Turn | None = None
    ) -> Created:
        self.dedup.append(dedup)
        return Created(job_id=job.id)

    async def sign(self, archive: Archive) -> Link:
        self.signed += 1
        return Link(url="https://fresh.example", expires_at=4600.0)

    async def watch(self, job_id: str, after: str) -> AsyncGenerator[Event]:
        for event in self.events:
            yield event
        await asyncio.Event().wait()


def service(world: World) -> JobService:
    part = cast("Any", world)
    lanes = Lanes(per_job=8, per_host=6)
    return JobService(
        store=part,
        objects=part,
        feed=part,
        clock=Clock(),
        metrics=Metrics(),
        book=PaceBook(world.pace, Clock(), lanes=lanes, concurrency=4),
        queue_limit=5,
        dedupe_window=60.0,
        storage_there=world.storage_there,
        archive_ttl=500.0,
    )


def job(**fields: Any) -> Job:
    known = {"id": "j", "user": "ann", "total_files": 1, "created_at": 1.0, "updated_at": 1.0}
    return Job(**{**known, **fields})


def completed(expires_at: float) -> Job:
    link = Link(url="https://old.example", expires_at=expires_at)
    return job(
        status=JobStatus.COMPLETED, archive=ARCHIVE, link=link, cursor="9-0", completed_at=600.0
    )


ANN, BOB = Caller(user="ann", role="user"), Caller(user="bob", role="user")


async def test_somebody_elses_job_is_not_there() -> None:
    """Whatever is asked of another's job, it does not exist, and nothing happens to it."""
    world = World(completed(5000.0))
    jobs = service(world)
    for asked in (
        jobs.get("j", BOB),
        jobs.cancel("j", BOB),
        jobs.retry("j", BOB),
        jobs.link("j", BOB),
    ):
        with pytest.raises(JobNotFound):
            await asked
    assert not world.cancelled
    assert (await jobs.get("j", ANN)).id == "j"


@pytest.mark.parametrize(
    ("expires_at", "url"),
    [
        (5000.0, "https://old.example"),
        (1030.0, "https://fresh.example"),
        (1.0, "https://fresh.example"),
    ],
)
async def test_links_are_signed_anew_in_time(expires_at: float, url: str) -> None:
    """A link that is past its time, or too close to it to be used, is replaced."""
    world = World(completed(expires_at))
    job = await service(world).get("j", ANN)
    assert job.link is not None
    assert job.link.url == url


async def test_a_link_that_is_asked_for_is_fresh() -> None:
    """Whoever asks for the link has its whole time, even when the stored one still works."""
    _, archive, link = await service(World(completed(5000.0))).link("j", ANN)
    assert (archive, link.url) == (ARCHIVE, "https://fresh.example")


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({}, JobConflict, "queued"),
        ({"status": JobStatus.PROCESSING}, JobConflict, "processing"),
        ({"status": JobStatus.FAILED, "error": "No such file."}, JobConflict, "No such file."),
        ({"status": JobStatus.CANCELLED}, JobConflict, "cancelled"),
        ({"status": JobStatus.EXPIRED, "archive": ARCHIVE}, JobExpired, "removed"),
    ],
)
async def test_no_archive_no_link(
    fields: dict[str, Any], error: type[Exception], word: str
) -> None:
    """Without an archive there is no link, and the sentence says why."""
    with pytest.raises(error, match=word):
        await service(World(job(**fields))).link("j", ANN)


async def test_an_archive_whose_time_is_over() -> None:
    """The job is expired for everybody who asks, although nobody has removed the archive yet."""
    world = World(completed(5000.0).evolve(completed_at=500.0))
    jobs = service(world)
    with pytest.raises(JobExpired):
        await jobs.link("j", ANN)
    read = await jobs.get("j", ANN)
    assert (read.status, read.link) == (JobStatus.EXPIRED, None)
    (last,) = [event async for event in jobs.watch(read, "9-0")]
    assert last.data["status"] == "expired"
    assert "downloadUrl" not in last.data
    assert not world.signed
    world.job = completed(5000.0).evolve(completed_at=500.1)
    assert (await jobs.link("j", ANN))[2].url == "https://fresh.example"


async def test_deduplication_keys() -> None:
    """Body and key are hashed with their caller; dedupe false leaves the body out."""
    world = World(job())
    jobs = service(world)
    asked = JobRequest(
        caller=ANN, sources=[Source(url="https://a.example")], body_hash="b", idempotency_key="k"
    )
    for request in (
        asked,
        asked.evolve(caller=BOB),
        asked.evolve(dedupe=False),
        asked.evolve(idempotency_key=None),
    ):
        await jobs.make(request)
    ann, bob, fresh, keyless = world.dedup
    assert ann.body_key != bob.body_key
    assert ann.idempotency_key != bob.idempotency_key
    assert fresh.body_key is None
    assert fresh.idempotency_key == ann.idempotency_key
    assert (keyless.idempotency_key, keyless.idempotency_body) == (None, None)
    assert keyless.body_key == ann.body_key
    assert ann.body_window == 60.0


async def test_the_end_of_an_old_job_has_a_link_that_works() -> None:
    """Replayed from the stream, the last event carries the fresh link, not the old one."""
    old = completed(1.0)
    progress = Event(type=EventType.PROGRESS, data={}, id="8-0")
    retried = Event(type=EventType.FAILED, data={}, id="7-0")
    world = World(old, [retried, progress, terminal_event(old).evolve(id="9-0")])
    jobs = service(world)
    told = [event async for event in jobs.watch(await jobs.get("j", ANN), "1-0")]
    assert [event.id for event in told] == ["8-0", "9-0"]
    assert told[-1].data["downloadUrl"] == "https://fresh.example"


async def test_an_ended_job_without_a_stream_still_ends() -> None:
    """Watching from the last event on, or where no stream is left, gives the end at once."""
    jobs = service(World(completed(5000.0)))
    for now in (completed(5000.0), completed(5000.0).evolve(cursor=None)):
        told = [event async for event in jobs.watch(now, "9-0")]
        assert [event.type for event in told] == [EventType.COMPLETE]


@pytest.mark.parametrize(
    ("at", "error", "left"),
    [
        pytest.param(995.0, None, 16, id="known"),
        pytest.param(900.0, None, None, id="overdue"),
        pytest.param(995.0, StateUnavailable("Redis is away."), None, id="away"),
    ],
)
async def test_a_waiting_job_says_how_long(
    at: float, error: DownloaddError | None, left: int | None
) -> None:
    """Its wait and its work; nothing when that time is past, or cannot be read."""
    world = World(job(queue_position=3, work_left=1.0))
    world.pace.known = History(job_seconds=20.0, slots=4, active=4, at=at)
    world.pace.error = error
    found = await service(world).get("j", ANN)
    assert found.remaining == left
    assert found.completion == (None if left is None else at + left)


@pytest.mark.parametrize(("started_at", "timed"), [(None, 0), (10.0, 1)])
async def test_a_cancelled_job_is_counted_once(started_at: float | None, timed: int) -> None:
    """By whoever cancels it, for it may have no worker; one that never began took no time."""
    world = World(job(started_at=started_at))
    jobs = service(world)
    await jobs.cancel("j", ANN)
    assert jobs._metrics.downloads.labels("cancelled")._value.get() == 1
    count = jobs._metrics.registry.get_sample_value
    assert count("download_processing_seconds_count", {"status": "cancelled"}) == timed


async def test_a_cancel_outlives_the_request_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is gone through with, and a stop of the service waits for it."""
    world, go = World(job()), asyncio.Event()
    begun = asyncio.Event()

    async def slowly(job_id: str, now: float) -> tuple[Job, str | None]:
        begun.set()
        await go.wait()
        world.cancelled = True
        return world.job, None

    monkeypatch.setattr(world, "cancel", slowly)
    jobs = service(world)
    asked = asyncio.create_task(jobs.cancel("j", ANN))
    await begun.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    go.set()
    await jobs.close()
    assert world.cancelled
