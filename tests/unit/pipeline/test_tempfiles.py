"""Temporary files that one payload uses after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from downloadd.pipeline.budget import DiskBudget
from downloadd.pipeline.tempfiles import TempFile, TempFiles

MIB = 1 << 20


@pytest.fixture
def disk() -> DiskBudget:
    return DiskBudget(100 * MIB)


@pytest.fixture
def files(tmp_path: Path, disk: DiskBudget) -> Iterator[TempFiles]:
    with ThreadPoolExecutor(2) as executor:
        yield TempFiles(tmp_path, executor, disk)


async def take(files: TempFiles, disk: DiskBudget, size: int, job: str = "job") -> TempFile:
    with disk.moving():
        return await files.take(job, size)


def write(file: TempFile, size: int) -> None:
    file.path.parent.mkdir(exist_ok=True)
    file.path.write_bytes(b"\0" * size)
    file.written = max(file.written, size)


async def test_a_file_is_used_again_by_its_job(files: TempFiles, disk: DiskBudget) -> None:
    """A file given back serves the job's next payload that it has room for, and nobody else's."""
    first = await take(files, disk, 5 * MIB)
    write(first, 4 * MIB)
    await files.give_back(first)
    assert disk.used == 4 * MIB, "what is on disk stays reserved, and no more"
    other = await take(files, disk, MIB, "another")
    larger = await take(files, disk, 5 * MIB)
    assert first not in (other, larger)
    assert await take(files, disk, 3 * MIB) is first
    assert disk.used == (4 + 1 + 5) * MIB


async def test_a_file_that_holds_less_than_is_on_disk_keeps_its_reservation(
    files: TempFiles, disk: DiskBudget
) -> None:
    """What a longer payload left behind takes disk still, and is counted."""
    first = await take(files, disk, 4 * MIB)
    write(first, 4 * MIB)
    await files.give_back(first)
    again = await take(files, disk, MIB)
    again.fit(MIB)
    assert disk.used == 4 * MIB


@pytest.mark.parametrize("size", [0, 40 * MIB])
async def test_what_is_not_worth_keeping_is_removed(
    files: TempFiles, disk: DiskBudget, size: int
) -> None:
    """A large file, and one that was never written, is gone at once."""
    file = await take(files, disk, 40 * MIB)
    if size:
        write(file, size)
    await files.give_back(file)
    assert disk.used == 0
    assert not file.path.exists()


async def test_spares_make_room_for_those_who_wait(files: TempFiles, disk: DiskBudget) -> None:
    """When the cap is reached, spare files go before anybody waits for a standstill."""
    spares = [await take(files, disk, 30 * MIB) for _ in range(3)]
    for file in spares:
        write(file, 30 * MIB)
        await files.give_back(file)
    assert disk.used == 90 * MIB
    with disk.moving():  # so that nobody is let over the cap
        async with asyncio.timeout(5):
            await take(files, disk, 60 * MIB, "another")
    while disk.used > 60 * MIB:
        await asyncio.sleep(0.01)
    assert not [file for file in spares if file.path.exists()]


async def test_nothing_is_kept_while_somebody_waits(files: TempFiles, disk: DiskBudget) -> None:
    """A file given back during a shortage is removed for those who wait."""
    file = await take(files, disk, 30 * MIB)
    write(file, 30 * MIB)
    with disk.moving():
        waiting = asyncio.create_task(take(files, disk, 90 * MIB))
        await asyncio.sleep(0)
        await files.give_back(file)
        await asyncio.wait_for(waiting, 5)
    assert not file.path.exists()


async def test_clearing_a_job_leaves_nothing_of_it(
    files: TempFiles, disk: DiskBudget, tmp_path: Path
) -> None:
    """Its folder is gone, its spare files' disk is free, and what comes late is removed."""
    kept, late = await take(files, disk, MIB), await take(files, disk, MIB)
    for file in (kept, late):
        write(file, MIB)
    await files.give_back(kept)
    await files.clear("job")
    assert not (tmp_path / "job").exists()
    await files.give_back(late)
    assert disk.used == 0
    await files.clear("job")
