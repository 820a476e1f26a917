"""Valkey is killed, held up, stopped, full, slow or empty: what runs goes on, and nothing is lost.

The server and the Valkey are real processes; Valkey has on disk what it has
acknowledged. Where a test waits for a job after an outage it reads Valkey
itself: everything is to go on without any call.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.archives import MIB, Wanted, want
from tests.e2e.service import LocalStorage, Service, eventually
from tests.faults.outages import (
    SlowProxy,
    Watcher,
    ask,
    assert_archive,
    beside,
    body,
    client_of,
    durable_valkey,
    field_of,
    health_says,
    post,
    sent,
    steady,
    stream_of,
)
from tests.folders import file_sizes
from tests.origin import Origin
from tests.valkey import Valkey

KILLS = 20


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with durable_valkey() as valkey:
        yield valkey


@asynccontextmanager
async def serving(folder: Path, valkey: Valkey, **environ: str) -> AsyncIterator[Service]:
    async with Service(folder / "data", {**beside(valkey), **environ}) as server:
        yield server


async def assert_nothing_left(server: Service, folder: Path) -> None:
    """No temporary file and no unfinished upload."""
    storage = LocalStorage(folder / "data")
    await eventually(lambda: server.spool() == {}, what="temporary files are gone")

    async def no_uploads() -> bool:
        return await storage.parts() == {}

    await eventually(no_uploads, what="uploads are gone")


async def completed(valkey: Valkey, job_id: str) -> None:
    """Wait for a job's end without asking the server anything."""
    await eventually(
        lambda: field_of(valkey, job_id, "status") not in ("queued", "processing"),
        what=f"job {job_id} ends by itself",
    )
    assert field_of(valkey, job_id, "status") == "completed"


async def test_twenty_kills_in_mid_job(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """Valkey dies 20 times under a job of several parts: no byte, event or order is lost."""
    pauses = random.Random(20)
    kills = 0
    async with serving(folder, valkey) as server:
        for _ in range(6):
            files = steady(origin, 8, seconds=6)
            before = sent(origin, files)
            job_id = await server.initiate(body(files))
            async with Watcher(server, job_id) as watcher:
                await eventually(lambda: watcher.events, what="the watcher is told something")
                while kills < KILLS and sent(origin, files) < before + 48 * MIB:
                    valkey.kill()
                    kills += 1
                    await asyncio.sleep(pauses.uniform(0, 0.3))
                    valkey.start()
                    await asyncio.sleep(pauses.uniform(0, 0.3))
                await watcher.ended()
                watcher.assert_whole(stream_of(valkey, job_id))
            job = await server.status(job_id)
            assert (job["filesCompleted"], job["attempts"]) == (8, 1)
            await assert_archive(server, job, files, folder)
            if kills >= KILLS:
                break
        assert kills == KILLS
        await assert_nothing_left(server, folder)


async def test_transfers_go_on_meanwhile(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """With Valkey away from the first part on, all files arrive, and one write tells of them."""
    files = steady(origin, 6, seconds=3)
    whole = sum(file.size for file in files)
    async with serving(folder, valkey) as server:
        job_id = await server.initiate(body(files))
        await eventually(lambda: sent(origin, files) > 4 * MIB)
        valkey.kill()
        await eventually(lambda: sent(origin, files) == whole, what="the sources are read")
        assert held(folder), "what was fetched is kept while that cannot be written down"
        valkey.start()
        await completed(valkey, job_id)
        assert sent(origin, files) == whole, "nothing is fetched twice"
        await assert_archive(server, await server.status(job_id), files, folder)
        await assert_nothing_left(server, folder)


def held(folder: Path) -> list[Path]:
    """Temporary files, and uploads of which nobody could be told."""
    data = folder / "data"
    temporary = [path for path in file_sizes(data / "spool") if path.name != ".lock"]
    uploads = file_sizes(data / "archives" / ".uploads")
    return [*temporary, *(path for path in uploads if path.name == "parts")]


async def test_away_for_a_while(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """Calls get 503 and a time to come back, health tells why; then all goes on by itself."""
    files = steady(origin, 4, seconds=4)
    async with serving(folder, valkey) as server:
        job_id = await server.initiate(body(files))
        waiting = want(origin, 50, 1000)
        async with Watcher(server, job_id) as watcher:
            await eventually(lambda: sent(origin, files) > MIB)
            valkey.stop()
            await assert_away(server, job_id, waiting)
            valkey.start()
            await completed(valkey, job_id)
            await watcher.ended()
            watcher.assert_whole(stream_of(valkey, job_id))
        await assert_back(server, job_id, waiting)
        await assert_archive(server, await server.status(job_id), files, folder)


async def assert_away(server: Service, job_id: str, waiting: Wanted) -> None:
    """Whatever needs Valkey is refused in good order; what does not need it is not."""
    (await post(server, [waiting])).assert_unavailable("state_unavailable")
    for method, path in (
        ("GET", f"/v1/download/status/{job_id}"),
        ("GET", f"/v1/download/result/{job_id}"),
        ("GET", f"/v1/download/subscribe/{job_id}"),
        ("DELETE", f"/v1/download/{job_id}"),
    ):
        (await ask(server, method, path)).assert_unavailable("state_unavailable")
    await health_says(server, redis="error")
    assert (await ask(server, "GET", "/health/live")).status == 200
    async with server.client.get("/metrics") as response:
        assert response.status == 200


async def assert_back(server: Service, job_id: str, waiting: Wanted) -> None:
    await health_says(server)
    made = await post(server, [waiting])
    assert made.status == 200
    assert (await server.ended(made.data["jobId"]))["status"] == "completed"


async def test_ten_seconds_of_silence(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """A Valkey that is held up keeps connections and says nothing: 503, and then all goes on."""
    files = steady(origin, 4, seconds=12)
    async with serving(folder, valkey) as server:
        job_id = await server.initiate(body(files))
        waiting = want(origin, 51, 1000)
        async with Watcher(server, job_id) as watcher:
            await eventually(lambda: sent(origin, files) > MIB)
            valkey.pause()
            until = asyncio.get_running_loop().time() + 10
            before = sent(origin, files)
            answers = await asyncio.gather(
                post(server, [waiting]),
                ask(server, "GET", f"/v1/download/status/{job_id}"),
            )
            for answer in answers:
                answer.assert_unavailable("state_unavailable")
            await health_says(server, redis="error")
            assert sent(origin, files) > before
            await asyncio.sleep(until - asyncio.get_running_loop().time())
            valkey.resume()
            await completed(valkey, job_id)
            await watcher.ended()
            watcher.assert_whole(stream_of(valkey, job_id))
        await assert_back(server, job_id, waiting)
        await assert_archive(server, await server.status(job_id), files, folder)


async def test_refusing_writes_when_full(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """A full Valkey takes no job; what runs goes on when there is room."""
    files = steady(origin, 4, seconds=3)
    whole = sum(file.size for file in files)
    async with serving(folder, valkey) as server:
        job_id = await server.initiate(body(files))
        async with Watcher(server, job_id) as watcher:
            await eventually(lambda: sent(origin, files) > 4 * MIB)
            with client_of(valkey) as client:
                client.config_set("maxmemory-policy", "noeviction")
                client.config_set("maxmemory", "1mb")
            refused = await post(server, [want(origin, 52, 1000)])
            refused.assert_unavailable("state_unavailable")
            # Reading takes no room.
            assert (await server.status(job_id))["status"] == "processing"
            await eventually(lambda: sent(origin, files) == whole, what="the sources are read")
            with client_of(valkey) as client:
                client.config_set("maxmemory", "0")
            await completed(valkey, job_id)
            await watcher.ended()
            watcher.assert_whole(stream_of(valkey, job_id))
        await assert_back(server, job_id, want(origin, 52, 1000))
        await assert_archive(server, await server.status(job_id), files, folder)


async def test_health_tells_of_refused_writes(folder: Path, valkey: Valkey) -> None:
    """A Valkey that answers, but is full, is not well; with room it is again."""
    async with serving(folder, valkey) as server:
        for limit, said in (("1mb", "error"), ("0", "ok")):
            with client_of(valkey) as client:
                client.config_set("maxmemory", limit)
            await health_says(server, redis=said)


async def test_slow_but_there(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """With 0.3 s on the way to Valkey and 0.3 s back everything works, and health is well."""
    files = steady(origin, 4, seconds=2)
    async with SlowProxy(valkey.port, 0.3) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with Service(folder / "data", {"REDIS_URL": url}) as server:
            job_id = await server.initiate(body(files))
            async with Watcher(server, job_id) as watcher:
                await watcher.ended()
                watcher.assert_whole(stream_of(valkey, job_id))
            await health_says(server)
            await assert_archive(server, await server.status(job_id), files, folder)


async def test_restarted_empty(folder: Path, valkey: Valkey, origin: Origin) -> None:
    """A Valkey that has forgotten everything: jobs end clearly, nothing is left, new ones work."""
    # An upload is open, and one file is still coming.
    files = [want(origin, seed, 12 * MIB, hangup=1) for seed in (1, 2)]
    files.append(want(origin, 3, MIB, stall_after=1000))
    storage = LocalStorage(folder / "data")
    # A worker learns of it when it renews its lease, at the latest.
    environ = {"DOWNLOADD_JOBS_CONCURRENCY": "2", "DOWNLOADD_JOBS_LEASE": "6"}
    async with serving(folder, valkey, **environ) as server:
        jobs = [await server.initiate(body(files)) for _ in range(2)]
        queued = await server.initiate(body([want(origin, 4, 1000)]))

        async def uploading() -> bool:
            return len(await storage.parts()) == 2

        await eventually(uploading, what="both jobs have an upload")
        async with Watcher(server, jobs[0]) as running, Watcher(server, queued) as waiting:
            await eventually(lambda: running.events and waiting.events)
            valkey.kill()
            valkey.forget()
            valkey.start()
            for watcher in (running, waiting):
                last = await watcher.ended()
                assert (last.type, last.data["status"]) == ("failed", "failed")
                assert last.data["errorCode"] == "state_lost"
                assert last.data["error"].endswith(".")
        for job_id in (*jobs, queued):
            gone = await ask(server, "GET", f"/v1/download/status/{job_id}")
            assert (gone.status, gone.data["code"]) == (404, "job_not_found")
        await eventually(lambda: origin.open_connections == 0, what="nothing is fetched any more")
        await assert_nothing_left(server, folder)
        assert await storage.objects() == []
        await health_says(server)
        again = await server.ended(await server.initiate(body([want(origin, 5, 1000)])))
        assert again["status"] == "completed"
        assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


async def test_the_embedded_valkey_dies(folder: Path, origin: Origin) -> None:
    """The server starts its own Valkey again, time after time, and the job completes."""
    files = steady(origin, 6, seconds=4)
    async with Service(folder / "data", {}) as server:
        job_id = await server.initiate(body(files))
        async with Watcher(server, job_id) as watcher:
            await eventually(lambda: watcher.events)
            for times in range(1, 4):
                os.kill(int((server.data_dir / "valkey.pid").read_text()), signal.SIGKILL)
                # Without anybody's doing. Killed sooner, it would be one failed start.
                await eventually(
                    lambda times=times: restarts(server) == times, what="it is started again"
                )
            await watcher.ended()
            watcher.assert_whole(server.events_of(job_id))
        job = await server.status(job_id)
        assert job["attempts"] == 1
        await assert_archive(server, job, files, folder)
        await assert_nothing_left(server, folder)


def restarts(server: Service) -> int:
    """How often the server has started its Valkey again."""
    return server.log.read_text().count('"valkey_restarted"')
