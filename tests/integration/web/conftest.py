"""The whole application as ``downloadd serve`` runs it, over a real Valkey and a real folder."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from downloadd.app import STATE
from downloadd.cli.serve import serving
from downloadd.config import load
from tests.contract import check_event, judging
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server

#: What the headers of sources are sealed with.
SECRET_KEY = base64.b64encode(b"k" * 32).decode()

ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server, and a client of its."""

    app: web.Application
    url: str
    prefix: str
    client: aiohttp.ClientSession

    async def initiate(self, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post("/v1/download/initiate", json=body, headers=named) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def status(self, job_id: str, **query: str) -> dict[str, Any]:
        async with self.client.get(f"/v1/download/status/{job_id}", params=query) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end."""
        for _ in range(400):
            job = await self.status(job_id)
            if job["status"] in ENDED:
                return job
            await asyncio.sleep(0.05)
        raise AssertionError(f"the job did not end: {job}")

    async def redis_keys(self) -> list[str]:
        """What requests have left; the installation's name is there from the start."""
        keys: list[str] = await self.app[STATE].client.execute("KEYS", f"{self.prefix}*")
        known = self.app[STATE].keys
        return [
            key for key in keys if key != known.installation and not key.startswith(known.limits)
        ]


Start = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with valkey_server() as server:
        yield server


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.fixture
def start(valkey: Valkey, tmp_path: Path) -> Start:
    """Start a server with settings by "section.key"; the defaults are small and open."""

    @asynccontextmanager
    async def started(**settings: Any) -> AsyncIterator[Server]:
        prefix = f"{{{uuid.uuid4().hex}}}:"
        given = {
            "server.port": 0,
            "state.redis_url": valkey.url,
            "state.prefix": prefix,
            "state.data_dir": str(tmp_path / "data"),
            "state.secret_key": SECRET_KEY,
            # Tests of many requests are not about how many there may be.
            "limits.requests_per_minute": 1_000_000,
            "limits.jobs_per_minute": 1_000_000,
            "limits.streams_per_client": 1_000_000,
            "network.allow": ["127.0.0.1"],
            "fetch.retries": 0,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        async with (
            serving(load(None, {}, given)) as running,
            aiohttp.ClientSession(
                running.base_url, trace_configs=[judging(URL(running.base_url))]
            ) as client,
        ):
            yield Server(app=running.app, url=running.base_url, prefix=prefix, client=client)

    return started


@pytest.fixture
async def server(start: Start) -> AsyncIterator[Server]:
    async with start() as server:
        yield server


@dataclass(frozen=True)
class Sent:
    """One event as it came over the wire."""

    type: str
    id: str | None
    data: Any


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Sent]:
    """Parse a stream (WHATWG HTML §9.2.6), without the comments."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(": ")
            if name:
                fields[name] = value
        elif "data" in fields:
            data = json.loads(fields["data"])
            check_event(data)
            yield Sent(fields.get("event", "message"), fields.get("id"), data)
            fields = {}
        else:
            fields = {}
