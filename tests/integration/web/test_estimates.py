"""What clients are told of the time that jobs take."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import pytest

from downloadd.app import STATE
from downloadd.ports import Stint, Sums
from tests.integration.web.conftest import Server, Start, read_events
from tests.origin import Origin

KIB = 1 << 10


def slow(origin: Origin, seed: int, *, size: int = 200 * KIB, rate: int = 100 * KIB) -> str:
    """A file that takes two seconds."""
    return origin.url(seed, size, rate=rate)


async def measured(server: Server, origin: Origin, *, seconds: float = 2.0) -> None:
    """The server has fetched files of 200 KiB from the origin, each in so many seconds."""
    size = 200.0 * KIB
    sums = Sums(files=10, size=10 * size, received=10 * size, seconds=10 * seconds, latency=0.1)
    stints = [Stint(seconds=seconds, tail=0.1)] * 10
    host = f"{origin.host}:{origin.port}"
    await server.app[STATE].pace.record({host: sums}, stints, slots=1, now=time.time())


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_a_new_server_says_nothing(server: Server, origin: Origin) -> None:
    """Nothing was ever measured: null and absent, and no field at all when it has ended."""
    job = await server.initiate({"source_urls": [origin.url(1)]})
    assert job["estimatedTimeRemaining"] is None
    assert not {"estimatedTime", "estimatedCompletion"} & job.keys()
    done = await server.ended(job["jobId"])
    assert not {"estimatedTime", "estimatedTimeRemaining", "estimatedCompletion"} & done.keys()


async def test_a_server_learns_from_what_it_does(server: Server, origin: Origin) -> None:
    """After one job of two seconds the next one like it is said to take about as long."""
    first = await server.initiate({"source_urls": [slow(origin, 1)]})
    await server.ended(first["jobId"])
    await asyncio.sleep(3.5)  # measurements are gathered, and what was read counts, for seconds
    begun = time.time()
    job = await server.initiate({"source_urls": [slow(origin, 2)]})
    assert 2 <= job["estimatedTime"] <= 6
    assert job["estimatedTimeRemaining"] == job["estimatedTime"]
    assert 1 < moment(job["estimatedCompletion"]) - begun < 8
    done = await server.ended(job["jobId"])
    assert done["estimatedTime"] == job["estimatedTime"]


async def test_a_running_job_says_what_is_left(server: Server, origin: Origin) -> None:
    """By its own pace alone: half of a file of six seconds takes three more, or about so."""
    url = slow(origin, 1, size=600 * KIB)
    job = await server.initiate({"source_urls": [url]})
    told: list[tuple[float, dict[str, Any]]]
    async with server.client.get(job["subscribeUrl"]) as response:
        told = [(time.monotonic(), event.data) async for event in read_events(response)]
    end = told[-1][0]
    under_way = [(end - at, data) for at, data in told if data["status"] == "processing"]
    half = [it for it in under_way if 250 * KIB < it[1]["bytesFetched"] < 450 * KIB]
    assert half
    for truth, data in half:
        assert truth / 3 - 1 <= data["estimatedTimeRemaining"] <= 3 * truth + 2
    assert told[-1][1]["estimatedTimeRemaining"] is None
    assert told[-1][1]["progress"] == 100


async def test_waiting_counts_and_polls_stay_the_same(start: Start, origin: Origin) -> None:
    """A queued job waits for those before it; while nothing changes its answer does not either."""
    async with start(jobs__concurrency=1) as server:
        await measured(server, origin, seconds=10.0)
        # The origin answers none of them before the test is over.
        urls = [origin.url(seed, 200 * KIB, delay=60) for seed in range(3)]
        jobs = [await server.initiate({"source_urls": [url]}) for url in urls]
        for _ in range(100):
            last = await server.status(jobs[2]["jobId"])
            if last["queuePosition"] == 2:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(2.1)  # until the slot is known to be taken
        url = f"/v1/download/status/{jobs[2]['jobId']}"
        async with server.client.get(url) as response:
            last = await response.json()
            tag = response.headers["ETag"]
        assert last["estimatedTimeRemaining"] == pytest.approx(31, abs=2)
        assert moment(last["estimatedCompletion"]) - time.time() > 25
        await asyncio.sleep(1.2)
        async with server.client.get(url, headers={"If-None-Match": tag}) as response:
            assert response.status == 304
        for job in jobs:
            await server.client.delete(f"/v1/download/{job['jobId']}")


async def test_two_processes_share_the_queue(start: Start, origin: Origin) -> None:
    """What another process can work on at once makes the wait shorter."""
    async with start(jobs__concurrency=1) as server:
        await measured(server, origin, seconds=10.0)
        keys = server.app[STATE].keys
        seen = await server.app[STATE].client.execute("TIME")
        await server.app[STATE].client.execute(
            "HSET", keys.processes, "another", f"9 {seen[0]} operation"
        )
        job = await server.initiate({"source_urls": [origin.url(1, 200 * KIB)]})
        assert job["estimatedTime"] == 11
        await server.ended(job["jobId"])
