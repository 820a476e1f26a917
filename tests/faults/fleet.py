"""Several servers on one Valkey and one storage, of which any may be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.e2e.service import Service, Storage
from tests.integration.web.conftest import Sent
from tests.valkey import Valkey


class Fleet:
    """The servers, each with a data_dir of its own; an async context manager."""

    def __init__(self, folder: Path, valkey: Valkey, storage: Storage, **settings: object) -> None:
        """``settings`` as in the environment, less the prefix."""
        self._folder = folder
        self._environ = {
            **storage.environ,
            "REDIS_URL": valkey.url,
            **{f"DOWNLOADD_{name.upper()}": str(value) for name, value in settings.items()},
        }
        #: Those that run, the oldest first.
        self.living: list[Service] = []
        self._stack = AsyncExitStack()
        self._made = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, port: int | None = None) -> Service:
        """Add a server, on any free port unless one is given."""
        self._made += 1
        place = self._folder / f"process{self._made}"
        place.mkdir()
        server = Service(place / "data", self._environ, port)
        await self._stack.enter_async_context(server)
        self.living.append(server)
        return server

    async def kill(self, server: Service) -> None:
        """As kill -9."""
        self.living.remove(server)
        await server.kill()


class Watcher:
    """A client that listens to a job's events, reconnecting to whichever server ``choose`` says."""

    def __init__(self, job_id: str, fleet: Fleet, choose: Any) -> None:
        self.job_id = job_id
        #: Everything that came, over all connections.
        self.events: list[Sent] = []
        self.connections = 0
        #: Which it listens to.
        self.server: Service | None = None
        self._fleet = fleet
        self._choose = choose

    async def watch(self) -> None:
        """Listen until the terminal event; what breaks off is taken up again."""
        while not (self.events and self.events[-1].type in ("complete", "failed", "cancelled")):
            self.connections += 1
            try:
                await self._listen(self._choose(self._fleet.living))
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.1)

    async def _listen(self, server: Service) -> None:
        after = self.events[-1].id if self.events else None
        self.server = server
        try:
            async for event in server.events(self.job_id, after=after):
                self.events.append(event)
        finally:
            self.server = None

    def assert_saw(self, all_ids: list[str]) -> None:
        """Every event once and in order; the first stands for all up to its own."""
        seen = [str(event.id) for event in self.events]
        assert self.events[0].type == "status"
        assert seen == all_ids[all_ids.index(seen[0]) :]


async def initiate(fleet: Fleet, choose: Any, key: str, body: Mapping[str, Any]) -> str:
    """Make a job at any server; where one dies or refuses, ask another with the same key."""
    for _ in range(100):
        server: Service = choose(fleet.living)
        try:
            async with server.client.post(
                "/v1/download/initiate", json=body, headers={"Idempotency-Key": key}
            ) as response:
                if response.status == 200:
                    return str((await response.json())["jobId"])
                assert response.status == 503, await response.text()
        except (aiohttp.ClientError, ConnectionError):
            pass  # it was killed
        await asyncio.sleep(0.1)
    raise AssertionError("nobody takes the job")
