"""1,000 jobs of three files of 10 KiB, through the whole service: jobs a second."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import aiohttp
import uvloop

from bench.stage import SMALL_FILES, Service

JOBS = 1000
CONNECTIONS = 32
#: As many jobs at once as the workers of the peers in this comparison.
SETTINGS = {"DOWNLOADD_JOBS_CONCURRENCY": "16"}
SECONDS = 120.0
_numbers = count()


def measure(service: Service, origin: str) -> float:
    """Jobs a second, posted over 32 connections."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(service, origin))


async def run(service: Service, origin: str) -> float:
    """Post the jobs over 32 connections, wait for the last; returns jobs a second."""
    waiting = list(range(JOBS))
    ids: list[str] = []
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(service.url, connector=connector) as session:
        begun = time.perf_counter()

        async def post_some() -> None:
            while waiting:
                waiting.pop()
                async with session.post("/v1/download/initiate", json=_body(origin)) as answer:
                    job = await answer.json()
                    if answer.status != 200:
                        raise RuntimeError(f"{answer.status}: {job}")
                    ids.append(job["jobId"])

        await asyncio.gather(*(post_some() for _ in range(CONNECTIONS)))
        await asyncio.wait_for(_ended(session, ids[-CONNECTIONS:]), SECONDS)
        seconds = time.perf_counter() - begun
        for job_id in ids:
            async with session.get(f"/v1/download/status/{job_id}") as answer:
                job = await answer.json()
            if job["status"] != "completed" or job["filesCompleted"] != 3:
                raise RuntimeError(f"a job ended as {job['status']}: {job.get('error')}")
    return JOBS / seconds


async def _ended(session: aiohttp.ClientSession, ids: list[str]) -> None:
    """Wait for the jobs that were made last; asking for every job would be part of the load."""
    for job_id in ids:
        while True:
            async with session.get(f"/v1/download/status/{job_id}") as answer:
                if (await answer.json())["status"] not in ("queued", "processing"):
                    break
            await asyncio.sleep(0.02)


def urls_of(origin: str) -> list[str]:
    """The three files of the next job."""
    first = next(_numbers) * 3
    return [f"{origin}/small-{(first + i) % SMALL_FILES:03}.bin" for i in range(3)]


def _body(origin: str) -> dict[str, object]:
    return {"source_urls": urls_of(origin), "options": {"dedupe": False}}
