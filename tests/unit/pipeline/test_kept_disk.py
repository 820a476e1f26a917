"""What a job leaves for its next run is counted all the time that it lies there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from downloadd.model import Job, Source
from downloadd.pipeline import JobRun, Spool
from downloadd.pipeline.notes import Note, Origin
from downloadd.pipeline.payload import FilePayload, MemoryPayload
from tests.fakes import Answer
from tests.folders import file_sizes
from tests.unit.pipeline.conftest import Bench, make_job
from tests.unit.pipeline.test_run import MIB, file_bytes, serve, sources
from tests.unit.pipeline.test_salvage import follow, restarted

MakeBench = Callable[..., Bench]
CAP = 64 * MIB
#: What notes take.
NOTES = 64 << 10


class Watched:
    """The most that lay in a folder, until the end of the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most = 0

    async def __aenter__(self) -> Watched:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, sum(file_sizes(self.folder).values()))
            await asyncio.sleep(0.002)


async def fetched(bench: Bench, count: int, size: int) -> tuple[JobRun, asyncio.Task[Job]]:
    """A run whose files are all here, whole, and none of which the storage takes."""
    run = bench.run(make_job(sources(*(f"random/{size}/{n}" for n in range(count)))))
    task = asyncio.create_task(follow(run))
    async with asyncio.timeout(20):
        while len(run._packing.payloads) < count:
            await asyncio.sleep(0.01)
    return run, task


async def ended(task: asyncio.Task[Job]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def held_up(_: int) -> object:
    return asyncio.Event().wait()


async def test_a_job_that_is_put_aside_gives_no_room_away_that_it_keeps(
    make_bench: MakeBench,
) -> None:
    """Whoever waits for disk gets it when what is kept is gone, not when the job is put aside."""
    bench = make_bench(serve, disk=CAP)
    bench.store.before_part = held_up
    first, task = await fetched(bench, 3, 20 * MIB)
    second = bench.run(make_job(sources(f"random/{40 * MIB}/7")))
    bench.store.before_part = lambda _: None
    waiting = asyncio.create_task(follow(second))
    await asyncio.sleep(0.05)
    await ended(task)
    async with Watched(bench.folder) as disk:
        await first.close(keep=True)
        job = await asyncio.wait_for(waiting, 20)
    await second.close()
    assert 40 * MIB <= disk.most <= CAP + NOTES, f"{disk.most / MIB:.1f} MiB"
    assert job.archive is not None
    bench.spool.evict_all()
    async with asyncio.timeout(20):
        while not bench.clean():
            await asyncio.sleep(0.01)


async def test_a_job_that_is_put_aside_drives_nobody_out(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room for all, nothing that another job keeps is given up meanwhile."""
    bench = make_bench(serve, disk=CAP)
    bench.store.before_part = held_up
    first, task = await fetched(bench, 1, 20 * MIB)
    await ended(task)
    old = bench.folder / "old"
    old.mkdir()
    async with bench.spool.keeping("old"):
        (old / "0").write_bytes(bytes(10 * MIB))
    leave, asked = FilePayload.leave, asyncio.Event()

    async def slow(payload: FilePayload, spool: Spool, path: Path) -> None:
        asked.set()
        await asyncio.sleep(0.1)
        await leave(payload, spool, path)
        await asyncio.sleep(0.1)

    monkeypatch.setattr(FilePayload, "leave", slow)
    closing = asyncio.create_task(first.close(keep=True))
    await asked.wait()
    with bench.spool.disk.moving():
        reservation = await asyncio.wait_for(bench.spool.disk.reserve(30 * MIB), 20)
    await closing
    assert bench.spool.kept_jobs() == ["old", first._job.id]
    reservation.release()


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_kept_is_counted_until_its_turn_comes(
    make_bench: MakeBench, killed: bool
) -> None:
    """A job that goes on, file by file, still has the room of those that it has not come to."""
    bench = make_bench(serve, disk=CAP)
    bench.store.before_part = held_up
    run, task = await fetched(bench, 3, 20 * MIB)
    await ended(task)
    if not killed:
        await run.close(keep=True)
    bench = restarted(bench, CAP)
    bench.services = bench.services.evolve(per_job=1)
    bench.store.before_part = lambda _: asyncio.sleep(0.1)
    again, other = bench.run(run._job), bench.run(make_job(sources(f"random/{40 * MIB}/7")))
    asked = len(bench.reader.asked)
    async with Watched(bench.folder) as disk:
        going_on = asyncio.create_task(follow(again))
        await asyncio.sleep(0.01)
        jobs = await asyncio.gather(going_on, follow(other))
        await asyncio.gather(again.close(), other.close())
    assert 60 * MIB <= disk.most <= CAP + NOTES, f"{disk.most / MIB:.1f} MiB"
    assert all(job.archive for job in jobs)
    assert len(bench.reader.asked) == asked + 1, "what was kept was fetched again"
    assert bench.clean()


async def test_an_empty_folder_does_not_end_the_making_of_room(make_bench: MakeBench) -> None:
    """What is kept goes until there is room, also where the oldest of it has no bytes."""
    bench = make_bench(serve, disk=CAP)
    for age, (name, size) in enumerate({"empty": 0, "full": 60 * MIB}.items(), 1):
        (bench.folder / name).mkdir(parents=True)
        if size:
            (bench.folder / name / "0").write_bytes(bytes(size))
        os.utime(bench.folder / name, (age, age))
    bench = restarted(bench, CAP)
    assert bench.spool.kept_jobs() == ["empty", "full"]
    async with Watched(bench.folder) as disk:
        await bench.finish(make_job(sources(f"random/{40 * MIB}/7")))
    assert disk.most <= CAP, f"{disk.most / MIB:.1f} MiB"


def kept(bench: Bench, job: Job, size: int) -> Bench:
    """A new process that finds so much of a job."""
    folder = bench.folder / job.id
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(bytes(size))
    return restarted(bench, CAP)


async def test_a_run_that_never_began_keeps_what_was_there_once(make_bench: MakeBench) -> None:
    """Poison, or put aside at once: the next run still finds it, and it is counted as before."""
    job = make_job(sources(f"random/{MIB}/7"))
    bench = kept(make_bench(serve), job, MIB)
    for _ in range(2):
        await bench.run(job).close(keep=True)
        assert bench.spool.disk.used == MIB
        assert bench.spool.kept_jobs() == [job.id]


async def test_a_run_that_is_stopped_while_it_looks_gives_nothing_away(
    make_bench: MakeBench,
) -> None:
    """What lies there stays counted when the look at it is broken off."""
    job = make_job(sources(f"random/{40 * MIB}/7"))
    bench = kept(make_bench(serve), job, 40 * MIB)
    let_go = threading.Event()
    threads = [bench.spool.start(let_go.wait) for _ in range(4)]
    run = bench.run(job)
    task = asyncio.create_task(follow(run))
    await asyncio.sleep(0.05)
    let_go.set()
    await ended(task)
    await asyncio.gather(*threads)
    assert bench.spool.disk.used == 40 * MIB
    await run.close(keep=True)
    assert bench.spool.disk.used == 40 * MIB
    await bench.run(job).close()
    assert bench.clean()


async def test_one_file_that_is_not_seen_leaves_the_others(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk costs the file that it is about, not all that is kept."""
    bench = make_bench(serve)
    bench.store.before_part = held_up
    run, task = await fetched(bench, 3, 9 * MIB)
    await ended(task)
    await run.close(keep=True)
    look, asked, unseen = Path.stat, len(bench.reader.asked), list[Path]()

    def stat(path: Path, **options: Any) -> os.stat_result:
        if not unseen and path.parent.name == run._job.id and not path.suffix:
            unseen.append(path)
        if path in unseen:
            raise OSError(5, "Input/output error")
        return look(path, **options)

    bench.store.before_part = lambda _: None
    monkeypatch.setattr(Path, "stat", stat)
    await bench.finish(run._job)
    assert len(bench.reader.asked) == asked + 1
    monkeypatch.undo()
    assert bench.clean()


async def test_more_than_the_cap_is_gone_on_with_beside_a_trickle(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until there is no hope left of room, not until the trickle ends."""
    monkeypatch.setattr("downloadd.pipeline.budget._PATIENCE", 0.5)

    class Trickle(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            yield self.data[:300_000]
            await asyncio.Event().wait()

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = serve(source, offset, validator)
        return Trickle(data=answer.data, size=answer.size) if source.url.endswith("/9") else answer

    bench = make_bench(script, disk=CAP)
    trickling = bench.run(make_job(sources(f"random/{MIB}/9")))
    beside = asyncio.create_task(follow(trickling))
    async with asyncio.timeout(20):
        while not bench.spool.disk._movers:
            await asyncio.sleep(0.01)
    job, size = make_job(sources(*(f"random/{21 * MIB}/{n}" for n in range(4)))), 20 * MIB
    folder = bench.folder / job.id
    folder.mkdir(parents=True)
    async with bench.spool.keeping(job.id):
        for index in range(4):
            path = folder / str(index)
            path.write_bytes(file_bytes(f"/random/{21 * MIB}/{index}")[:size])
            origin = Origin(size=21 * MIB, validator='"1"')
            Note(origin=origin, deflated=False).write_sync(path)
    run = bench.run(job)
    await asyncio.wait_for(follow(run), 20)
    assert not beside.done()
    offsets = sorted(offset for _, offset, *_ in bench.reader.asked)
    assert offsets == [0, *[size] * 4]
    await ended(beside)
    await run.close()
    await trickling.close()
    assert bench.clean()


async def test_what_is_gone_on_with_lets_no_more_than_one_over_the_cap(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the storage hangs: patience lets one file over, not one after the other."""
    monkeypatch.setattr("downloadd.pipeline.budget._PATIENCE", 0.3)
    bench = make_bench(serve, disk=CAP)
    bench.store.before_part = held_up
    run, task = await fetched(bench, 3, 20 * MIB)
    await ended(task)
    await run.close(keep=True)
    runs = [bench.run(run._job)]
    tasks = [asyncio.create_task(follow(runs[0]))]
    async with asyncio.timeout(20):
        while not runs[0]._upload.tasks:
            await asyncio.sleep(0.01)
    runs += [bench.run(make_job(sources(f"random/{15 * MIB}/{n}"))) for n in range(6)]
    tasks += [asyncio.create_task(follow(it)) for it in runs[1:]]
    async with Watched(bench.folder) as disk:
        await asyncio.sleep(2)
    assert 70 * MIB < disk.most <= 75 * MIB + NOTES, f"{disk.most / MIB:.1f} MiB"
    for it in tasks:
        await ended(it)
    for again in runs:
        await again.close()
    assert bench.clean()


async def test_nobody_waits_for_small_files_to_be_written(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand take their time when a job is put aside; there is room for others meanwhile."""
    bench = make_bench(serve, disk=CAP)
    monkeypatch.setattr(bench.store, "put", lambda *_: asyncio.Event().wait())
    run, task = await fetched(bench, 3, 1000)
    await ended(task)
    write, let_go = MemoryPayload._write_sync, threading.Event()

    def slow(*given: Any) -> None:
        let_go.wait(20)
        write(*given)

    monkeypatch.setattr(MemoryPayload, "_write_sync", slow)
    closing = asyncio.create_task(run.close(keep=True))
    try:
        await asyncio.sleep(0.05)
        with bench.spool.disk.moving():
            (await asyncio.wait_for(bench.spool.disk.reserve(MIB), 10)).release()
        assert not closing.done()
    finally:
        let_go.set()
        await closing
    assert bench.spool.kept_jobs() == [run._job.id]
