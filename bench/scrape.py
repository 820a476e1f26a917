"""A scrape of /metrics while 1,000 jobs wait or are under way: milliseconds."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

import aiohttp

from bench.small import urls_of
from bench.stage import Service

JOBS = 1000
SCRAPES = 300
#: So many of them are under way.
WORKERS = 16
#: Each job's files are held back, so that it stays as it is.
SETTINGS = {
    "DOWNLOADD_JOBS_CONCURRENCY": str(WORKERS),
    "DOWNLOADD_SIMULATION_ENABLED": "true",
    "DOWNLOADD_SIMULATION_MIN_MS": "600000",
    "DOWNLOADD_SIMULATION_MAX_MS": "600000",
}
#: Asked for before, so that there are as many series as there come to be.
_PATHS = (
    *("/", "/health", "/health/live", "/health/ready", "/openapi.json", "/docs", "/nowhere"),
    *("/v1/download/jobs", "/v1/download/status/x", "/v1/download/result/x", "/v1/download/x"),
    *("/v1/export/x", "/v1/export/x/download", "/v1/download/job/x", "/v1/download/stream/x"),
    *("/v1/download/subscribe/x", "/v1/download/x/deliveries", "/v1/download/job/x/download-url"),
)
_POSTED = (
    *("/v1/download/initiate", "/v1/download/start", "/v1/download/check", "/v1/export"),
    *("/v1/download/x/retry", "/v1/download/job/x/retry", "/v1/download/x/deliveries/replay"),
)


def measure(service: Service, origin: str) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    return asyncio.run(_run(service, origin))


async def _run(service: Service, origin: str) -> tuple[float, float]:
    async with aiohttp.ClientSession(service.url) as session:
        for method, paths in (("GET", _PATHS), ("POST", _POSTED), ("DELETE", _PATHS)):
            for path in paths:
                async with session.request(method, path) as answer:
                    await answer.read()
        for _ in range(JOBS):
            body = {"source_urls": urls_of(origin), "options": {"dedupe": False}}
            async with session.post("/v1/download/initiate", json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(await answer.text())
        await asyncio.sleep(2)
        taken = [await _scrape(session) for _ in range(SCRAPES)]
        return tuple(quantiles(taken, n=100)[place] for place in (49, 98))  # type: ignore[return-value]


async def _scrape(session: aiohttp.ClientSession) -> float:
    begun = time.perf_counter()
    async with session.get("/metrics") as answer:
        text = await answer.text()
    seconds = time.perf_counter() - begun
    if answer.status != 200 or f"download_queue_depth {JOBS - WORKERS:.1f}" not in text:
        raise RuntimeError(text[-2000:])
    return seconds * 1000
