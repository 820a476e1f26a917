"""Much at once: a job far larger than the memory and the disk it may use, and a busy pool."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.content import sha256
from tests.e2e.archives import MIB, RemoteFile, digests
from tests.e2e.service import Service, Storage, origin_process
from tests.tools import require_tool

GIB = 1 << 30
#: Seven fit into a GiB; an eighth has to wait for room.
FILES, SIZE = 22, 140 * MIB


@pytest.fixture
def distant_origin() -> Iterator[str]:
    with origin_process() as url:
        yield url


async def sampled(server: Service, peaks: list[int]) -> None:
    """For ever: note how much temporary disk is used."""
    while True:
        peaks.append(sum((await asyncio.to_thread(server.spool)).values()))
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_three_gibibytes(
    service: Callable[..., Service], storage: Storage, distant_origin: str, folder: Path
) -> None:
    """A 3 GiB job stays below 256 MiB of memory and 1 GiB of temporary disk, and is right."""
    if (free := shutil.disk_usage(folder).free) < 8 * GIB:
        pytest.skip(f"only {free / GIB:.1f} GiB of disk are free, 8 are needed")
    # Four different contents: their digests are computed here too.
    urls = [f"{distant_origin}/file/{n % 4}/{SIZE}?n={n}" for n in range(FILES)]
    async with service(jobs_max_disk_bytes="1 GiB") as server:
        peaks: list[int] = []
        sampler = asyncio.create_task(sampled(server, peaks))
        begun = time.monotonic()
        job_id = await server.initiate({"source_urls": urls})
        job = await server.ended(job_id, seconds=200)
        seconds = time.monotonic() - begun
        sampler.cancel()
        memory, disk = server.peak_memory(), max(peaks)
        print(f"{seconds:.1f} s, {memory / MIB:.0f} MiB of memory, {disk / MIB:.0f} MiB of disk")
        assert memory < 256 * MIB
        assert 0 < disk < GIB
        assert FILES * SIZE < job["totalSize"] < FILES * SIZE + MIB
        truth = {file["name"]: sha256(n % 4, SIZE) for n, file in enumerate(job["files"])}
        assert {file["name"]: file["sha256"] for file in job["files"]} == truth
        sample = list(truth)[::9]
        with RemoteFile(job["downloadUrl"], job["totalSize"]) as file:
            found = await asyncio.to_thread(digests, file, sample)
        assert found == {name: truth[name] for name in sample}
    assert await storage.parts() == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("storage", ["local"], indirect=True)
async def test_files_above_four_gibibytes(
    service: Callable[..., Service], distant_origin: str, folder: Path
) -> None:
    """Real bytes beyond 32 bits: sizes, packed sizes and offsets of ZIP64, as 7-Zip reads them."""
    tool = require_tool("7z", "7zz")
    if (free := shutil.disk_usage(folder).free) < 16 * GIB:
        pytest.skip(f"only {free / GIB:.1f} GiB of disk are free, 16 are needed")
    size = 4 * GIB + 12_345
    names = {"stored.bin": (1, size, "random"), "text.txt": (2, size, "text"), "end": (3, 99, "")}
    files = [
        {"name": name, "url": f"{distant_origin}/file/{seed}/{length}?kind={kind or 'random'}"}
        for name, (seed, length, kind) in names.items()
    ]
    async with service() as server:
        job_id = await server.initiate({"files": files})
        job = await server.ended(job_id, seconds=240)
        assert job["status"] == "completed", job
    found = {file["name"]: file["sha256"] for file in job["files"]}
    for name, (seed, length, kind) in names.items():
        assert found[name] == await asyncio.to_thread(sha256, seed, length, kind or "random")
    path = folder / "data" / "archives" / f"{job_id}.zip"
    assert path.stat().st_size == job["totalSize"] > size
    tested = await asyncio.to_thread(
        subprocess.run, [tool, "t", str(path)], capture_output=True, text=True, timeout=120
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "Everything is Ok" in tested.stdout
    assert "arning" not in tested.stdout
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    assert infos["text.txt"].file_size == size > infos["text.txt"].compress_size
    assert infos["stored.bin"].compress_size == size
    assert max(info.header_offset for info in infos.values()) > 4 * GIB


async def posted(server: Service, body: bytes) -> float:
    """Make a job and return the seconds until the whole answer was there."""
    begun = time.perf_counter()
    async with server.client.post(
        "/v1/download/initiate", data=body, headers={"Content-Type": "application/json"}
    ) as response:
        await response.read()
        assert response.status == 200
    return time.perf_counter() - begun


@pytest.mark.alone
async def test_initiate_answers_at_once(
    service: Callable[..., Service], distant_origin: str
) -> None:
    """A thousand files are taken in below 200 ms while eight jobs run and fifty wait."""

    def job(number: int, count: int, size: int, **options: Any) -> bytes:
        urls = [f"{distant_origin}/file/{n}/{size}?rate={8 * MIB}" for n in range(count)]
        body = {"source_urls": urls, "options": {"dedupe": False, "priority": "high", **options}}
        return json.dumps(body).encode()

    async with service(fetch_per_host=16) as server:
        for number in range(58):
            await posted(server, job(number, 4, 100 * MIB))
        # Low, so that none of them begins.
        large = job(0, 1000, 1000, priority="low")
        await asyncio.sleep(0.5)
        times = [await posted(server, large) for _ in range(10)]
        async with server.client.get("/metrics") as response:
            metrics = await response.text()
    print(f"median {statistics.median(times) * 1000:.0f} ms, worst {max(times) * 1000:.0f} ms")
    assert "\ndownloads_active 8.0" in metrics
    assert "\ndownload_queue_depth 60.0" in metrics
    assert statistics.median(times) < 0.2
    assert max(times) < 1
