"""Workers that end at a bad moment: what they leave, and what they must not touch."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from downloadd.archive import manifest, part_bounds
from downloadd.errors import AllFilesFailed, DownloaddError, FileFailed, SourceRefused
from downloadd.model import FileEntry, Job, OnError, Source, Stage
from downloadd.pipeline import JobRun
from downloadd.ports import ObjectMeta, PartBody, Stored
from tests.fakes import Answer
from tests.origin import content
from tests.unit.pipeline.conftest import Bench, make_job

MIB = 1 << 20
MakeBench = Callable[..., Bench]


def file(source: Source, offset: int, validator: str | None) -> Answer:
    """Files are named by their size."""
    data = content(1, int(source.url.rpartition("/")[2]))
    return Answer(data=data[offset:], offset=offset, size=len(data))


def sources(*sizes: int) -> list[Source]:
    return [Source(url=f"http://files.example/{number}/{n}") for number, n in enumerate(sizes)]


async def follow(run: JobRun) -> Job:
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            job = step.job
    return job


async def told_until(error: type[DownloaddError], run: JobRun) -> tuple[Job, dict[int, FileEntry]]:
    """Run to an error; the last state of the job, and of the files that were told of."""
    told: dict[int, FileEntry] = {}
    try:
        async with aclosing(run.steps()) as steps:
            async for step in steps:
                told |= {entry.index: entry for entry in step.files}
    except error:
        await run.close()
        return step.job, told
    raise AssertionError("it did not fail")


async def killed_at_the_end(bench: Bench, job: Job) -> tuple[Job, str | None]:
    """Run until nothing is left but to complete the upload; what its successor finds."""
    files = {entry.index: entry for entry in job.files}
    run = bench.run(job)
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            files |= {entry.index: entry for entry in step.files}
            if step.job.stage is Stage.FINISHING:
                break
    await run.close()
    return step.job.evolve(files=tuple(files.values())), step.checkpoint


async def test_a_late_worker_replaces_nothing(make_bench: MakeBench) -> None:
    """Who was taken for dead and stores its archive after all does not touch its successor's."""
    bench = make_bench(file)
    gate, held = asyncio.Event(), asyncio.Event()
    put = bench.store.put

    async def slow(key: str, body: PartBody, meta: ObjectMeta) -> Stored:
        if not held.is_set():
            held.set()
            await gate.wait()
        return await put(key, body, meta)

    bench.store.put = slow  # type: ignore[method-assign]
    job = make_job(sources(100), manifest=True).evolve(attempts=1)
    old, new = bench.run(job), bench.run(job.evolve(attempts=2))
    late = asyncio.create_task(follow(old))
    await held.wait()
    bench.clock.time += 100  # so that the manifests differ
    done = await follow(new)
    gate.set()
    await late
    assert done.archive is not None
    stored = bench.store.objects[done.archive.key]
    assert hashlib.sha256(stored).hexdigest() == done.archive.sha256
    # It learns that its lease is lost when it writes the end.
    await old.forsake()
    assert list(bench.store.objects) == [done.archive.key]


async def test_an_upload_that_nobody_can_know_of_is_dropped(make_bench: MakeBench) -> None:
    """Given up before its checkpoint was written it is removed; afterwards it is left."""
    bench = make_bench(file)
    run = bench.run(make_job(sources(17 * MIB, 20)))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            if step.checkpoint is not None:
                break  # handed out, and not written: the process ends
    assert bench.store.uploads
    await run.forsake()
    await run.close()
    assert not bench.store.uploads

    run = bench.run(make_job(sources(17 * MIB, 17 * MIB)))
    async with aclosing(run.steps()) as steps:
        async for _ in steps:
            if run._upload.parts:
                break
    await run.forsake()
    await run.close()
    assert len(bench.store.uploads) == 1
    assert bench.clean()


async def test_the_checksum_of_another_archive_is_not_told(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive laid out anew after parts were lost has a SHA-256 of its own."""
    monkeypatch.setattr(
        "downloadd.pipeline.uploading.part_bounds", lambda number: part_bounds(number, 64 << 10)
    )
    touched = [1e9]

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = file(source, offset, validator)
        answer.modified = touched[0]
        return answer

    bench = make_bench(script, per_job=1)
    job, checkpoint = await killed_at_the_end(bench, make_job(sources(100_000, 100_001, 100_002)))
    (parts,) = bench.store.uploads.values()
    for number in sorted(parts)[-2:]:
        del parts[number]
    touched[0] = 1.1e9  # the same bytes, another date in the archive
    done = await bench.finish(job, checkpoint)
    assert done.archive is not None
    stored = bench.store.objects[done.archive.key]
    assert hashlib.sha256(stored).hexdigest() == done.archive.sha256


async def test_a_sealed_archive_counts_its_files_bytes(make_bench: MakeBench) -> None:
    """The manifest was fetched by nobody, also after an interruption."""
    bench = make_bench(file)
    job = make_job(sources(17 * MIB, 1000), manifest=True)
    done = await bench.finish(*await killed_at_the_end(bench, job))
    assert done.bytes_fetched == done.bytes_total == 17 * MIB + 1000


async def test_a_cancel_while_payloads_go_gives_their_disk_back(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever moment a job is stopped in, its share of the disk is free afterwards."""
    bench = make_bench(file)
    run = bench.run(make_job(sources(17 * MIB, 17 * MIB)))
    unlink, entered = Path.unlink, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(path: Path, missing_ok: bool = False) -> None:
        loop.call_soon_threadsafe(entered.set)
        time.sleep(0.2)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", slow)
    task = asyncio.create_task(follow(run))
    await asyncio.wait_for(entered.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await run.discard()
    await run.close()
    assert bench.clean()


async def test_a_fault_of_ours_costs_one_file(make_bench: MakeBench) -> None:
    """Where one file brings out a bug, the others arrive all the same."""

    def script(source: Source, offset: int, validator: str | None) -> Answer | DownloaddError:
        if source.url.endswith("/13"):
            raise ZeroDivisionError("a bug")
        return file(source, offset, validator)

    bench = make_bench(script)
    job = await bench.finish(make_job(sources(10, 13, 20), on_error=OnError.SKIP))
    assert (job.files_completed, job.files_failed, job.partial) == (2, 1, True)
    assert job.files[1].error_code == "file_error"
    assert bench.clean()


async def test_a_file_that_grows_too_large_counts_no_bytes(make_bench: MakeBench) -> None:
    """What is thrown away was not fetched, to the byte."""

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = file(source, offset, validator)
        answer.size = None
        return answer

    bench = make_bench(script, max_file_bytes=1000)
    job = await bench.finish(make_job(sources(5000, 20), on_error=OnError.SKIP))
    assert (job.files[0].error_code, job.bytes_fetched) == ("file_too_large", 20)


async def test_a_small_trickle_holds_nobody_up(make_bench: MakeBench) -> None:
    """A file that needs no disk does not keep one above the cap waiting."""
    small, begun = asyncio.Event(), asyncio.Event()

    class Trickle(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            yield b"x"
            begun.set()
            await small.wait()

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        if source.url.endswith("/1"):
            return Trickle(data=b"")
        return file(source, offset, validator)

    bench = make_bench(script, disk=MIB)
    trickle = asyncio.create_task(follow(waiting := bench.run(make_job(sources(1)))))
    await begun.wait()
    async with asyncio.timeout(20):
        await bench.finish(make_job(sources(3 * MIB)))
    assert not trickle.done()
    small.set()
    await trickle
    await waiting.close()
    assert bench.clean()


async def test_a_worker_that_ends_while_it_starts_over(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was about to throw away is not made half of, and the next one makes it anew."""
    bench = make_bench(file)
    first = make_job(sources((16 << 20) - 300, 100), manifest=True).evolve(attempts=1)
    job, checkpoint = await killed_at_the_end(bench, first)
    # The manifest of another version of the server.
    monkeypatch.setattr("downloadd.pipeline.packing.manifest", lambda job: manifest(job) + b" ")
    run = bench.run(job.evolve(attempts=2), checkpoint)
    async with aclosing(run.steps()) as steps:
        step = await anext(steps)
    await run.close()
    done = await bench.finish(step.job.evolve(attempts=3), step.checkpoint)
    assert done.archive is not None
    stored = bench.store.objects[done.archive.key]
    assert hashlib.sha256(stored).hexdigest() == done.archive.sha256
    assert len(zipfile.ZipFile(io.BytesIO(stored)).namelist()) == 3


async def test_files_that_were_there_before_a_start_over_are_taken_back(
    make_bench: MakeBench,
) -> None:
    """What was told of files that are fetched once more, and now fail, is told anew."""
    asked: Counter[str] = Counter()

    def script(source: Source, offset: int, validator: str | None) -> Answer | DownloaddError:
        asked[source.url] += 1
        return SourceRefused("Gone.") if asked[source.url] > 1 else file(source, offset, validator)

    bench = make_bench(script, per_job=1)
    bench.store.before_part = lambda number: bench.store.uploads.clear()
    job, told = await told_until(FileFailed, bench.run(make_job(sources(17 * MIB, 100))))
    assert {index: entry.status.value for index, entry in told.items()} == {
        0: "failed",
        1: "pending",
    }
    assert (job.files_completed, job.files_failed) == (0, 1)


async def test_files_of_a_job_that_has_none_are_told(make_bench: MakeBench) -> None:
    """Also the last file to fail is known as failed when nothing is left to pack."""
    bench = make_bench(lambda *_: SourceRefused("No."))
    run = bench.run(make_job(sources(10, 20), on_error=OnError.SKIP))
    job, told = await told_until(AllFilesFailed, run)
    assert [told[index].error_code for index in (0, 1)] == ["source_refused"] * 2
    assert job.files_failed == 2
