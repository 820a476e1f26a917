"""What the tests of outages share: servers that go away, and watchers that stay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import redis

from tests.e2e.archives import MIB, PATIENCE, Wanted, digests, want
from tests.e2e.service import Service, eventually
from tests.integration.web.conftest import Sent, read_events
from tests.origin import Origin
from tests.proxy import Proxy
from tests.valkey import Valkey, valkey_server

TERMINAL = {"complete", "failed", "cancelled"}
PREFIX = "{downloadd}:"


# --- jobs -------------------------------------------------------------------------


def body(files: Sequence[Wanted], **options: Any) -> dict[str, Any]:
    return {"source_urls": [file.url for file in files], "options": {"dedupe": False, **options}}


def steady(origin: Origin, count: int, *, seconds: float, size: int = 7 * MIB) -> list[Wanted]:
    """Files that all take so long to come; a few make a part."""
    return [want(origin, seed, size + seed, rate=round(size / seconds)) for seed in range(count)]


async def assert_archive(
    server: Service, job: dict[str, Any], files: Sequence[Wanted], folder: Path
) -> None:
    """The archive by its link holds the files, in order, byte for byte, and is left by none."""
    path = await server.archive(job, folder)
    assert list(digests(path).values()) == [file.sha256 for file in files]
    path.unlink()


def sent(origin: Origin, files: Sequence[Wanted]) -> int:
    """Bytes that the source has handed out for these files."""
    return sum(origin.sent[file.path] for file in files)


# --- what a server has of its own ---------------------------------------------------


@contextlib.contextmanager
def durable_valkey() -> Iterator[Valkey]:
    """A Valkey beside the server, which has on disk what it has acknowledged."""
    with valkey_server(tcp=True, durable=True) as valkey:
        yield valkey


def beside(valkey: Valkey) -> dict[str, str]:
    """What makes a service use this Valkey."""
    return {"REDIS_URL": valkey.url}


@contextlib.contextmanager
def client_of(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(valkey.socket), decode_responses=True) as client:
        yield client


def field_of(valkey: Valkey, job_id: str, name: str) -> str | None:
    """A field of a job's hash, read past the server."""
    with client_of(valkey) as client:
        value: str | None = client.hget(f"{PREFIX}job:{job_id}", name)
        return value


def stream_of(valkey: Valkey, job_id: str) -> list[tuple[str, str]]:
    """Id and type of every event that Valkey has of a job."""
    with client_of(valkey) as client:
        entries = client.xrange(f"{PREFIX}job:{job_id}:events")
        return [(str(event), str(fields["t"])) for event, fields in entries]


# --- asking a server that may be in trouble -------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    data: Any

    def assert_unavailable(self, code: str) -> None:
        """503 in the form of every error, with a time to come back."""
        assert self.status == 503, self
        assert int(self.headers["Retry-After"]) >= 1
        assert self.data.keys() == {"error", "code", "message", "requestId"}
        assert (self.data["error"], self.data["code"]) == ("Service Unavailable", code)
        assert self.data["message"].endswith(".")


async def ask(server: Service, method: str, path: str, **options: Any) -> Answer:
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with server.client.request(method, path, timeout=timeout, **options) as response:
        return Answer(
            status=response.status,
            headers=dict(response.headers),
            data=await response.json(),
        )


async def post(server: Service, files: Sequence[Wanted]) -> Answer:
    return await ask(server, "POST", "/v1/download/initiate", json=body(files))


async def health(server: Service) -> dict[str, str]:
    """The checks, with the status and HTTP status that go with them."""
    answer = await ask(server, "GET", "/health")
    checks: dict[str, str] = answer.data["checks"]
    well = all(said == "ok" for said in checks.values())
    assert (answer.status, answer.data["status"]) == (
        (200, "healthy") if well else (503, "unhealthy")
    )
    return checks


async def health_says(server: Service, *, redis: str = "ok", storage: str = "ok") -> None:
    """Wait until health says so: its answers are kept for a second."""
    expected = {"redis": redis, "storage": storage}

    async def says() -> bool:
        return await health(server) == expected

    await eventually(says, what=f"health says {expected}")


# --- watching -----------------------------------------------------------------------


@dataclass
class Watcher:
    """A subscriber that comes back whenever its stream ends early, as browsers do.

    An async context manager: events are read in the background.
    """

    server: Service
    job_id: str
    events: list[Sent] = field(default_factory=list)
    #: Streams that were begun.
    streams: int = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ended(self, *, seconds: float = PATIENCE) -> Sent:
        """Wait for the last event."""
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._task)
        return self.events[-1]

    async def _watch(self) -> None:
        while not (self.events and self.events[-1].type in TERMINAL):
            try:
                await self._stream()
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.1)

    async def _stream(self) -> None:
        headers = {"Last-Event-ID": str(self.events[-1].id)} if self.events else {}
        path = f"/v1/download/subscribe/{self.job_id}"
        async with self.server.client.get(path, headers=headers) as response:
            if response.status != 200:
                assert response.status == 503, await response.text()
                await asyncio.sleep(0.1)
                return
            self.streams += 1
            async for event in read_events(response):
                self.events.append(event)

    def assert_whole(self, stream: list[tuple[str, str]]) -> None:
        """Every event that the job has, once and in order, and one end."""
        seen = [str(event.id) for event in self.events]
        known = [event for event, _ in stream]
        # The status event stands for all up to its own id.
        assert seen == known[known.index(seen[0]) :]
        assert self.events[0].type == "status"
        assert [kind for _, kind in stream if kind in TERMINAL] == [self.events[-1].type]
        told = [event.data["progress"] for event in self.events]
        assert told == sorted(told)


# --- a slow way ---------------------------------------------------------------------


class SlowProxy(Proxy):
    """A TCP proxy that holds up everything for the same time in each direction."""

    def __init__(self, port_behind: int, delay: float) -> None:
        """``delay`` is in seconds."""
        super().__init__(port_behind)
        self._delay = delay

    def connection(self) -> SlowProxy:
        return self

    async def forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Latency, not a narrow way: what is under way does not hold up what follows."""
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 16):
            loop.call_later(self._delay, writer.write, data)
        await asyncio.sleep(self._delay)

    back = forth
