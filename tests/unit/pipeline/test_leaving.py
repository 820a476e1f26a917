"""What a run holds is given back however it ends, also where the disk does not let it be kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from downloadd.errors import JobTooLarge, SpoolError
from downloadd.model import Source
from downloadd.pipeline import JobRun
from downloadd.pipeline.payload import MemoryPayload
from tests.fakes import Answer
from tests.origin import content
from tests.unit.pipeline.conftest import Bench, make_job

MIB = 1 << 20
MakeBench = Callable[..., Bench]
FILES = {"a": b"small", "b": content(1, MIB), "c": b"little", "d": content(2, MIB)}


def origin(source: Source, offset: int, validator: str | None) -> Answer:
    return Answer(data=FILES[source.url.rpartition("/")[2]])


def sources() -> list[Source]:
    return [Source(url=f"http://files.example/{name}") for name in FILES]


async def packed(run: JobRun) -> None:
    """Run until all files are here, and stop before they are stored."""
    async with aclosing(run.steps()) as steps:
        async for _ in steps:
            if len(run._packing.layout.entries) == len(FILES):
                return


def held(bench: Bench) -> bool:
    """Whether disk or memory is held but for what is kept."""
    kept = sum(bench.spool._kept.values())
    return bench.spool.disk.used != kept or bench.spool.memory._free != 32 << 20


async def paused(make_bench: MakeBench) -> tuple[Bench, JobRun]:
    bench = make_bench(origin)
    run = bench.run(make_job(sources()))
    task = asyncio.create_task(packed(run))
    while not task.done() and len(run._packing.payloads) < len(FILES):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await run.stop()
    assert len(run._packing.payloads) == len(FILES)
    return bench, run


class HalfWay(Answer):
    async def chunks(self):  # type: ignore[no-untyped-def]
        yield self.data[: MIB + 1]
        await asyncio.Event().wait()


async def half_way(make_bench: MakeBench) -> tuple[Bench, JobRun]:
    """A run that was stopped when three files were here, and some of the fourth."""

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = origin(source, offset, validator)
        return HalfWay(data=answer.data) if source.url.endswith("/d") else answer

    bench = make_bench(script)
    run = bench.run(make_job(sources()))
    task = asyncio.create_task(packed(run))
    some = bench.folder / run._job.id / "3"
    async with asyncio.timeout(20):
        while len(run._packing.payloads) < 3 or not some.exists():
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return bench, run


async def test_a_full_disk_keeps_what_is_on_it(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is fetched again; no budget stays taken."""

    def full(*_: object) -> None:
        raise SpoolError("The server's temporary disk is full; try again later.")

    bench, run = await paused(make_bench)
    monkeypatch.setattr(MemoryPayload, "_write_sync", full)
    await run.close(keep=True)
    assert bench.spool.kept_jobs() == [run._job.id]
    assert not held(bench)
    await bench.spool.clear_kept(run._job.id)
    assert bench.clean()


async def test_what_is_left_once_is_not_left_empty(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close that is cancelled and made again does not overwrite what the first one wrote."""
    bench, run = await paused(make_bench)
    write, begun, let_go = MemoryPayload._write_sync, threading.Event(), threading.Event()

    def slow(*given: Any) -> None:
        begun.set()
        let_go.wait(20)
        write(*given)

    monkeypatch.setattr(MemoryPayload, "_write_sync", slow)
    closing = asyncio.create_task(run.close(keep=True))
    await asyncio.to_thread(begun.wait, 20)
    closing.cancel()
    let_go.set()
    await asyncio.gather(closing, return_exceptions=True)
    await run.close(keep=True)
    folder = bench.folder / run._job.id
    assert [(folder / str(n)).read_bytes() for n in range(4)] == list(FILES.values())
    assert not held(bench)


async def test_a_disk_that_removes_nothing_gives_the_budget_back(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of whole files, nor of one half-way: all that is held is let go, and nothing raises."""

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    bench, run = await half_way(make_bench)
    for name in ("unlink", "rename"):
        monkeypatch.setattr(Path, name, read_only)
    await run.close()
    assert not held(bench)


@pytest.mark.parametrize("keep", [True, False])
async def test_a_disk_that_fails_at_a_close_gives_the_budget_back(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    """Some file systems say only then that they are full: what else there is, is left all the same.

    The next run looks at what there is of that file.
    """
    bench, run = await half_way(make_bench)
    close, failed = os.close, list[int]()

    def failing(file: int) -> None:
        of_file = stat.S_ISREG(os.fstat(file).st_mode)
        close(file)
        if of_file:
            failed.append(file)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "close", failing)
    await run.close(keep=keep)
    monkeypatch.undo()
    assert failed
    assert bench.spool.kept_jobs() == [run._job.id] * keep
    assert not held(bench)
    bench.reader.script = origin
    job = await bench.finish(run._job)
    assert job.archive is not None
    assert bench.clean()


async def test_a_retry_that_is_too_large_again_holds_no_disk(make_bench: MakeBench) -> None:
    """Files taken up whole from the disk count too, and are let go when they are too much."""
    bench, run = await paused(make_bench)
    await run.close(keep=True)
    bench.services = bench.services.evolve(max_job_bytes=MIB + 100)
    again = bench.run(run._job)
    with pytest.raises(JobTooLarge):
        await packed(again)
    await again.close(keep=True)
    assert not held(bench)


async def test_a_folder_that_is_not_there_is_not_evicted_from_the_next_run(
    make_bench: MakeBench,
) -> None:
    """What a run makes while the disk is short is not taken for what the one before had kept."""
    bench = make_bench(origin)
    job_id = make_job(sources()).id
    made: Path = bench.folder / job_id
    made.mkdir(parents=True)
    (made / "0").write_bytes(b"kept")
    async with bench.spool.keeping(job_id):
        pass
    assert bench.spool.kept_jobs() == [job_id]
    shutil.rmtree(made)  # by somebody else
    busy = threading.Event()
    threads = [bench.spool.start(busy.wait) for _ in range(4)]
    bench.spool.evict_all()
    made.mkdir()
    busy.set()
    # What an eviction had queued would come before this, and be done with the executor.
    await asyncio.gather(*threads, *bench.spool._evictions)
    assert made.exists()
    assert not bench.spool.kept_jobs()
    assert not held(bench)
