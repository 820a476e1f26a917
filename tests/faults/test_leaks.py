"""After thousands of jobs, most of which came to nothing, the server has what it had before.

Jobs that complete, fail and are cancelled take turns, subscribers come and go.
The first test looks at the process from outside; asyncio's tasks can be seen
only from inside, so the second runs the server in the test's own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import redis

from downloadd.cli.serve import serving
from downloadd.config import load
from tests.e2e.archives import MIB, PATIENCE, want
from tests.e2e.service import LocalStorage, Service, eventually, origin_process
from tests.faults.outages import PREFIX
from tests.integration.web.conftest import read_events
from tests.origin import Origin

WARM_UP, JOBS, SUBSCRIBERS = 500, 2000, 500
#: At once, to the one host that all sources are on. Such a connection waits for the
#: next fetch for up to half a minute: so many files may be open beside those of before.
#: One job in 60 that left one would show.
PER_HOST = 32
#: Bytes that the process may have more of: the heap has holes, and 2,000 jobs
#: that left 8 KiB each would still show.
MEMORY = 16 * MIB
#: The pools for temporary files (4), archives (16) and names (the loop's own)
#: start their threads as they need them.
THREADS = 30
#: Keys that are no job's and stay: the last is of archives and their time.
LASTING = {f"{PREFIX}sequence", f"{PREFIX}installation", f"{PREFIX}archives"}

#: What is 0 when nothing is under way.
IDLE = (
    "active_sse_connections",
    "active_websocket_connections",
    "downloads_active",
    "download_active_workers",
    "download_queue_depth",
)
#: Of a failed job, for its retry window.
KEPT_FOR_RETRY = (":checkpoint", ":headers")


@dataclass
class Crowd:
    """Callers of one server: they make jobs, watch some and cancel some."""

    url: str
    origin: Origin
    random: random.Random
    ids: list[str] = field(default_factory=list)
    cancels: Counter[int] = field(default_factory=Counter)

    async def make(self, count: int, *, watched_every: int) -> None:
        """Make jobs, a third of each kind; return when all have been asked for and cancelled."""
        # Connections of its own, so that the server's ends of them are closed with it.
        connector = aiohttp.TCPConnector(limit=200)
        async with aiohttp.ClientSession(self.url, connector=connector) as client:
            for begin in range(0, count, 50):
                numbers = range(begin, min(begin + 50, count))
                await asyncio.gather(*(self._job(client, n, watched_every) for n in numbers))

    async def _job(self, client: aiohttp.ClientSession, number: int, watched_every: int) -> None:
        kind = number % 3
        urls = [self._good(number), (self._good, self._broken, self._slow)[kind](number)]
        asked = {"source_urls": urls, "options": {"dedupe": False}}
        async with client.post("/v1/download/initiate", json=asked) as response:
            assert response.status == 200, await response.text()
            job_id = (await response.json())["jobId"]
        self.ids.append(job_id)
        doing: list[Awaitable[None]] = []
        if number % watched_every == 0:
            doing.append(self._watch(client, job_id, leaves=self.random.random() < 0.5))
        if kind == 2:
            doing.append(self._cancel(client, job_id))
        await asyncio.gather(*doing)

    def _good(self, number: int) -> str:
        if number % 99 == 2:  # cancelled with an upload under way
            return want(self.origin, number % 5, 17 * MIB).url
        how = {"nolength": 1} if number % 10 == 0 else {}
        return want(self.origin, number % 50, 500 * (number % 40), **how).url

    def _broken(self, number: int) -> str:
        how = [
            {"status": 404},
            {"lie": "longer"},
            {"drop_after": 5000, "norange": 1},
            {"drop_after": 5000, "norange": 1, "reset": 1},
            {"status": 503},
            {"garbage": 1},
        ]
        return want(self.origin, number % 50, 20_000, **how[number // 3 % len(how)]).url

    def _slow(self, number: int) -> str:
        how = [{"stall_after": 5000}, {"delay": 0.1}, {"rate": 50_000}]
        return want(self.origin, number % 50, 20_000, **how[number // 3 % len(how)]).url

    async def _watch(self, client: aiohttp.ClientSession, job_id: str, *, leaves: bool) -> None:
        """Hear the events to the last, one way or the other, or go away in their midst."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(0, 0.5) if leaves else 60):
                path = f"/v1/download/subscribe/{job_id}"
                if self.random.random() < 0.5:
                    async with client.ws_connect(path) as socket:
                        async for _ in socket:
                            pass
                        assert socket.close_code == 1000
                    return
                async with client.get(path) as response:
                    assert response.status == 200
                    async for _ in read_events(response):
                        pass
                return
        assert leaves, "a subscriber waited for nothing"

    async def _cancel(self, client: aiohttp.ClientSession, job_id: str) -> None:
        await asyncio.sleep(self.random.uniform(0, 0.3))
        async with client.delete(f"/v1/download/{job_id}") as response:
            await response.read()
            self.cancels[response.status] += 1


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a process holds of the machine."""

    open_files: int
    threads: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        status = Path(f"/proc/{pid}/status").read_text()
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return cls(
            open_files=len(os.listdir(f"/proc/{pid}/fd")),
            threads=int(values["Threads"]),
            memory=int(values["VmRSS"].split()[0]) * 1024,
        )


async def settled(client: aiohttp.ClientSession) -> None:
    """Wait until nothing is under way in the server."""

    async def idle() -> bool:
        gauges = await metrics(client)
        return not any(gauges[name] for name in IDLE)

    await eventually(idle, seconds=60, what="nothing is under way")


async def metrics(client: aiohttp.ClientSession) -> dict[str, float]:
    async with client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@contextlib.asynccontextmanager
async def crowd(url: str, origin: str) -> AsyncIterator[Crowd]:
    where = urlsplit(origin)
    assert where.hostname is not None
    assert where.port is not None
    # Only the addresses that it makes are wanted of it.
    yield Crowd(url, Origin(host=where.hostname, port=where.port), random.Random(2000))


@pytest.mark.timeout(240)
async def test_two_thousand_jobs(folder: Path) -> None:
    """Open files, threads, memory, keys, temporary files and uploads are back where they were."""
    environ = {"DOWNLOADD_JOBS_CONCURRENCY": "32", "DOWNLOADD_FETCH_PER_HOST": str(PER_HOST)}
    with origin_process() as origin:
        async with (
            Service(folder / "data", environ) as server,
            crowd(server.url, origin) as callers,
        ):
            await callers.make(WARM_UP, watched_every=5)
            await settled(server.client)
            before = Footprint.of(server.process.pid)

            await callers.make(JOBS, watched_every=JOBS // SUBSCRIBERS)
            await settled(server.client)
            await assert_back(server, before)
            statuses = assert_only_ended_jobs(server, callers.ids)
            ended = Counter(statuses.values())
            # A failed job's own may wait for a retry.
            kept = {path.parent.name for path in server.spool()}
            assert {statuses[job_id] for job_id in kept} <= {"failed"}
            storage = LocalStorage(server.data_dir)
            assert await storage.parts() == {}
            assert len(await storage.objects()) == ended["completed"]
            assert await server.stop() == 0
    assert callers.cancels.keys() <= {200, 409}
    assert callers.cancels[200] == ended["cancelled"]
    # Nearly a third each; a cancel may come too late.
    assert min(ended.values()) > 0.2 * (WARM_UP + JOBS)
    assert ended.keys() == {"completed", "failed", "cancelled"}


async def assert_back(server: Service, before: Footprint) -> None:
    def now() -> Footprint:
        return Footprint.of(server.process.pid)

    limit = before.open_files + PER_HOST
    await eventually(
        lambda: now().open_files <= limit, seconds=60, what=f"at most {limit} open files"
    )
    assert now().threads <= THREADS
    assert now().memory <= before.memory + MEMORY


def assert_only_ended_jobs(server: Service, ids: Sequence[str]) -> dict[str, str]:
    """Valkey has every job with a time to go, and nothing else that stays; their statuses."""
    with server.valkey() as client:
        keys = client.keys("*")
        lives = dict(zip(keys, pipelined(client, "TTL", keys), strict=True))
        assert {key for key, seconds in lives.items() if seconds == -1} <= LASTING
        # Empty sets do not exist.
        assert {f"{PREFIX}queue", f"{PREFIX}active"}.isdisjoint(keys)
        jobs = [f"{PREFIX}job:{job_id}" for job_id in ids]
        statuses = [str(status) for status in pipelined(client, "HGET", jobs, "status")]
        assert {key for key in keys if key.startswith(f"{PREFIX}job:")} <= {
            f"{job}{part}" for job in jobs for part in ("", ":files", ":events", *KEPT_FOR_RETRY)
        }
    return dict(zip(ids, statuses, strict=True))


def pipelined(client: redis.Redis, command: str, keys: Sequence[str], *rest: str) -> list[object]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command(command, key, *rest)
    answers: list[object] = pipeline.execute()
    return answers


async def test_no_task_is_left(folder: Path) -> None:
    """When jobs have ended and subscribers are gone, there is no task that was not before."""
    environ = {
        "DOWNLOADD_NETWORK_ALLOW": "127.0.0.1",
        "DOWNLOADD_FETCH_BACKOFF": "0.01",
        "DOWNLOADD_LIMITS_JOBS_PER_MINUTE": "1000000",
        "DOWNLOADD_LIMITS_REQUESTS_PER_MINUTE": "1000000",
    }
    settings = load(None, environ, {"server.port": 0, "state.data_dir": folder / "data"})
    with origin_process() as origin:
        async with (
            serving(settings) as server,
            crowd(server.base_url, origin) as callers,
            aiohttp.ClientSession(server.base_url) as client,
        ):
            await callers.make(60, watched_every=5)
            await settled(client)
            before = await task_names()
            await callers.make(300, watched_every=4)
            await settled(client)
            await assert_no_more_than(before)


async def assert_no_more_than(before: Counter[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while more := await task_names() - before:
        assert time.monotonic() < deadline, f"tasks that were not there before: {more}"


async def task_names() -> Counter[str]:
    """The tasks of this loop, by what they run."""
    await asyncio.sleep(0.05)
    names: Counter[str] = Counter()
    for task in asyncio.all_tasks():
        coroutine = task.get_coro()
        names[getattr(coroutine, "__qualname__", repr(coroutine))] += 1
    return names
