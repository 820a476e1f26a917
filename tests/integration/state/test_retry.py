"""Ended jobs that are queued once more, in a real Valkey."""

from __future__ import annotations

import pytest

from downloadd.errors import JobConflict, JobNotFound, QueueFull
from downloadd.model import FileEntry, FileStatus, Job, JobStatus, Priority, Source, terminal_event
from downloadd.ports import Deduplication
from downloadd.state.setup import State
from tests.integration.state.making import claimed, create, end, make_job


async def failed(state: State, job: Job | None = None, *, checkpoint: str | None = None) -> Job:
    """A job of three files of which one has come, one has failed and one is missing."""
    claim = await claimed(state, job or make_job(3))
    first, second, *_ = claim.job.files
    files = [
        first.evolve(status=FileStatus.COMPLETED, size=5, name="a"),
        second.evolve(status=FileStatus.FAILED, error='"status":"completed"', error_code="x"),
    ]
    running = claim.job.evolve(progress=80, files_completed=1, files_failed=1, bytes_fetched=5)
    await state.jobs.save(claim.lease, running, files=files, checkpoint=checkpoint)
    ended = running.moved(JobStatus.FAILED, completed_at=5.0, error="It failed.", error_code="x")
    await state.jobs.finish(claim.lease, ended, terminal_event(ended))
    return ended


async def retry(state: State, job_id: str, *, limit: int = 100) -> Job:
    return await state.jobs.retry(job_id, 9.0, queue_limit=limit, body_window=60.0)


async def test_a_failed_job_goes_on_from_what_it_has(state: State) -> None:
    """Errors and failed files are gone, what has come stays, and nothing expires any more."""
    job = await failed(state, checkpoint="kept")
    again = await retry(state, job.id)
    assert (again.status, again.queue_position) == (JobStatus.QUEUED, 1)
    assert (again.error, again.error_code, again.completed_at) == (None, None, None)
    assert (again.progress, again.files_completed, again.files_failed) == (33, 1, 0)
    read = await state.jobs.load(job.id, files=True)
    assert [f.status.value for f in read.files] == ["completed", "pending", "pending"]
    keys = state.keys
    for key in (keys.job(job.id), keys.files(job.id), keys.events(job.id), keys.checkpoint(job.id)):
        assert await state.client.execute("TTL", key) == -1
    (claim,) = await state.jobs.claim(1)
    assert (claim.job.id, claim.checkpoint) == (job.id, "kept")
    assert (claim.job.attempts, claim.deaths) == (2, 0)


async def test_an_event_says_so(state: State) -> None:
    """Whoever resumes from before the failure gets it and what came after it."""
    job = await failed(state)
    await retry(state, job.id)
    (claim,) = await state.jobs.claim(1)
    await end(state, claim)
    events = [event async for event in state.feed.watch(job.id)]
    kinds = [event.type.value for event in events]
    assert kinds == ["status", "progress", "failed", "status", "progress", "complete"]
    told = events[3].data
    assert (told["status"], told["progress"], told["filesFailed"]) == ("queued", 33, 0)
    assert "error" not in told


async def test_a_sealed_archive_stays_as_it_is(state: State) -> None:
    """Where the end of the archive is laid out, what failed is settled with it."""
    job = await failed(state, checkpoint='{"version":2,"sealed":true}')
    again = await retry(state, job.id)
    assert (again.progress, again.files_failed, again.partial) == (67, 1, True)
    (claim,) = await state.jobs.claim(1)
    assert claim.job.files[1].status is FileStatus.FAILED


async def test_a_cancelled_job_begins_anew(state: State) -> None:
    claim = await claimed(state)
    done = claim.job.files[0].evolve(status=FileStatus.COMPLETED)
    running = claim.job.evolve(files_completed=1, progress=50, bytes_fetched=9)
    await state.jobs.save(claim.lease, running, files=[done], checkpoint="x")
    _, checkpoint = await state.jobs.cancel(claim.job.id, 1.0)
    assert checkpoint == "x"
    again = await retry(state, claim.job.id)
    assert (again.progress, again.files_completed, again.bytes_fetched) == (0, 0, 0)
    (claim,) = await state.jobs.claim(1)
    assert claim.checkpoint is None
    assert {file.status for file in claim.job.files} == {FileStatus.PENDING}


async def test_priority_and_place(state: State) -> None:
    """A retried job queues behind those of its priority."""
    job = await failed(state, make_job(3, priority=Priority.HIGH))
    await create(state, make_job())
    await create(state, make_job(priority=Priority.HIGH))
    assert (await retry(state, job.id)).queue_position == 2


async def test_what_is_not_retried(state: State) -> None:
    """Jobs that have not failed, a full queue, no job at all; nothing changes."""
    with pytest.raises(JobNotFound):
        await retry(state, "nope")
    job = await failed(state)
    waiting = await create(state)
    with pytest.raises(QueueFull):
        await retry(state, job.id, limit=1)
    assert (await state.jobs.load(job.id)).status is JobStatus.FAILED
    with pytest.raises(JobConflict, match="queued"):
        await retry(state, waiting.job_id)
    (claim,) = await state.jobs.claim(1)
    with pytest.raises(JobConflict, match="processing"):
        await retry(state, claim.job.id)
    await end(state, claim)
    with pytest.raises(JobConflict, match="completed"):
        await retry(state, claim.job.id)


async def test_forgotten_headers_are_a_conflict(state: State) -> None:
    """A job whose headers are gone cannot be fetched as it was asked for; a failed one can."""
    source = Source(url="u", headers={"Cookie": "x"})
    made = [
        make_job(3, files=(FileEntry(index=0, source=source), *make_job(3).files[1:])) for _ in "ab"
    ]
    job = await failed(state, made[0])
    await retry(state, job.id)
    (claim,) = await state.jobs.claim(1)
    assert claim.job.files[0].source.headers == {"Cookie": "x"}
    assert await state.client.execute("TTL", state.keys.headers(job.id)) == -1
    await create(state, made[1])
    await state.jobs.cancel(made[1].id, 1.0)
    with pytest.raises(JobConflict, match="headers"):
        await retry(state, made[1].id)


async def test_it_stands_for_its_body_again(state: State) -> None:
    """Unless another job does meanwhile."""
    body = Deduplication(body_key="b")
    job = make_job()
    await create(state, job, body)
    await state.jobs.cancel(job.id, 1.0)
    await retry(state, job.id)
    assert (await create(state, None, body)).job_id == job.id
    await state.jobs.cancel(job.id, 1.0)
    other = await create(state, None, body)
    assert other.job_id != job.id
    await retry(state, job.id)
    assert (await create(state, None, body)).job_id == other.job_id


async def test_a_retry_repeated_after_a_lost_answer_is_one(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await failed(state)
    monkeypatch.setattr(state.jobs, "_operation", lambda: "again")
    first, second = [await retry(state, job.id) for _ in range(2)]
    assert first == second
    assert await state.jobs.queue_depth() == 1
