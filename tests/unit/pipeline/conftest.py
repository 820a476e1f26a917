"""A pipeline over ports in memory, with a real temporary folder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from downloadd.model import FileEntry, Job, JobStatus, Options, Source
from downloadd.pipeline import (
    DiskBudget,
    FetchPolicy,
    FetchServices,
    FetchSlots,
    JobRun,
    MemoryBudget,
    RunServices,
    Spool,
    Step,
)
from downloadd.telemetry.metrics import Metrics
from tests.fakes import FakeClock, FakeReader, MemoryStore, Script
from tests.folders import file_sizes


def make_job(sources: Sequence[Source], **options: Any) -> Job:
    return Job(
        id=str(uuid.uuid4()),
        files=tuple(FileEntry(index=i, source=source) for i, source in enumerate(sources)),
        total_files=len(sources),
        options=Options(**options),
        status=JobStatus.PROCESSING,
        created_at=1_800_000_000.0,
        updated_at=1_800_000_000.0,
    )


@dataclass
class Bench:
    """Everything a run needs, and what came of it."""

    reader: FakeReader
    store: MemoryStore
    clock: FakeClock
    spool: Spool
    folder: Path
    services: RunServices
    steps: list[Step] = field(default_factory=list)

    def run(self, job: Job, checkpoint: str | None = None) -> JobRun:
        return JobRun(self.services, job, checkpoint)

    async def finish(self, job: Job, checkpoint: str | None = None) -> Job:
        """Run a job to its end and clean up; returns its last state."""
        run = self.run(job, checkpoint)
        try:
            async with aclosing(run.steps()) as steps:
                async for step in steps:
                    self.steps.append(step)
        finally:
            await run.close()
        assert not list(self.folder.glob("*")), "the job's folder is removed"
        return self.steps[-1].job

    def clean(self) -> bool:
        """Whether no temporary file, no connection, no disk and no memory is held."""
        if not self.spool.memory.take(32 << 20):
            return False
        self.spool.memory.give_back(32 << 20)
        return not file_sizes(self.folder) and not self.reader.open_now and not self.spool.disk.used


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    executor = ThreadPoolExecutor(4)

    def make(script: Script, **changes: Any) -> Bench:
        folder = tmp_path / "spool"
        disk, memory = DiskBudget(changes.pop("disk", 1 << 30)), MemoryBudget(32 << 20)
        spool = Spool(folder, executor, disk, memory)
        reader, store, clock = FakeReader(script), MemoryStore(), FakeClock()
        policy = FetchPolicy(
            retries=changes.pop("retries", 3),
            backoff=1.0,
            max_file_bytes=changes.pop("max_file_bytes", 1 << 30),
            format_check=changes.pop("format_check", "warn"),
            delay=changes.pop("delay", (0.0, 0.0)),
        )
        fetch = FetchServices(
            reader=reader,
            clock=clock,
            spool=spool,
            slots=FetchSlots(32, 6),
            policy=policy,
            metrics=Metrics(),
        )
        services = RunServices(
            fetch=fetch,
            objects=store,
            per_job=changes.pop("per_job", 8),
            max_job_bytes=changes.pop("max_job_bytes", 10 << 30),
        )
        assert not changes
        return Bench(reader, store, clock, spool, folder, services)

    yield make
    executor.shutdown()
