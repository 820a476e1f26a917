"""Servers behind a real nginx, clients that come through it, and what takes minutes there."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from tests.e2e.archives import PATIENCE
from tests.e2e.service import Service, eventually
from tests.integration.web.conftest import Sent, read_events
from tests.nginx import Nginx, nginx_server
from tests.origin import Origin

T = TypeVar("T")

LAST = ("complete", "failed", "cancelled")
#: Milliseconds that a file is made to take: more than proxies wait, and two of them two minutes.
SLOW_MS = 60_500


class Background:
    """An event loop in a thread of its own: what is awaited there goes on beside tests."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        return self.begin(work).result(seconds)


def session(url: str, address: str = "127.0.0.1", **headers: str) -> aiohttp.ClientSession:
    """A client whose connections come from ``address``."""
    return aiohttp.ClientSession(
        url,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        connector=aiohttp.TCPConnector(local_addr=(address, 0)),
        # Something comes every 15 s.
        timeout=aiohttp.ClientTimeout(total=None, sock_read=40),
    )


class Follower:
    """A client of an event stream that comes back, with the last id, whenever it is cut off."""

    def __init__(self, client: aiohttp.ClientSession, path: str) -> None:
        #: What came, and when.
        self.events: list[tuple[float, Sent]] = []
        #: Every line, comments too, and when.
        self.lines: list[tuple[float, bytes]] = []
        self.connections = 0
        #: Those on which no event came, though they were answered well.
        self.empty = 0
        self._client = client
        self._path = path

    @property
    def over(self) -> bool:
        return bool(self.events) and self.events[-1][1].type in LAST

    @property
    def ids(self) -> list[str]:
        return [str(event.id) for _, event in self.events]

    async def run(self) -> None:
        """Until the job has ended."""
        while not self.over:
            with suppress(aiohttp.ClientError, ConnectionError):
                await self.listen()
            await asyncio.sleep(0 if self.over else 0.3)

    async def listen(self, events: int | None = None) -> None:
        """Over one connection; until so many events more have come."""
        self.connections += 1
        before = len(self.events)
        headers = {"Accept": "text/event-stream"}
        if self.events:
            headers["Last-Event-ID"] = self.ids[-1]
        async with self._client.get(self._path, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            async with aclosing(read_events(_Recorded(response, self.lines))) as coming:
                async for event in coming:
                    self.events.append((time.time(), event))
                    if events is not None and len(self.events) == before + events:
                        return
        self.empty += len(self.events) == before

    def assert_saw(self, all_ids: list[str]) -> None:
        """Every event once and in order; the first stands for all up to its own."""
        assert self.events[0][1].type == "status"
        assert self.ids == all_ids[all_ids.index(self.ids[0]) :]


class _Recorded:
    """A response whose lines are noted as they are read."""

    def __init__(self, response: aiohttp.ClientResponse, lines: list[tuple[float, bytes]]) -> None:
        self._response = response
        self._lines = lines

    @property
    async def content(self) -> AsyncIterator[bytes]:
        async for line in self._response.content:
            self._lines.append((time.time(), line))
            yield line


async def initiate(
    client: aiohttp.ClientSession, body: Mapping[str, Any], **headers: str
) -> dict[str, Any]:
    """Make a job through nginx."""
    async with client.post("/v1/download/initiate", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def ended(client: aiohttp.ClientSession, job_id: str, *, seconds: float) -> dict[str, Any]:
    """Poll a job until it has ended."""
    async with asyncio.timeout(seconds):
        while True:
            async with client.get(f"/v1/download/status/{job_id}") as response:
                assert response.status == 200, await response.text()
                job: dict[str, Any] = await response.json()
            if job["status"] in ("completed", "failed", "cancelled"):
                return job
            await asyncio.sleep(0.5)


@dataclass
class Front:
    """A server, and the nginx before it."""

    service: Service
    nginx: Nginx
    #: API keys by user.
    keys: dict[str, str] = field(default_factory=dict)

    def client(self, user: str = "", address: str = "127.0.0.1") -> aiohttp.ClientSession:
        """A client through nginx, with the user's key."""
        known = {"X_API_Key": self.keys[user]} if user else {}
        return session(self.nginx.url, address, **known)


@asynccontextmanager
async def front(folder: Path, **settings: object) -> AsyncIterator[Front]:
    """A server that believes its nginx, both with their files in ``folder``."""
    environ = {f"DOWNLOADD_{name.upper()}": str(value) for name, value in settings.items()}
    environ["DOWNLOADD_SERVER_TRUSTED_PROXIES"] = "127.0.0.1"
    service = Service(folder / "data", environ)
    with nginx_server(folder / "nginx", [service.port]) as nginx:
        service.environ["DOWNLOADD_SERVER_PUBLIC_URL"] = nginx.url
        async with service:
            yield Front(service, nginx)


# --- what takes minutes -------------------------------------------------------------


@dataclass
class TwoMinutes:
    """What came of a job of two slow files."""

    took: float
    sse: Follower
    #: Types of the WebSocket's messages.
    messages: list[str]
    job: dict[str, Any]


@dataclass
class Start:
    """What came of ``POST /v1/download/start`` for one slow file."""

    status: int
    seconds: float
    headers: Mapping[str, str]
    job_id: str
    job: dict[str, Any]
    #: What the same call answers when all is done.
    again: dict[str, Any]


async def slow_jobs(folder: Path) -> tuple[TwoMinutes, Start]:
    """A job of two minutes followed over one connection each, and one waited for."""
    async with Origin() as origin:
        settings = {
            "simulation_enabled": "true",
            "simulation_min_ms": SLOW_MS,
            "simulation_max_ms": SLOW_MS,
            "fetch_per_job": 1,
            "fetch_source_url_template": f"http://127.0.0.1:{origin.port}/file/{{file_id}}/1000",
        }
        async with front(folder, **settings) as it, it.client() as client:
            async with asyncio.TaskGroup() as group:
                stream = group.create_task(_two_minutes(client, origin))
                start = group.create_task(_start(client))
            return stream.result(), start.result()


async def _two_minutes(client: aiohttp.ClientSession, origin: Origin) -> TwoMinutes:
    began = time.monotonic()
    body = {"source_urls": [origin.url(seed=1), origin.url(seed=2)]}
    job_id = (await initiate(client, body))["jobId"]
    sse = Follower(client, f"/v1/download/stream/{job_id}")
    messages: list[str] = []

    async def listen() -> None:
        async with client.ws_connect(f"/v1/download/subscribe/{job_id}") as socket:
            messages.extend([message.json()["type"] async for message in socket])

    async with asyncio.TaskGroup() as group:
        group.create_task(sse.run())
        group.create_task(listen())
    took = time.monotonic() - began
    return TwoMinutes(took, sse, messages, await ended(client, job_id, seconds=PATIENCE))


async def _start(client: aiohttp.ClientSession) -> Start:
    began = time.monotonic()
    body = {"file_id": 70000}
    async with client.post("/v1/download/start", json=body) as response:
        seconds, answer = time.monotonic() - began, await response.json()
        status, headers = response.status, response.headers
    job_id = answer["job_id"]
    async with asyncio.timeout(120):
        while True:
            async with client.get(headers["Location"]) as response:
                assert response.status == 200, await response.text()
                job = await response.json()
            if job["status"] == "completed":
                break
            await asyncio.sleep(1)
    async with client.post("/v1/download/start", json=body) as response:
        again = await response.json()
    return Start(status, seconds, headers, job_id, job, again)


@dataclass
class Reconnections:
    """What clients saw while nginx was loaded anew and the server went and came."""

    #: One that only ever comes back when it is cut off.
    patient: Follower
    #: Its connections when nginx had been loaded anew.
    connections_after_reload: int
    #: One that came back, over another worker, after the reload.
    returned: Follower
    #: Ids of all the job's events.
    all_ids: list[str]
    #: Status and body for clients of no event stream, while there was no server.
    away: tuple[int, dict[str, Any]]
    #: The same for an event stream.
    away_stream: tuple[int, str]
    job: dict[str, Any]


async def reconnections(folder: Path) -> Reconnections:
    """``nginx -s reload``, then SIGTERM and a new start on the same data, under a job."""
    async with Origin() as origin, front(folder) as it, it.client() as client:
        body = {"source_urls": [origin.url(size=3_000_000, rate=100_000)]}
        job_id = (await initiate(client, body))["jobId"]
        path = f"/v1/download/subscribe/{job_id}"
        patient, returned = Follower(client, path), Follower(client, path)
        following = [asyncio.create_task(patient.run())]
        await returned.listen(events=3)
        await asyncio.to_thread(it.nginx.reload)
        seen = len(patient.events)
        following.append(asyncio.create_task(returned.run()))
        await eventually(lambda: len(patient.events) > seen + 4, what="events after the reload")
        connections = patient.connections
        # The job outlasts the 20 s that it is given, and is taken up by the next process.
        assert await it.service.stop() == 0
        away = await _answer(client, path, Accept="application/json")
        stream = await _answer(client, path, Accept="text/event-stream")
        await it.service.start()
        async with asyncio.timeout(90):
            await asyncio.gather(*following)
        job = await ended(client, job_id, seconds=PATIENCE)
        all_ids = it.service.event_ids(job_id)
    return Reconnections(
        patient, connections, returned, all_ids, away, (stream[0], stream[1]["text"]), job
    )


async def _answer(
    client: aiohttp.ClientSession, path: str, **headers: str
) -> tuple[int, dict[str, Any]]:
    async with client.get(path, headers=headers) as response:
        if response.content_type == "application/json":
            return response.status, {**await response.json(), "headers": dict(response.headers)}
        return response.status, {"text": await response.text()}


async def mute_app(folder: Path) -> tuple[float, int, dict[str, Any]]:
    """Seconds, status and body where the app takes a request and never answers."""

    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        nginx_server(folder, [deaf.getsockname()[1]]) as nginx,
    ):
        async with session(nginx.url) as client:
            began = time.monotonic()
            status, body = await _answer(client, "/v1/download/jobs")
            return time.monotonic() - began, status, body
