"""Jobs for these tests, and a store that keeps them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from downloadd.model import (
    FileEntry,
    FileStatus,
    Job,
    JobStatus,
    Options,
    Priority,
    Source,
    terminal_event,
)
from downloadd.ports import Claim, Created, Deduplication
from downloadd.state.setup import State

NO_DEDUP = Deduplication()


def make_job(count: int = 2, *, priority: Priority = Priority.NORMAL, **fields: Any) -> Job:
    now = time.time()
    files = tuple(
        FileEntry(
            index=index,
            source=Source(url=f"https://files.example/{index}.pdf", file_id=70000 + index),
        )
        for index in range(count)
    )
    defaults = {
        "options": Options(priority=priority),
        "files": files,
        "created_at": now,
        "updated_at": now,
    }
    return Job(
        id=str(uuid.uuid4()),
        total_files=count,
        **(defaults | fields),
    )


async def create(
    state: State,
    job: Job | None = None,
    dedup: Deduplication = NO_DEDUP,
    *,
    queue_limit: int = 10_000,
) -> Created:
    return await state.jobs.create(job or make_job(), dedup, queue_limit=queue_limit)


async def claimed(state: State, job: Job | None = None) -> Claim:
    """A new job, taken by a worker."""
    await create(state, job)
    (claim,) = await state.jobs.claim(1)
    return claim


async def end(state: State, claim: Claim, status: JobStatus = JobStatus.COMPLETED) -> Job:
    """Finish a claimed job in some way."""
    job = claim.job.moved(
        status,
        completed_at=time.time(),
        progress=100 if status is JobStatus.COMPLETED else claim.job.progress,
        files=tuple(file.evolve(status=FileStatus.COMPLETED) for file in claim.job.files),
    )
    await state.jobs.finish(claim.lease, job, terminal_event(job), files=job.files)
    return job


async def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
