"""The S3 gateway is killed, held up or away: jobs wait for it, go on, and say what they could not.

The gateway is killed with -9: what it has acknowledged it must have when it is
back, and the archives prove that it does.

The long outage outlasts every retry, which takes a minute and a half: it runs
beside the other tests of this module, which share one event loop for that.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.archives import MIB, Wanted, want
from tests.e2e.service import S3Storage, Service, Storage, eventually, s3_storage
from tests.faults.outages import (
    Watcher,
    ask,
    assert_archive,
    body,
    health_says,
    post,
    sent,
    steady,
)
from tests.gateway import GatewayProcess, run_gateway_process
from tests.origin import Origin

pytestmark = pytest.mark.asyncio(loop_scope="module")

KILLS = 10
#: Seconds that all of a job's tries may take, its waits of 5, 10 and 20 included.
ALL_TRIES = 100.0


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """A server with a gateway and an origin of its own."""
    place = folder / "gateway"
    place.mkdir()
    with run_gateway_process(place) as gateway:
        bucket = f"bucket-{secrets.token_hex(8)}"
        async with (
            s3_storage(gateway.gateway, bucket) as storage,
            Origin() as origin,
            Service(folder / "data", storage.environ) as server,
        ):
            yield Site(folder, gateway, storage, origin, server)


class Site:
    def __init__(
        self,
        folder: Path,
        gateway: GatewayProcess,
        storage: S3Storage,
        origin: Origin,
        server: Service,
    ) -> None:
        self.folder = folder
        self.gateway = gateway
        self.storage: Storage = storage
        self.origin = origin
        self.server = server

    async def assert_done(self, job_id: str, files: list[Wanted]) -> dict[str, Any]:
        """The job is completed, its archive right, and nothing else is left of it."""
        job = await self.server.ended(job_id)
        await assert_archive(self.server, job, files, self.folder)
        await eventually(lambda: self.server.spool() == {}, what="temporary files are gone")
        assert await self.storage.parts() == {}
        return job

    async def start_gateway(self) -> None:
        # It takes a second, in which the server and the origin go on.
        await asyncio.to_thread(self.gateway.start)


async def uploading(site: Site) -> bool:
    return any((await site.storage.parts()).values())


# --- the long outage ----------------------------------------------------------------


class LongOutage:
    """A job whose storage is away for longer than it is tried; what was seen of it."""

    failed: dict[str, Any]
    last: Any
    #: Bytes that the sources had sent when the gateway went, and at the very end.
    sent_before: int
    sent_after: int
    retried: int
    completed: dict[str, Any]


async def long_outage(folder: Path) -> LongOutage:
    seen = LongOutage()
    async with site(folder) as it:
        files = [want(it.origin, seed, 7 * MIB + seed) for seed in range(6)]
        # Silent until the gateway is gone: the rest of the archive then comes in vain.
        files.append(want(it.origin, 9, MIB, gate=1))
        job_id = await it.server.initiate(body(files))
        async with Watcher(it.server, job_id) as watcher:
            await eventually(lambda: uploading(it), what="a part is stored")
            await eventually(lambda: sent(it.origin, files) == sum(f.size for f in files[:6]))
            await eventually(lambda: it.origin.hits[files[6].path], what="the last is asked for")
            it.gateway.kill()
            it.origin.gate.set()
            seen.last = await watcher.ended(seconds=ALL_TRIES)
        seen.failed = await it.server.status(job_id)
        await it.start_gateway()
        seen.sent_before = sent(it.origin, files)
        seen.retried = await retry(it.server, job_id)
        if seen.retried == 200:
            seen.completed = await it.assert_done(job_id, files)
        seen.sent_after = sent(it.origin, files)
    return seen


async def retry(server: Service, job_id: str) -> int:
    """Retry a job, again as long as the server says that its storage is not back yet."""

    async def status() -> int | None:
        answer = await ask(server, "POST", f"/v1/download/{job_id}/retry")
        return None if answer.status == 503 else answer.status

    said: int = await eventually(status, what="the storage is back")
    return said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _long_outage(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[asyncio.Task[LongOutage]]:
    task = asyncio.create_task(long_outage(tmp_path_factory.mktemp("l")))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def begun(_long_outage: asyncio.Task[LongOutage]) -> asyncio.Task[LongOutage]:
    """The long outage, begun with the first test."""
    return _long_outage


# --- shorter ones -------------------------------------------------------------------


async def test_kills_in_mid_job(folder: Path) -> None:
    """The gateway dies ten times under jobs of several parts: the archives are right."""
    pauses = random.Random(10)
    kills = 0
    async with site(folder) as it:
        for _ in range(5):
            files = steady(it.origin, 8, seconds=8)
            before = sent(it.origin, files)
            job_id = await it.server.initiate(body(files))
            async with Watcher(it.server, job_id) as watcher:
                while kills < KILLS and sent(it.origin, files) < before + 48 * MIB:
                    await asyncio.sleep(pauses.uniform(0, 0.5))
                    it.gateway.kill()
                    kills += 1
                    await it.start_gateway()
                await watcher.ended()
                watcher.assert_whole(it.server.events_of(job_id))
            await it.assert_done(job_id, files)
            if kills >= KILLS:
                break
        assert kills == KILLS
        assert len(await it.storage.objects()) >= 1


async def test_ten_seconds_of_silence(folder: Path) -> None:
    """A gateway that is held up for 10 s costs the job that time and nothing more."""
    async with site(folder) as it:
        files = steady(it.origin, 8, seconds=4)
        job_id = await it.server.initiate(body(files))
        await eventually(lambda: uploading(it), what="a part is stored")
        it.gateway.pause()
        try:
            before = sent(it.origin, files)
            await health_says(it.server, storage="error")
            await asyncio.sleep(7)
            assert sent(it.origin, files) > before, "the sources are read meanwhile"
        finally:
            it.gateway.resume()
        job = await it.assert_done(job_id, files)
        assert job["attempts"] == 1
        await health_says(it.server)


async def test_a_job_waits_for_its_storage(folder: Path) -> None:
    """A storage that is away for longer than a call is tried only delays the job."""
    async with site(folder) as it:
        files = steady(it.origin, 8, seconds=3)
        job_id = await it.server.initiate(body(files))
        async with Watcher(it.server, job_id) as watcher:
            await eventually(lambda: uploading(it), what="a part is stored")
            it.gateway.kill()
            await health_says(it.server, storage="error")
            await asyncio.sleep(12)
            assert (await it.server.status(job_id))["status"] == "processing"
            await it.start_gateway()
            last = await watcher.ended()
            assert last.type == "complete"
            watcher.assert_whole(it.server.events_of(job_id))
        await it.assert_done(job_id, files)
        # Half a part may be under way when it goes.
        whole = sum(file.size for file in files)
        assert sent(it.origin, files) <= whole + 2 * 16 * MIB


async def test_no_job_is_taken_without_storage(folder: Path) -> None:
    """While the storage is away new jobs get 503 and a time to come back, and are not made."""
    async with site(folder) as it:
        files = [want(it.origin, 1, 1000)]
        it.gateway.kill()
        await health_says(it.server, storage="error")
        before = it.server.keys()
        (await post(it.server, files)).assert_unavailable("storage_unavailable")
        assert it.server.keys() - before <= {"{downloadd}:health"}
        await health_says(it.server, storage="error")
        await it.start_gateway()

        async def taken() -> Any:
            answer = await post(it.server, files)
            return answer.data if answer.status == 200 else None

        job = await eventually(taken, what="jobs are taken again")
        await it.assert_done(job["jobId"], files)


async def test_a_long_outage_ends_the_job(begun: asyncio.Task[LongOutage]) -> None:
    """After the last try the job has failed, with a code and a sentence that tell of the tries."""
    seen = await asyncio.wait_for(asyncio.shield(begun), ALL_TRIES)
    assert (seen.failed["status"], seen.failed["errorCode"]) == ("failed", "storage_unavailable")
    assert "3 times" in seen.failed["error"]
    assert seen.failed["error"].endswith(".")
    assert (seen.last.type, seen.last.data["errorCode"]) == ("failed", "storage_unavailable")


async def test_retry_after_a_long_outage(begun: asyncio.Task[LongOutage]) -> None:
    """``POST …/retry`` then completes the job from what was verified: no source is asked again."""
    seen = await asyncio.wait_for(asyncio.shield(begun), ALL_TRIES)
    assert seen.retried == 200
    assert seen.completed["status"] == "completed"
    assert seen.sent_after == seen.sent_before
