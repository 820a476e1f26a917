"""The coordinator: one job from addresses to an archive, over ports in memory."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from contextlib import aclosing

import pytest

from downloadd.errors import (
    AllFilesFailed,
    DownloaddError,
    FileFailed,
    JobTooLarge,
    SourceRefused,
    StorageUnavailable,
)
from downloadd.model import FileStatus, Job, OnError, Source, Stage
from downloadd.pipeline import JobRun
from tests.fakes import Answer
from tests.folders import file_sizes
from tests.origin import content
from tests.unit.pipeline.conftest import Bench, make_job

MIB = 1 << 20
MakeBench = Callable[..., Bench]


def file_bytes(url: str, version: int = 0) -> bytes:
    """Files are named kind/size/number."""
    kind, size, number = url.rsplit("/", 3)[1:]
    return content(int(number) + 1000 * version, int(size), kind)


def serve(source: Source, offset: int, validator: str | None) -> Answer:
    data = file_bytes(source.url)
    return Answer(data=data[offset:], offset=offset, size=len(data))


def sources(*names: str) -> list[Source]:
    return [Source(url=f"http://files.example/{name}") for name in names]


def check_archive(bench: Bench, job: Job, expected: dict[str, bytes]) -> zipfile.ZipFile:
    assert job.archive is not None
    data = bench.store.objects[job.archive.key]
    assert len(data) == job.archive.size
    assert hashlib.sha256(data).hexdigest() == job.archive.sha256
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist() if name in expected} == expected
    return archive


async def follow(run: JobRun) -> None:
    async with aclosing(run.steps()) as steps:
        async for _ in steps:
            pass


async def test_small_files_make_one_put(make_bench: MakeBench) -> None:
    """A small job is one request to the storage, touches no disk and says what it did."""
    bench = make_bench(serve)
    names = ["random/10000/1", "text/30000/2", "random/0/3"]
    job = await bench.finish(make_job(sources(*names)))
    check_archive(bench, job, {n[-1]: file_bytes(f"/{n}") for n in names})
    assert bench.store.calls == {"put": 1}
    assert [entry.status for entry in job.files] == [FileStatus.COMPLETED] * 3
    assert job.files[1].sha256 == hashlib.sha256(file_bytes(f"/{names[1]}")).hexdigest()
    assert job.bytes_fetched == job.bytes_total == 40_000
    assert (job.files_completed, job.files_failed, job.partial) == (3, 0, False)
    assert bench.clean()


async def test_parts_go_out_before_the_last_file_is_in(make_bench: MakeBench) -> None:
    """Uploading overlaps fetching: a part is stored while a file still waits for its source."""
    stored = asyncio.Event()

    class Slow(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            await asyncio.wait_for(stored.wait(), 20)
            async for chunk in super().chunks():
                yield chunk

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = serve(source, offset, validator)
        return Slow(data=answer.data, size=answer.size) if "/9" in source.url else answer

    bench = make_bench(script)
    take = bench.store.upload_part

    async def upload_part(*args):  # type: ignore[no-untyped-def]
        part = await take(*args)
        stored.set()
        return part

    bench.store.upload_part = upload_part  # type: ignore[method-assign]
    names = [f"random/{12 * MIB}/{i}" for i in (1, 2, 3)] + ["random/5000/9"]
    job = await bench.finish(make_job(sources(*names)))
    check_archive(bench, job, {n[-1]: file_bytes(f"/{n}") for n in names})
    assert bench.store.calls["part"] == 3
    assert bench.clean()


async def test_payloads_go_as_their_parts_are_stored(make_bench: MakeBench) -> None:
    """Temporary disk stays at the files in flight and a part's tail."""
    bench = make_bench(serve, disk=64 * MIB, per_job=2)
    most = 0
    run = bench.run(make_job(sources(*(f"random/{24 * MIB}/{i}" for i in range(8)))))
    async with aclosing(run.steps()) as steps:
        async for _ in steps:
            most = max(most, sum(file_sizes(bench.folder).values()))
    await run.close()
    assert 0 < most <= 64 * MIB, f"{most / MIB:.1f} MiB"
    assert bench.clean()


async def test_a_file_whose_parts_go_on_is_not_copied(make_bench: MakeBench) -> None:
    """Parts that are all stored at once leave a file as it is: only what waits for more moves."""
    bench = make_bench(serve)

    async def slow() -> None:
        bench.clock.time += 1  # the next turn tells of progress
        await asyncio.sleep(0.5)

    bench.store.before_part = lambda number: slow()
    copies: dict[str, int] = {}
    run = bench.run(make_job(sources(f"random/{112 * MIB}/1", f"random/{MIB}/2")))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            if step.checkpoint is None:
                await asyncio.sleep(0.8)  # all parts under way are stored meanwhile
            sizes = file_sizes(bench.folder)
            copies |= {path.name: size for path, size in sizes.items() if path.name[:2] == "0."}
    await run.close()
    assert bench.store.calls["part"] == 8
    assert all(size <= 16 * MIB for name, size in copies.items()), copies
    assert bench.clean()


async def test_a_file_larger_than_the_disk_cap_still_comes(make_bench: MakeBench) -> None:
    """The cap holds fetching back; it does not refuse, nor stand still."""
    bench = make_bench(serve, disk=10 * MIB)
    names = [f"random/{20 * MIB}/{i}" for i in range(3)]
    job = await asyncio.wait_for(bench.finish(make_job(sources(*names))), 60)
    check_archive(bench, job, {n[-1]: file_bytes(f"/{n}") for n in names})
    assert bench.clean()


async def test_files_of_unknown_size_do_not_block_each_other(make_bench: MakeBench) -> None:
    """Many files without a length, together far above the cap, all arrive."""

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        return Answer(data=file_bytes(source.url))

    bench = make_bench(script, disk=40 * MIB)
    names = [f"random/{20 * MIB}/{i}" for i in range(5)]
    job = await asyncio.wait_for(bench.finish(make_job(sources(*names))), 60)
    check_archive(bench, job, {n[-1]: file_bytes(f"/{n}") for n in names})
    assert bench.clean()


async def test_one_failed_file_fails_the_job(make_bench: MakeBench) -> None:
    """Under onError "fail" the job ends with the file's own code and says which it was."""

    def script(source: Source, offset: int, validator: str | None) -> Answer | DownloaddError:
        if "/2" in source.url:
            return SourceRefused("The source at files.example answered 404.")
        return serve(source, offset, validator)

    bench = make_bench(script)
    with pytest.raises(FileFailed, match=r"File 2: .*404") as caught:
        await bench.finish(make_job(sources("random/100/1", "random/100/2")))
    assert caught.value.code == "source_refused"
    failed = bench.steps[-1].job.files[1]
    assert (failed.status, failed.error_code) == (FileStatus.FAILED, "source_refused")
    assert failed.attempts == 1
    assert not bench.store.objects
    assert bench.clean()


async def test_skip_packs_the_rest_and_says_why(make_bench: MakeBench) -> None:
    """Under onError "skip" the archive holds the rest and a manifest that names what is missing."""

    def script(source: Source, offset: int, validator: str | None) -> Answer | DownloaddError:
        if "/2" in source.url:
            return SourceRefused("The source at files.example answered 404.")
        return serve(source, offset, validator)

    bench = make_bench(script)
    names = ["random/100/1", "random/100/2", "random/100/3"]
    job = await bench.finish(make_job(sources(*names), on_error=OnError.SKIP))
    assert (job.partial, job.files_completed, job.files_failed) == (True, 2, 1)
    archive = check_archive(bench, job, {"1": file_bytes("/random/100/1")})
    assert archive.namelist() == ["1", "3", "manifest.json"]
    missing = json.loads(archive.read("manifest.json"))["files"][1]
    assert missing["errorCode"] == "source_refused"
    assert "404" in missing["error"]


async def test_skip_with_nothing_left_fails(make_bench: MakeBench) -> None:
    """A job of which no file could be had has no archive."""
    bench = make_bench(lambda *_: SourceRefused("The source answered 404."))
    with pytest.raises(AllFilesFailed, match="404"):
        await bench.finish(make_job(sources("random/1/1", "random/1/2"), on_error=OnError.SKIP))
    assert not bench.store.objects


async def test_the_job_has_a_size_limit_while_streaming(make_bench: MakeBench) -> None:
    """Files that together pass the limit end the job as soon as the byte arrives."""
    bench = make_bench(serve, max_job_bytes=5 * MIB)
    with pytest.raises(JobTooLarge):
        await bench.finish(make_job(sources(*(f"random/{2 * MIB}/{i}" for i in range(4)))))
    assert bench.clean()


async def test_progress_never_goes_back_and_tells_the_stage(make_bench: MakeBench) -> None:
    """Progress rises from file to file; 99 is its end before the job is completed."""
    bench = make_bench(serve, per_job=1)
    names = [f"random/{9 * MIB}/{i}" for i in range(6)]
    job = make_job(sources(*names))
    real = bench.clock.monotonic
    ticks = iter(range(10**6))
    bench.clock.monotonic = lambda: real() + next(ticks)  # type: ignore[method-assign]
    await bench.finish(job)
    progress = [step.job.progress for step in bench.steps]
    assert progress == sorted(progress)
    assert progress[-1] == 99
    assert len(set(progress)) > 5
    stages = [step.job.stage for step in bench.steps]
    assert stages[0] is Stage.FETCHING
    assert stages[-1] is Stage.FINISHING


async def test_equal_names_are_told_apart(make_bench: MakeBench) -> None:
    """Two files of one name are both there, in the order asked for."""
    bench = make_bench(lambda s, o, v: Answer(data=s.url.encode(), size=len(s.url)))
    urls = ["http://a.example/x/report.pdf", "http://b.example/y/report.pdf"]
    job = await bench.finish(make_job([Source(url=url) for url in urls]))
    check_archive(bench, job, {"report.pdf": urls[0].encode(), "report (2).pdf": urls[1].encode()})


async def test_too_large_gives_everything_back(make_bench: MakeBench) -> None:
    """A job that ends for its size holds no disk, whatever its fetches were at."""
    waits = asyncio.Event()

    class Stuck(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            await waits.wait()
            yield b""

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        answer = serve(source, offset, validator)
        return Stuck(data=b"", size=answer.size) if "/0" in source.url else answer

    bench = make_bench(script, max_job_bytes=5 * MIB)
    with pytest.raises(JobTooLarge):
        await bench.finish(make_job(sources(*(f"random/{2 * MIB}/{i}" for i in range(6)))))
    assert bench.clean()


async def test_a_failed_file_is_not_left_out_after_a_restart(make_bench: MakeBench) -> None:
    """Under onError "fail", a job that was to fail when its worker died does not lack the file."""
    gone = True

    def script(source: Source, offset: int, validator: str | None) -> Answer | DownloaddError:
        if gone and "/1" in source.url:
            return SourceRefused("The source at files.example answered 404.")
        return serve(source, offset, validator)

    bench = make_bench(script)
    names = ["random/100/1", "random/100/2"]
    with pytest.raises(FileFailed):
        await bench.finish(make_job(sources(*names)))
    job = bench.steps[-1].job
    assert job.files[0].status is FileStatus.FAILED
    with pytest.raises(FileFailed):
        await bench.finish(job)
    gone = False
    done = await bench.finish(job)
    check_archive(bench, done, {n[-1]: file_bytes(f"/{n}") for n in names})
    assert not done.partial


async def test_a_slow_source_does_not_keep_what_it_announced(make_bench: MakeBench) -> None:
    """A source that announces much and sends little gives its disk back to others."""

    class Slow(Answer):
        async def chunks(self):  # type: ignore[no-untyped-def]
            yield self.data[: MIB // 8]
            for start in range(MIB // 8, len(self.data), 10 * MIB):
                bench.clock.time += 31
                yield self.data[start : start + 10 * MIB]
                held.append(bench.spool.disk.used)

    held: list[int] = []
    data = file_bytes(f"/random/{60 * MIB}/1")
    bench = make_bench(lambda *_: Slow(data=data, size=len(data)), disk=64 * MIB)
    await bench.finish(make_job(sources(f"random/{60 * MIB}/1")))
    assert held[0] < 40 * MIB


@pytest.mark.parametrize("size", [100, 40 * MIB])
async def test_discard_while_the_object_is_made(make_bench: MakeBench, size: int) -> None:
    """A job cancelled while its archive is being completed leaves no archive."""
    bench = make_bench(serve)
    run = bench.run(make_job(sources(f"random/{size}/1")))
    making = asyncio.Event()

    def slow(call):  # type: ignore[no-untyped-def]
        async def made(*args):  # type: ignore[no-untyped-def]
            stored = await call(*args)
            making.set()
            await asyncio.sleep(60)
            return stored

        return made

    bench.store.put = slow(bench.store.put)  # type: ignore[method-assign]
    bench.store.complete = slow(bench.store.complete)  # type: ignore[method-assign]

    task = asyncio.create_task(follow(run))
    await asyncio.wait_for(making.wait(), 30)
    assert bench.store.objects
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await run.discard()
    await run.close()
    assert not bench.store.objects
    assert not bench.store.uploads
    assert bench.clean()


async def test_discard_before_the_upload_was_looked_at(make_bench: MakeBench) -> None:
    """A resumed job that ends at once still removes the upload of its earlier run."""
    bench = make_bench(serve)
    job, checkpoint = await interrupted(bench, make_job(sources(*BIG)), 1)
    run = bench.run(job, checkpoint)

    async def away(*_: object) -> None:
        raise StorageUnavailable("The storage does not answer.")

    bench.store.list_parts = away  # type: ignore[assignment, method-assign]
    with pytest.raises(StorageUnavailable):
        await follow(run)
    await run.discard()
    await run.close()
    assert not bench.store.uploads


async def test_an_interrupted_stop_is_gone_on_with(make_bench: MakeBench) -> None:
    """Closing after a discard that was cut short gives everything back."""
    bench = make_bench(serve)
    holding, release = asyncio.Event(), asyncio.Event()

    async def stubborn(number: int) -> None:
        holding.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    bench.store.before_part = stubborn
    run = bench.run(make_job(sources(*BIG)))

    task = asyncio.create_task(follow(run))
    await asyncio.wait_for(holding.wait(), 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run.discard()
    asyncio.get_running_loop().call_later(0.2, release.set)
    await run.close()
    assert bench.clean()


# --- going on after an interruption ---


async def interrupted(bench: Bench, job: Job, parts: int) -> tuple[Job, str]:
    """Run until ``parts`` parts are in a checkpoint, then stop as a shutdown does."""
    run = bench.run(job)
    files = {entry.index: entry for entry in job.files}
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            files |= {entry.index: entry for entry in step.files}
            if step.checkpoint and len(json.loads(step.checkpoint)["parts"]) >= parts:
                break
    await run.close()
    assert bench.clean()
    assert step.checkpoint is not None
    return step.job.evolve(files=tuple(files[i] for i in sorted(files))), step.checkpoint


BIG = [f"random/{7 * MIB}/{i}" for i in range(6)] + [f"text/{9 * MIB}/{i}" for i in range(6, 9)]


@pytest.mark.parametrize("parts", [0, 1, 2])
async def test_goes_on_from_a_checkpoint(make_bench: MakeBench, parts: int) -> None:
    """After an interruption only what no stored part covers is fetched again."""
    bench = make_bench(serve, per_job=2)
    job, checkpoint = await interrupted(bench, make_job(sources(*BIG)), parts)
    covered = set(json.loads(checkpoint)["parts"] and covered_files(bench, checkpoint))
    bench.reader.asked.clear()
    sent = bench.store.calls["part"]
    done = await bench.finish(job, checkpoint)
    check_archive(bench, done, {n[-1]: file_bytes(f"/{n}") for n in BIG})
    asked = {url for url, *_ in bench.reader.asked}
    assert not asked & {f"http://files.example/{BIG[i]}" for i in covered}
    assert len(asked) == len(BIG) - len(covered)
    assert bench.store.calls["part"] - sent <= 3 - parts + 1
    assert not bench.store.uploads
    assert bench.clean()


def covered_files(bench: Bench, checkpoint: str) -> set[int]:
    """Files of which every byte lies in a stored part."""
    from downloadd.archive import Layout, part_bounds
    from downloadd.pipeline.checkpoint import Checkpoint

    saved = Checkpoint.parse(checkpoint)
    assert saved is not None
    layout = Layout()
    for entry in saved.entries:
        layout.append(entry)
    stored = [part_bounds(part.number) for part in saved.parts]

    def inside(at: int) -> bool:
        return any(start <= at < stop for start, stop in stored)

    spans = {entry.index: layout.span(entry.index) for entry in saved.entries}
    return {i for i, (a, b) in spans.items() if all(inside(x) for x in (*range(a, b, MIB), b - 1))}


async def test_a_source_that_changed_meanwhile_starts_the_archive_over(
    make_bench: MakeBench,
) -> None:
    """A half-sent file that is another one now is never mixed with its old self."""
    version = 0

    def script(source: Source, offset: int, validator: str | None) -> Answer:
        data = file_bytes(source.url, version)
        return Answer(data=data[offset:], offset=offset, size=len(data))

    bench = make_bench(script, per_job=1)
    job, checkpoint = await interrupted(bench, make_job(sources(*BIG)), 1)
    version = 1
    done = await bench.finish(job, checkpoint)
    check_archive(bench, done, {n[-1]: file_bytes(f"/{n}", 1) for n in BIG})
    assert bench.store.calls["begin"] == 2
    assert not bench.store.uploads
    assert bench.clean()


async def test_an_archive_completed_before_the_end_was_written(make_bench: MakeBench) -> None:
    """Killed between completing and the last write, a job fetches and sends nothing again."""
    bench = make_bench(serve)
    job = make_job(sources(*BIG), manifest=True)
    await bench.finish(job)
    last = bench.steps[-2]
    assert last.checkpoint is not None
    files = {entry.index: entry for step in bench.steps for entry in step.files}
    job = last.job.evolve(files=tuple(files[i] for i in sorted(files)))
    bench.reader.asked.clear()
    bench.store.calls.clear()
    done = await bench.finish(job, last.checkpoint)
    check_archive(bench, done, {n[-1]: file_bytes(f"/{n}") for n in BIG})
    assert not bench.reader.asked
    assert bench.store.calls == {"complete": 1}


async def test_an_upload_that_is_gone_is_begun_anew(make_bench: MakeBench) -> None:
    """When the storage has forgotten the upload, the job does its work again."""
    bench = make_bench(serve)
    job, checkpoint = await interrupted(bench, make_job(sources(*BIG)), 1)
    bench.store.uploads.clear()
    done = await bench.finish(job, checkpoint)
    check_archive(bench, done, {n[-1]: file_bytes(f"/{n}") for n in BIG})


async def test_a_lost_part_is_sent_again(make_bench: MakeBench) -> None:
    """A part that the storage does not list is made again from its files."""
    bench = make_bench(serve, per_job=2)
    job, checkpoint = await interrupted(bench, make_job(sources(*BIG)), 2)
    (upload,) = bench.store.uploads.values()
    del upload[1]
    done = await bench.finish(job, checkpoint)
    check_archive(bench, done, {n[-1]: file_bytes(f"/{n}") for n in BIG})


async def test_discard_leaves_nothing(make_bench: MakeBench) -> None:
    """A job given up in the middle leaves no upload, no object, no file, no reservation."""
    bench = make_bench(serve)
    run = bench.run(make_job(sources(*BIG)))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            if step.checkpoint:
                break
    await run.discard()
    await run.close()
    assert not bench.store.uploads
    assert not bench.store.objects
    assert bench.clean()


async def test_storage_trouble_reaches_the_caller(make_bench: MakeBench) -> None:
    """A part that cannot be stored ends the run with the storage's own error."""
    bench = make_bench(serve)

    def away(number: int) -> None:
        raise StorageUnavailable("The storage does not answer.")

    bench.store.before_part = away
    with pytest.raises(StorageUnavailable):
        await bench.finish(make_job(sources(*BIG)))
    assert bench.clean()
