"""Disks that are full, folders that may not be written or are gone: clear errors, a live server.

A small disk is a tmpfs; where this user may not mount one, those tests are
skipped. Unwritable folders need no right: the server runs without root's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.archives import MIB, Wanted, want
from tests.e2e.service import LocalStorage, Service, eventually
from tests.faults import unprivileged
from tests.faults.outages import assert_archive, body, health_says, post, sent, steady
from tests.origin import Origin


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of its own with room for ``size`` bytes."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, timeout=10).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    try:
        yield place
    finally:
        # The server may be slow to end: the mount goes with its last file.
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=10)


def fill(disk: Path) -> Path:
    """Take all the room that a disk has; return the file that takes it."""
    ballast = disk / ".ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MIB))
    return ballast


def without_rights(folder: Path) -> Service:
    """A server to which the modes of files apply, whoever runs the tests."""
    server = Service(folder / "data", {})
    server.command = [sys.executable, unprivileged.__file__, "-m", "downloadd"]
    return server


@asynccontextmanager
async def mode(path: Path, bits: int) -> AsyncIterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


async def waits_for(server: Service, job_id: str, code: str, hint: str) -> bool:
    """When a job's run has ended in trouble: whether it waits; if not, it has failed clearly."""

    def told() -> bool:
        return f'"code": "{code}"' in server.log.read_text()

    await eventually(told, what=f"a run ends with {code}")
    job = await server.status(job_id)
    if job["status"] == "processing":
        return True
    assert (job["status"], job["errorCode"]) == ("failed", code), job
    assert hint in job["error"]
    assert job["error"].endswith(".")
    return False


async def assert_works(server: Service, files: list[Wanted], folder: Path) -> None:
    job = await server.ended(await server.initiate(body(files)))
    await assert_archive(server, job, files, folder)
    # One that has failed may keep its own for a retry.
    await eventually(
        lambda: not any(path.parent.name == job["jobId"] for path in server.spool()),
        what="temporary files are gone",
    )


async def no_uploads(server: Service) -> bool:
    return await LocalStorage(server.data_dir).parts() == {}


# --- full -------------------------------------------------------------------------


async def test_temporary_disk_full(folder: Path, origin: Origin) -> None:
    """A job without room for its files waits or fails clearly; with room again jobs work."""
    files = steady(origin, 3, seconds=1)
    with small_disk(folder / "data" / "spool", 40 * MIB) as disk:
        async with Service(folder / "data", {}) as server:
            ballast = fill(disk)
            job_id = await server.initiate(body(files))
            await eventually(lambda: sent(origin, files) > MIB)
            waits = await waits_for(server, job_id, "disk_error", "temporary disk is full")
            # Small files need no disk.
            await assert_works(server, [want(origin, 8, 1000)], folder)
            ballast.unlink()
            if waits:
                job = await server.ended(job_id)
                await assert_archive(server, job, files, folder)
            await assert_works(server, files, folder)
            await eventually(lambda: no_uploads(server), what="uploads are gone")


async def test_full_when_the_server_starts(folder: Path, origin: Origin) -> None:
    """A server whose temporary disk is full starts, and takes small jobs."""
    with small_disk(folder / "data" / "spool", 4 * MIB) as disk:
        fill(disk)
        async with Service(folder / "data", {}) as server:
            await assert_works(server, [want(origin, 8, 1000)], folder)


async def test_archive_disk_full(folder: Path, origin: Origin) -> None:
    """Health says so; a running job waits or fails clearly; with room again jobs work."""
    files = steady(origin, 4, seconds=2)
    with small_disk(folder / "data" / "archives", 128 * MIB) as disk:
        async with Service(folder / "data", {}) as server:
            job_id = await server.initiate(body(files))
            await eventually(lambda: sent(origin, files) > MIB)
            ballast = fill(disk)
            await health_says(server, storage="error")
            waits = await waits_for(server, job_id, "storage_unavailable", "is full")
            ballast.unlink()
            await health_says(server, storage="ok")
            if waits:
                job = await server.ended(job_id)
                await assert_archive(server, job, files, folder)
            await assert_works(server, files, folder)
            await eventually(lambda: no_uploads(server), what="uploads are gone")


async def test_no_job_is_taken_for_a_full_archive_disk(folder: Path, origin: Origin) -> None:
    """New jobs get 503 and a time to come back while there is no room for an archive."""
    with small_disk(folder / "data" / "archives", 128 * MIB) as disk:
        async with Service(folder / "data", {}) as server:
            fill(disk)
            await health_says(server, storage="error")
            refused = await post(server, [want(origin, 1, 1000)])
            refused.assert_unavailable("storage_unavailable")


# --- not to be written --------------------------------------------------------------


@pytest.mark.parametrize("how", ["mode", "spool", "file"])
async def test_unwritable_at_the_start(folder: Path, how: str) -> None:
    """The start ends with one line that names the folder, and a status that is not 0."""
    data = folder / "data"
    locked = data / "spool" if how == "spool" else data
    if how == "file":
        data.write_text("not a folder")
        status, lines = await started(folder)
    else:
        locked.mkdir(parents=True)
        async with mode(locked, 0o500):
            status, lines = await started(folder)
    assert status == 1
    said = [line for line in lines if not line.startswith("{")]
    assert len(said) == 1, lines
    assert str(locked) in said[0]
    assert said[0].endswith(".")
    assert not any("Traceback" in line for line in lines)


async def started(folder: Path) -> tuple[int, list[str]]:
    """Run a server that cannot start; its exit status and what it said."""
    server = without_rights(folder)
    process = await asyncio.create_subprocess_exec(
        *(*server.command, "serve", "--port", str(server.port), "--data-dir", str(server.data_dir)),
        env={**os.environ, **server.environ},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines()


async def test_temporary_folder_becomes_unwritable(folder: Path, origin: Origin) -> None:
    """A job that may not write its files waits or fails clearly; later ones work."""
    files = steady(origin, 3, seconds=2)
    async with without_rights(folder) as server:
        (own,) = (path for path in (server.data_dir / "spool").iterdir() if path.is_dir())
        async with mode(own, 0o500):
            job_id = await server.initiate(body(files))
            await eventually(lambda: sent(origin, files) > MIB)
            waits = await waits_for(server, job_id, "disk_error", "Permission denied")
        if waits:
            await assert_archive(server, await server.ended(job_id), files, folder)
        await assert_works(server, files, folder)


async def test_archive_folder_becomes_unwritable(folder: Path, origin: Origin) -> None:
    """Health says so, the running job fails clearly, and the server works when it may again."""
    files = steady(origin, 4, seconds=1)
    async with without_rights(folder) as server:
        uploads = server.data_dir / "archives" / ".uploads"
        async with mode(uploads, 0o500):
            job_id = await server.initiate(body(files))
            await health_says(server, storage="error")
            job = await server.ended(job_id)
            assert (job["status"], job["errorCode"]) == ("failed", "storage_refused")
            assert "Permission denied. Check its owner and mode." in job["error"]
        await health_says(server, storage="ok")
        await assert_works(server, files, folder)


# --- gone -----------------------------------------------------------------------------


async def test_temporary_folder_deleted(folder: Path, origin: Origin) -> None:
    """``rm -rf data_dir/spool`` under a running job: it ends clearly, and later ones work."""
    files = steady(origin, 6, seconds=3)
    async with Service(folder / "data", {}) as server:
        job_id = await server.initiate(body(files))
        await eventually(lambda: sent(origin, files) > 8 * MIB)
        shutil.rmtree(server.data_dir / "spool")
        job = await server.ended(job_id)
        if job["status"] == "completed":
            await assert_archive(server, job, files, folder)
        else:
            assert job["errorCode"] == "disk_error", job
            assert "temporary folder" in job["error"]
        await assert_works(server, files, folder)
        await eventually(lambda: no_uploads(server), what="uploads are gone")
        assert await server.stop() == 0


async def test_archive_folder_deleted(folder: Path, origin: Origin) -> None:
    """Health says so, a running job fails clearly; a restart makes the folder anew."""
    files = steady(origin, 6, seconds=3)
    async with Service(folder / "data", {}) as server:
        done = await server.ended(await server.initiate(body([want(origin, 9, 1000)])))
        job_id = await server.initiate(body(files))
        await eventually(lambda: sent(origin, files) > 8 * MIB)
        shutil.rmtree(server.data_dir / "archives")
        await health_says(server, storage="error")
        waits = await waits_for(server, job_id, "storage_unavailable", "No such file or directory")
        async with server.client.get(done["downloadUrl"]) as response:
            assert response.status == 404
        await server.stop(times=2)
        await server.start()
        await health_says(server, storage="ok")
        if waits:
            await assert_archive(server, await server.ended(job_id), files, folder)
        await assert_works(server, files, folder)


async def test_archive_folder_away_and_back(folder: Path, origin: Origin) -> None:
    """A disk that is taken away and brought back needs no restart, and has what it had."""
    kept = [want(origin, 9, 1000)]
    async with Service(folder / "data", {}) as server:
        archives = server.data_dir / "archives"
        done: Any = await server.ended(await server.initiate(body(kept)))
        archives.rename(folder / "elsewhere")
        await health_says(server, storage="error")
        (folder / "elsewhere").rename(archives)
        await health_says(server, storage="ok")
        await assert_archive(server, done, kept, folder)
        await assert_works(server, steady(origin, 4, seconds=0.5), folder)
