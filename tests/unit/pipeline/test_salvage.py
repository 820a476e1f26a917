"""What an earlier run left behind, here or in the storage, is not fetched again."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest

from downloadd.archive import Layout, part_bounds
from downloadd.errors import FileFailed, SourceUnreachable
from downloadd.model import FileStatus, Job, Source
from downloadd.pipeline import DiskBudget, JobRun, MemoryBudget, Spool
from downloadd.pipeline.checkpoint import Checkpoint
from downloadd.pipeline.notes import note_path, tail_path
from downloadd.ports import Stored
from tests.fakes import Answer
from tests.folders import file_sizes
from tests.origin import content
from tests.unit.pipeline.conftest import Bench, make_job

MIB = 1 << 20
MakeBench = Callable[..., Bench]
#: Shrinks to some 60 %.
TEXT = content(9, 2 * MIB).hex().encode()


class Origin:
    """Files by the last segment of their URL; some stop half-way until they are let go."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.stop_after: dict[str, int] = {}
        self.validator: str | None = '"1"'
        self.sent: dict[str, list[tuple[int, int]]] = {name: [] for name in files}

    def __call__(self, source: Source, offset: int, validator: str | None) -> Answer:
        name = source.url.rpartition("/")[2]
        data = self.files[name]
        if validator != self.validator:
            offset = 0
        end = self.stop_after.get(name, len(data))
        self.sent[name].append((offset, end))
        answer = Held(data=data[offset:end], offset=offset, size=len(data))
        answer.validator = self.validator
        answer.held = end < len(data)
        return answer

    def sources(self) -> list[Source]:
        return [Source(url=f"http://files.example/{name}") for name in self.files]


class Held(Answer):
    held = False

    async def chunks(self):  # type: ignore[no-untyped-def]
        async for chunk in super().chunks():
            yield chunk
        if self.held:
            await asyncio.Event().wait()


async def run_until(run: JobRun, condition: Callable[[], bool]) -> tuple[Job, str | None]:
    """Run until a condition holds; what is then known of the job, and its last checkpoint."""
    job, checkpoint, files = run._job, None, {entry.index: entry for entry in run._job.files}

    async def follow() -> None:
        nonlocal job, checkpoint
        async with aclosing(run.steps()) as steps:
            async for step in steps:
                job, checkpoint = step.job, step.checkpoint or checkpoint
                files.update({entry.index: entry for entry in step.files})

    task = asyncio.create_task(follow())
    async with asyncio.timeout(20):
        while not condition():
            assert not task.done()
            await asyncio.sleep(0.01)
            run._clock.time += 1  # type: ignore[attr-defined]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return job.evolve(files=tuple(files.values())), checkpoint


def on_disk(bench: Bench) -> dict[str, int]:
    """Files by their names; of several jobs, by their paths where the names are the same."""
    sizes: dict[str, int] = {}
    for path, size in file_sizes(bench.folder).items():
        sizes[str(path) if path.name in sizes else path.name] = size
    return sizes


def restarted(bench: Bench, disk: int = 1 << 30) -> Bench:
    """The same after kill -9: a process that finds what is in the temporary folder."""
    executor = ThreadPoolExecutor(2)
    spool = Spool(bench.folder, executor, DiskBudget(disk), MemoryBudget(32 << 20))
    fetch = bench.services.fetch.evolve(spool=spool)
    bench.reader.asked.clear()
    return Bench(
        bench.reader,
        bench.store,
        bench.clock,
        spool,
        bench.folder,
        bench.services.evolve(fetch=fetch),
    )


def unzipped(bench: Bench, job: Job) -> dict[str, bytes]:
    assert job.archive is not None
    data = bench.store.objects[job.archive.key]
    assert hashlib.sha256(data).hexdigest() == job.archive.sha256
    archive = zipfile.ZipFile(io.BytesIO(data))
    return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("killed", [False, True])
async def test_a_file_half_way_goes_on(make_bench: MakeBench, killed: bool) -> None:
    """Its bytes on the disk are asked for no more, packed or not, after a stop or a kill."""
    origin = Origin(stored=content(1, 5 * MIB), packed=TEXT)
    origin.stop_after = {"stored": 3 * MIB, "packed": 3 * MIB}
    bench = make_bench(origin)
    run = bench.run(make_job(origin.sources()))

    def half_way() -> bool:
        sizes = on_disk(bench)
        return sizes.get("0", 0) >= 2 * MIB and sizes.get("1", 0) >= 800_000

    job, _ = await run_until(run, half_way)
    if not killed:
        await run.close(keep=True)
        assert not [size for size in [bench.spool.disk.used] if size < 2 * MIB]
    origin.stop_after.clear()
    next_bench = restarted(bench)
    done = await next_bench.finish(job)
    assert unzipped(next_bench, done) == origin.files
    offsets = {name: sent[-1][0] for name, sent in origin.sent.items()}
    assert offsets["stored"] >= 2 * MIB
    assert offsets["packed"] >= MIB
    assert [len(sent) for sent in origin.sent.values()] == [2, 2]
    assert done.bytes_fetched == sum(map(len, origin.files.values()))
    if killed:
        await run.close()


async def test_a_changed_file_is_fetched_from_its_beginning(make_bench: MakeBench) -> None:
    """The source's validator decides whether the bytes on the disk are still worth something."""
    origin = Origin(file=content(1, 5 * MIB))
    origin.stop_after = {"file": 3 * MIB}
    bench = make_bench(origin)
    run = bench.run(make_job(origin.sources()))
    job, _ = await run_until(run, lambda: on_disk(bench).get("0", 0) >= 2 * MIB)
    await run.close(keep=True)
    origin.stop_after.clear()
    origin.files["file"], origin.validator = content(2, 5 * MIB), '"2"'
    done = await bench.finish(job)
    assert unzipped(bench, done) == origin.files
    assert bench.clean()


async def test_whole_files_are_not_asked_for_again(make_bench: MakeBench) -> None:
    """What was verified and not stored yet, small or large, packed or not, is still here."""
    origin = Origin(
        stored=content(1, MIB), packed=TEXT, small=b"small", slow=content(2, MIB), empty=b""
    )
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    run = bench.run(make_job(origin.sources()))
    job, _ = await run_until(run, lambda: run._job.files_completed == 4)
    await run.close(keep=True)
    origin.stop_after.clear()
    # Also in another process on the same folder.
    next_bench = restarted(bench)
    done = await next_bench.finish(job.evolve(status=job.status))
    assert unzipped(next_bench, done) == origin.files
    assert {name: len(sent) for name, sent in origin.sent.items()} == {
        "stored": 1,
        "packed": 1,
        "small": 1,
        "slow": 2,
        "empty": 1,
    }
    assert done.bytes_fetched == sum(map(len, origin.files.values()))
    assert next_bench.clean()
    assert [entry.attempts for entry in next_bench.steps[-1].job.files] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("harm", ["cut", "changed", "note", "boot"])
async def test_what_was_damaged_is_fetched_again(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Nothing on the disk is trusted that is not what was written since the machine started."""
    origin = Origin(stored=content(1, MIB), packed=TEXT, slow=content(2, MIB))
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    run = bench.run(make_job(origin.sources()))
    job, _ = await run_until(run, lambda: run._job.files_completed == 2)
    await run.close(keep=True)
    origin.stop_after.clear()
    for path in file_sizes(bench.folder):
        damage(path, harm)
    if harm == "boot":
        monkeypatch.setattr("downloadd.pipeline.notes.boot_id", lambda: "another")
    done = await bench.finish(job)
    assert unzipped(bench, done) == origin.files
    assert [len(origin.sent[name]) for name in ("stored", "packed")] == [2, 2]
    assert bench.clean()


def damage(path: Path, harm: str) -> None:
    data = path.read_bytes()
    if harm == "note" and path.suffix == ".json":
        path.write_bytes(data[:-5])
    if harm == "cut" and not path.suffix:
        path.write_bytes(data[:-1])
    if harm == "changed" and path.name in ("0", "1"):
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "downloadd.pipeline.uploading.part_bounds", lambda number: part_bounds(number, MIB)
    )


async def interrupted(bench: Bench, origin: Origin, name: str) -> tuple[Job, str | None, JobRun]:
    """Stop when three parts are stored and written down, and one file is not there."""
    run = bench.run(make_job(origin.sources()))
    job, checkpoint = await run_until(run, lambda: len(run._upload._saved) >= 3)
    assert job.files_completed < job.total_files
    return job, checkpoint, run


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("here", [True, False])
async def test_only_what_no_stored_part_covers_is_fetched(
    make_bench: MakeBench, here: bool
) -> None:
    """Of a large file of which the beginning is stored, the rest is asked for; here, nothing."""
    origin = Origin(large=content(1, 3 * MIB + 500_000), slow=content(2, 2 * MIB))
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    job, checkpoint, run = await interrupted(bench, origin, "large")
    await run.close(keep=here)
    origin.stop_after.clear()
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files
    rest = origin.sent["large"][1:]
    assert len(rest) == (0 if here else 1)
    assert all(3 * MIB - 100 <= start <= 3 * MIB for start, _ in rest)
    assert done.bytes_fetched == sum(map(len, origin.files.values()))
    assert bench.clean()
    assert not bench.store.uploads


@pytest.mark.usefixtures("small_parts")
async def test_files_of_stored_parts_go_when_the_job_goes_on(make_bench: MakeBench) -> None:
    """A kill may come between a checkpoint and the removal of what it sets free."""
    origin = Origin(stored=content(1, 3 * MIB), next=content(2, 2 * MIB), slow=content(3, MIB))
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    run = bench.run(make_job(origin.sources()))
    job, checkpoint = await run_until(run, lambda: len(run._upload._saved) >= 4)
    await run.close(keep=True)
    (index,) = {"0", "1"} - {name.partition(".")[0] for name in on_disk(bench)}
    left = bench.folder / job.id / index  # was laid out first, and is stored
    for path in (left, note_path(left), tail_path(left, MIB)):
        path.write_bytes(bytes(MIB))
    next_bench = restarted(bench)
    again = next_bench.run(job, checkpoint)
    await run_until(again, lambda: bool(again._fetches))
    assert not {name for name in on_disk(next_bench) if name.startswith(index)}
    origin.stop_after.clear()
    await again.close(keep=True)
    done = await next_bench.finish(job, checkpoint)
    assert unzipped(next_bench, done) == origin.files
    assert next_bench.clean()


@pytest.mark.usefixtures("small_parts")
async def test_what_parts_wait_for_comes_before_what_is_left(make_bench: MakeBench) -> None:
    """A small file that a kill took along is fetched first, not after one that stalls."""
    origin = Origin(small=b"small", large=content(1, 3 * MIB), slow=content(2, 2 * MIB))
    origin.stop_after = {"slow": MIB}
    bench = make_bench(origin)
    bench.store.before_part = lambda _: asyncio.Event().wait()
    run = bench.run(make_job(origin.sources()))

    def laid_out() -> bool:
        return len(run._packing.payloads) == 2 and "2" in on_disk(bench) and bool(run._upload.tasks)

    job, checkpoint = await run_until(run, laid_out)
    assert checkpoint
    next_bench = restarted(bench)
    next_bench.services = next_bench.services.evolve(per_job=1)
    next_bench.store.before_part = lambda _: None
    again = next_bench.run(job, checkpoint)
    await run_until(again, lambda: len(again._upload.parts) >= 3)
    assert [url.rpartition("/")[2] for url, *_ in next_bench.reader.asked] == ["small", "slow"]
    await run.close()
    await again.close()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("validator", ['"1"', '"2"', None])
async def test_a_file_that_changed_behind_its_stored_part_starts_the_archive_over(
    make_bench: MakeBench, validator: str | None
) -> None:
    """Also one whose source says that nothing has changed: the archive is read back."""
    origin = Origin(large=content(1, 3 * MIB + 500_000), slow=content(2, 2 * MIB))
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    job, checkpoint, run = await interrupted(bench, origin, "large")
    await run.close()
    origin.stop_after.clear()
    origin.files["large"] = content(3, 3 * MIB + 500_000)
    origin.validator = validator
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files
    assert not bench.store.uploads
    assert bench.clean()


@pytest.mark.usefixtures("small_parts")
async def test_what_is_left_here_does_not_do_when_the_storage_has_lost_more(
    make_bench: MakeBench,
) -> None:
    """The end of a file that lies on the disk is no use where a part before it is gone."""
    origin = Origin(large=content(1, 3 * MIB + 500_000), slow=content(2, 2 * MIB))
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    run = bench.run(make_job(origin.sources()))

    def only_the_end_is_here() -> bool:
        ends = [name for name in on_disk(bench) if name.startswith("0.") and name[2:].isdigit()]
        return bool(ends) and len(run._upload._saved) >= 3

    job, checkpoint = await run_until(run, only_the_end_is_here)
    await run.close(keep=True)
    origin.stop_after.clear()
    (parts,) = bench.store.uploads.values()
    del parts[2]
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files
    ((start, _),) = origin.sent["large"][1:]
    assert MIB - 100 <= start <= MIB
    assert bench.clean()


@pytest.mark.usefixtures("small_parts")
async def test_a_rest_that_is_too_long_is_not_taken(make_bench: MakeBench) -> None:
    """A source that sends more than the file had from there on has another one."""
    origin = Origin(large=content(1, 3 * MIB + 500_000), slow=content(2, 2 * MIB))
    origin.stop_after = {"slow": 100_000}
    bench = make_bench(origin)
    job, checkpoint, run = await interrupted(bench, origin, "large")
    await run.close()
    origin.stop_after.clear()

    def longer(source: Source, offset: int, validator: str | None) -> Answer:
        answer = origin(source, offset, validator)
        if answer.offset:
            answer.data, answer.size = answer.data + b"more", None
        return answer

    bench.reader.script = longer
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files
    assert [start > 0 for start, _ in origin.sent["large"]] == [False, True, False]


@pytest.mark.usefixtures("small_parts")
async def test_a_known_checksum_is_not_believed_of_other_bytes(make_bench: MakeBench) -> None:
    """Parts were lost when all was done but completing: what was fetched anew is compared."""
    origin = Origin(small=b"small", large=content(1, 3 * MIB + 500_000))
    bench = make_bench(origin, per_job=1)
    complete, asked = bench.store.complete, asyncio.Event()

    async def never(*_: object) -> Stored:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench.store.complete = never  # type: ignore[method-assign]
    run = bench.run(make_job(origin.sources()))
    job, checkpoint = await run_until(run, asked.is_set)
    await run.close()
    bench.store.complete = complete  # type: ignore[method-assign]
    assert checkpoint is not None
    assert '"sha256":"' in checkpoint
    (parts,) = bench.store.uploads.values()
    del parts[max(parts) - 1], parts[max(parts)]
    origin.files["large"] = content(3, 3 * MIB + 500_000)  # and says that it is the same
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files


@pytest.mark.usefixtures("small_parts")
async def test_no_part_is_sent_of_what_is_not_written_down(make_bench: MakeBench) -> None:
    """Whenever a part goes out, the last checkpoint that was written tells of all its entries."""
    origin = Origin(**{f"f{n}": content(n, 400_000) for n in range(12)})
    bench = make_bench(origin, per_job=2)
    written: list[Checkpoint] = []

    def check(number: int) -> None:
        told = Layout()
        for entry in written[-1].entries:
            told.append(entry)
        assert written[-1].sealed or told.size >= number * MIB

    bench.store.before_part = check
    run = bench.run(make_job(origin.sources()))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            read = Checkpoint.parse(step.checkpoint) if step.checkpoint else None
            written += [read] if read else []
    await run.close()
    assert bench.store.calls["part"] == 5


@pytest.mark.usefixtures("small_parts")
async def test_a_part_sent_late_has_the_bytes_of_its_successor(make_bench: MakeBench) -> None:
    """No part is cut but from what is written down, so that whoever goes on cuts the same."""
    origin = Origin(a=content(1, MIB), b=content(2, MIB), c=content(3, MIB), d=content(4, 100))
    bench = make_bench(origin, per_job=1)
    sent: dict[int, bytes] = {}
    upload_part = bench.store.upload_part
    hold = asyncio.Event()

    async def late(key, upload_id, number, body):  # type: ignore[no-untyped-def]
        data = b"".join([chunk async for chunk in body.chunks()])
        assert sent.setdefault(number, data) == data
        if not hold.is_set() and number == 2:
            await asyncio.Event().wait()
        return await upload_part(key, upload_id, number, body)

    bench.store.upload_part = late  # type: ignore[method-assign]
    run = bench.run(make_job(origin.sources()))
    job, checkpoint = await run_until(run, lambda: {1, 2} <= set(sent))
    await run.close()
    hold.set()
    # Now they come in another order.
    bench.services = bench.services.evolve(per_job=4)
    origin.files = dict(reversed(origin.files.items()))
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files
    assert bench.store.calls["begin"] == 1


@pytest.mark.usefixtures("small_parts")
async def test_a_part_whose_answer_was_lost_counts(make_bench: MakeBench) -> None:
    """The storage has it, and it can only be the one that we would send."""
    origin = Origin(a=content(1, 3 * MIB), b=content(2, 2 * MIB))
    bench = make_bench(origin)
    bench.store.before_part = lambda number: asyncio.Event().wait() if number > 3 else None
    run = bench.run(make_job(origin.sources()))

    def three_stored() -> bool:
        return any(set(parts) == {1, 2, 3} for parts in bench.store.uploads.values())

    job, checkpoint = await run_until(run, three_stored)
    await run.close()
    bench.store.before_part = lambda number: None
    (stored,) = bench.store.uploads.values()
    numbers, calls = set(stored), bench.store.calls["part"]
    done = await bench.finish(job, checkpoint)
    assert unzipped(bench, done) == origin.files
    (size,) = [len(data) for data in bench.store.objects.values()]
    assert bench.store.calls["part"] - calls == -(-size // MIB) - len(numbers)


async def test_a_failed_job_is_taken_up_by_its_retry(make_bench: MakeBench) -> None:
    """Only what failed, or was not there yet, is asked for."""
    origin = Origin(small=b"small", large=content(1, MIB), bad=content(2, 1000))
    bench = make_bench(origin, retries=0)
    broken = bench.reader.script

    def script(source: Source, offset: int, validator: str | None) -> Answer | SourceUnreachable:
        if source.url.endswith("bad"):
            return SourceUnreachable("Away.")
        return origin(source, offset, validator)

    bench.reader.script = script
    job = make_job(origin.sources())
    bench.services = bench.services.evolve(per_job=1)
    with pytest.raises(FileFailed, match="Away"):
        await follow(run := bench.run(job))
    await run.close(keep=True)
    assert bench.spool.kept_jobs() == [job.id]
    bench.reader.script = broken
    done = await bench.finish(job)
    assert unzipped(bench, done) == origin.files
    assert [len(origin.sent[name]) for name in ("small", "large", "bad")] == [1, 1, 1]
    assert all(entry.status is FileStatus.COMPLETED for entry in done.files)


async def test_what_is_kept_goes_when_the_disk_is_needed(make_bench: MakeBench) -> None:
    """The oldest first; who still has his bytes then goes on with them."""
    origin = Origin(file=content(1, 3 * MIB))
    bench = make_bench(origin, disk=10 * MIB)
    origin.stop_after = {"file": 2 * MIB + 500_000}
    jobs = []
    for wanted in (2 * MIB, 4 * MIB, 6 * MIB):
        run = bench.run(job := make_job(origin.sources()))
        await run_until(run, lambda wanted=wanted: sum(on_disk(bench).values()) >= wanted)
        await run.close(keep=True)
        jobs.append(job)
    assert bench.spool.kept_jobs() == [job.id for job in jobs]
    big = Origin(big=content(5, 5 * MIB))
    bench.reader.script = big
    done = await follow(run := bench.run(make_job(big.sources())))
    await run.close()
    assert unzipped(bench, done) == big.files
    assert bench.spool.kept_jobs() == [job.id for job in jobs[1:]]
    bench.spool.evict_all()
    assert bench.spool.kept_jobs() == []
    async with asyncio.timeout(20):
        while not bench.clean():
            await asyncio.sleep(0.01)


async def follow(run: JobRun) -> Job:
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            job = step.job
    return job


async def test_a_job_without_bytes_keeps_nothing(make_bench: MakeBench) -> None:
    """A failed job of which nothing came is not remembered as if it had something."""
    bench = make_bench(lambda *_: SourceUnreachable("Away."), retries=0)
    with pytest.raises(FileFailed):
        await follow(run := bench.run(make_job([Source(url="http://files.example/a")])))
    await run.close(keep=True)
    assert bench.spool.kept_jobs() == []
    assert bench.clean()


async def test_a_file_that_waits_for_another_is_only_its_tail(make_bench: MakeBench) -> None:
    """What is stored of a file leaves the disk, though the layout knows already what follows it."""
    sizes = {"p": 10, "a": 30, "b": 30, "c": 5}
    files = {name: content(n, size * MIB) for n, (name, size) in enumerate(sizes.items())}
    origin, block = Origin(**files), asyncio.Event()
    bench = make_bench(origin, disk=256 * MIB, per_job=1)
    stored = bench.store.uploads

    async def only_the_second(number: int) -> None:
        if number != 2:
            await block.wait()

    bench.store.before_part = only_the_second
    run = bench.run(make_job(origin.sources()))
    job, checkpoint = await run_until(
        run, lambda: bench.store.calls["part"] >= 4 and any(2 in it for it in stored.values())
    )
    await run.close(keep=True)
    for path in bench.folder.rglob("2*"):  # of ``b``, which comes slowly now
        path.unlink()
    bench.store.before_part = lambda number: None
    origin.stop_after["b"] = 30 * MIB - 1000
    run = bench.run(job, checkpoint)
    await run_until(run, lambda: any(name.startswith("1.") for name in payloads_of(bench)))
    kept = payloads_of(bench)
    assert sum(size for name, size in kept.items() if name.startswith("1")) <= 16 * MIB, kept
    # Killed a moment sooner, it had left the rest too.
    await run.close(keep=True)
    (bench.folder / job.id / "1").write_bytes(files["a"])
    run = bench.run(job, checkpoint)
    await run_until(run, lambda: "1" not in on_disk(bench) and bench.spool.disk.used > 0)
    await run.close()
    assert bench.clean()


def payloads_of(bench: Bench) -> dict[str, int]:
    """The files on the disk, but what is noted of them."""
    return {name: size for name, size in on_disk(bench).items() if ".json" not in name}
