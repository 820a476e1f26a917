"""A process that is told to stop while it works: what it says, and who goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.e2e.archives import MIB, Wanted, digests
from tests.e2e.service import S3Storage, Service, eventually
from tests.faults.fleet import Fleet
from tests.faults.observer import Observer
from tests.origin import Origin
from tests.valkey import Valkey

PART = 16 * MIB


async def stream(server: Service, job_id: str) -> str:
    """Everything that an event stream says until it ends."""
    async with server.client.get(f"/v1/download/subscribe/{job_id}") as response:
        assert response.status == 200
        return await response.text()


async def posted(server: Service, url: str) -> tuple[int, dict[str, str], str | None]:
    """Ask for a job; status, body and ``Retry-After`` of the answer."""
    body = {"source_urls": [url]}
    async with server.client.post("/v1/download/initiate", json=body) as response:
        return response.status, await response.json(), response.headers.get("Retry-After")


async def ready(server: Service) -> int:
    async with server.client.get("/health/ready") as response:
        return response.status


async def begun(server: Service, bucket: S3Storage, observer: Observer, files: list[Wanted]) -> str:
    """A job that has three parts stored and written down, and does not end."""
    job_id = await server.initiate({"source_urls": [file.url for file in files]})
    await eventually(
        lambda: (found := observer.checkpoint(job_id)) is not None and len(found.parts) == 3,
        what="three parts are stored",
    )
    assert list((await bucket.parts()).values()) == [[1, 2, 3]]
    return job_id


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
async def test_another_process_goes_on_at_once(
    folder: Path, valkey: Valkey, bucket: S3Storage, origin: Origin, signals: int
) -> None:
    """After 20 s, or a second SIGTERM, a job is released; until then the process takes no more.

    The other process has neither to wait for the lease, which is half a
    minute, nor to fetch what was stored.
    """
    files = [
        *(Wanted(url=origin.url(n, 10 * MIB + n), seed=n, size=10 * MIB + n) for n in range(1, 6)),
        # Silent until it is asked for again.
        Wanted(url=origin.url(6, 5 * MIB, stall_after=MIB, times=1), seed=6, size=5 * MIB),
    ]
    with Observer(valkey.url) as observer:
        async with Fleet(folder, valkey, bucket) as fleet:
            first = await fleet.start()
            job_id = await begun(first, bucket, observer, files)
            listener = asyncio.create_task(stream(first, job_id))
            await eventually(lambda: _streams(first, 1), what="somebody listens")
            second = await fleet.start()
            started = time.monotonic()
            if signals == 1:
                stop = asyncio.create_task(first.stop())
                await eventually(lambda: _draining(first), what="it is draining")
                status, body, retry_after = await posted(first, origin.url(7, 1000))
                assert (status, body["code"]) == (503, "server_stopping")
                assert int(str(retry_after)) > 0
                assert (await posted(second, origin.url(7, 1000)))[0] == 200
                assert await stop == 0
                assert 15 < time.monotonic() - started < 25
            else:
                assert await first.stop(times=2) == 0
                assert time.monotonic() - started < 15
            heard = await listener
            assert heard.startswith("retry: ")
            assert "event: complete" not in heard
            assert "event: failed" not in heard
            await eventually(
                lambda: observer.attempts(job_id) == 2, seconds=10, what="the job is taken over"
            )
            job = await second.ended(job_id)
            path = await second.archive(job, folder)
            assert list(digests(path).values()) == [file.sha256 for file in files]
            # The entry that the last stored part cuts in two is needed once more.
            assert sorted(origin.hits[file.path] for file in files[:-1]) == [1, 1, 1, 1, 2]
            assert observer.ends(job_id) == ["complete"]
    assert await bucket.parts() == {}


async def _draining(server: Service) -> bool:
    return await ready(server) == 503


async def _streams(server: Service, count: int) -> bool:
    async with server.client.get("/metrics") as response:
        return f"\nactive_sse_connections {count}.0" in await response.text()


async def test_a_draining_process_claims_nothing(
    folder: Path, valkey: Valkey, bucket: S3Storage, origin: Origin
) -> None:
    """What is queued when a process is told to stop is not begun by it, but by the next."""
    slow = origin.url(1, 600_000, rate=300_000)
    async with Fleet(folder, valkey, bucket, jobs_concurrency=1) as fleet:
        first = await fleet.start()
        running = await first.initiate({"source_urls": [slow]})
        await eventually(lambda: origin.open_connections == 1)
        waiting = await first.initiate({"source_urls": [origin.url(2, 1000)]})
        assert await first.stop() == 0
        with Observer(valkey.url) as observer:
            assert (observer.queued(), observer.active()) == ([waiting], [])
        second = await fleet.start()
        assert (await second.ended(running))["attempts"] == 1
        assert (await second.ended(waiting))["status"] == "completed"
