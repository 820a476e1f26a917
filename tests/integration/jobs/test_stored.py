"""Jobs whose files lie in the storage, over both kinds of it."""

from __future__ import annotations

import time
import uuid
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from downloadd.errors import StorageUnavailable
from downloadd.model import FileEntry, Job, JobStatus, OnError, Options, Source
from downloadd.ports import Deduplication, ObjectMeta
from tests.content import content
from tests.integration.jobs.conftest import Rig, Worker, archive
from tests.integration.objects.support import Body

MIB = 1 << 20
META = ObjectMeta(file_name="a.zip")


async def put(rig: Rig, file_id: int, size: int, *, seed: int | None = None) -> bytes:
    data = content(seed or file_id, size)
    await rig.objects.put(f"{file_id}.bin", Body(data), META)
    return data


async def make(worker: Worker, *ids: int, **options: Any) -> str:
    now = time.time()
    sources = [Source(url=f"storage:///{one}.bin", key=f"{one}.bin", file_id=one) for one in ids]
    job = Job(
        id=str(uuid.uuid4()),
        files=tuple(FileEntry(index=i, source=source) for i, source in enumerate(sources)),
        total_files=len(sources),
        options=Options(**options),
        created_at=now,
        updated_at=now,
    )
    await worker.state.jobs.create(job, Deduplication(), queue_limit=1000)
    return job.id


class Breaking:
    """Breaks the first body that it gives in the middle; counts the bytes that were read."""

    def __init__(self, rig: Rig, after: int, then: Callable[[], Awaitable[object]]) -> None:
        self._open = rig.objects.open
        self._after = after
        self._then = then
        self.offsets: list[int] = []
        self.read = 0

    @asynccontextmanager
    async def open(self, key: str, *, offset: int = 0) -> AsyncIterator[Any]:
        self.offsets.append(offset)
        async with self._open(key, offset=offset) as body:
            whole = body.chunks

            async def chunks() -> AsyncIterator[bytes]:
                async for chunk in whole():
                    self.read += len(chunk)
                    yield chunk
                    if len(self.offsets) == 1 and self.read >= self._after:
                        await self._then()
                        raise StorageUnavailable("It broke.")

            body.chunks = chunks
            yield body


@pytest.fixture
def breaking(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Breaking]:
    def make(after: int, then: Callable[[], Awaitable[object]]) -> Breaking:
        made = Breaking(rig, after, then)
        monkeypatch.setattr(rig.objects, "open", made.open, raising=False)
        return made

    return make


async def nothing() -> None:
    return None


async def test_stored_files_become_an_archive(rig: Rig, tmp_path: Path) -> None:
    """Each stored file is in the archive under its key's name, byte for byte."""
    files = {
        f"{one}.bin": await put(rig, one, size) for one, size in [(70000, 9 * MIB), (70001, 5)]
    }
    async with rig.pool() as worker:
        job = await worker.ended(await make(worker, 70000, 70001, manifest=True))
        path = await archive(rig, job, tmp_path)
        await worker.idle()
        assert worker.holds_nothing()
    with zipfile.ZipFile(path) as packed:
        assert {name: packed.read(name) for name in files} == files
        assert b"storage:///70000.bin" in packed.read("manifest.json")


async def test_a_missing_file_fails_by_its_id(rig: Rig, tmp_path: Path) -> None:
    """A stored file that is not there is that file's failure, told by its id, not retried."""
    data = await put(rig, 70000, 100)
    async with rig.pool() as worker:
        failed = await worker.ended(await make(worker, 70000, 70001))
        assert (failed.status, failed.error_code) == (JobStatus.FAILED, "source_missing")
        assert failed.error == "File 70001: There is no stored file 70001."
        assert failed.files[1].attempts == 1
        done = await worker.ended(await make(worker, 70000, 70001, on_error=OnError.SKIP))
        assert (done.partial, done.files[1].error_code) == (True, "source_missing")
        path = await archive(rig, done, tmp_path)
    with zipfile.ZipFile(path) as packed:
        assert packed.read("70000.bin") == data


async def test_it_goes_on_where_it_broke(
    rig: Rig, breaking: Callable[..., Breaking], tmp_path: Path
) -> None:
    """What was read before the storage broke off is not read again."""
    data = await put(rig, 70000, 8 * MIB)
    reads = breaking(3 * MIB, nothing)
    async with rig.pool() as worker:
        job = await worker.ended(await make(worker, 70000))
        path = await archive(rig, job, tmp_path)
    assert len(reads.offsets) >= 2
    assert reads.offsets[1] >= 3 * MIB
    with zipfile.ZipFile(path) as packed:
        assert packed.read("70000.bin") == data


async def test_versions_are_not_mixed(
    rig: Rig, breaking: Callable[..., Breaking], tmp_path: Path
) -> None:
    """An object that is replaced between two tries is read from its beginning."""
    await put(rig, 70000, 8 * MIB)

    async def replace() -> None:
        await put(rig, 70000, 8 * MIB, seed=4711)

    reads = breaking(3 * MIB, replace)
    async with rig.pool() as worker:
        job = await worker.ended(await make(worker, 70000))
        path = await archive(rig, job, tmp_path)
    assert reads.offsets[0] == reads.offsets[-1] == 0
    with zipfile.ZipFile(path) as packed:
        assert packed.read("70000.bin") == content(4711, 8 * MIB)


async def test_a_storage_that_is_away_is_no_fault_of_the_file(
    local: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is put back and fails as one, even where files that fail are left out."""

    @asynccontextmanager
    async def away(key: str, *, offset: int = 0) -> AsyncIterator[Any]:
        raise StorageUnavailable("The storage is away.")
        yield

    await put(local, 70000, 100)
    monkeypatch.setattr(local.objects, "open", away, raising=False)
    local.pauses = (0.05,)
    async with local.pool() as worker:
        job = await worker.ended(await make(worker, 70000, on_error=OnError.SKIP))
    assert (job.status, job.error_code, job.attempts) == (
        JobStatus.FAILED,
        "storage_unavailable",
        2,
    )


async def test_parts_are_copied_in_a_bucket(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that are nothing but some of a stored source are copied, and the bytes are right."""
    data = await put(rig, 70000, 70 * MIB)
    copy, copied = rig.objects.copy_part, []

    async def counted(*args: Any) -> Any:
        part = await copy(*args)
        copied.append(part)
        return part

    monkeypatch.setattr(rig.objects, "copy_part", counted, raising=False)
    async with rig.pool() as worker:
        job = await worker.ended(await make(worker, 70000))
        path = await archive(rig, job, tmp_path)
    assert copied
    assert all((part is not None) == rig.objects.shared for part in copied)
    with zipfile.ZipFile(path) as packed:
        assert packed.read("70000.bin") == data
