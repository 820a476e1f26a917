"""A server that comes back after kill -9 is at its jobs at once, not when their leases lapse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.archives import digests
from tests.e2e.service import Service, Storage, eventually
from tests.e2e.test_stop import begun, half_way
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server


@pytest.fixture
def outside_valkey() -> Iterator[Valkey]:
    """A server that outlives the service."""
    with valkey_server(durable=True) as server:
        yield server


@pytest.mark.parametrize("redis", ["embedded", "outside"])
async def test_a_killed_server_comes_back_to_its_jobs(
    service: Callable[..., Service],
    storage: Storage,
    origin: Origin,
    folder: Path,
    outside_valkey: Valkey,
    redis: str,
) -> None:
    """With the default lease of 30 s a source is asked again within seconds of the start."""
    files = half_way(origin)
    settings = {"state_redis_url": outside_valkey.url} if redis == "outside" else {}
    async with service(**settings) as server:
        job_id = await begun(server, storage, files)
        await server.kill()
        asked = origin.hits.total()
        started = time.monotonic()
        starting = asyncio.create_task(server.start())
        await eventually(lambda: origin.hits.total() > asked, seconds=20, what="it goes on")
        took = time.monotonic() - started
        print(f"{redis}: a source is asked {took:.2f} s after the start")
        await starting
        assert took < 10, "no lease was waited for"
        job = await server.ended(job_id)
        path = await server.archive(job, folder)
        assert sorted(digests(path).values()) == sorted(file.sha256 for file in files)
        assert server.spool() == {}
        owners = [path for path in (server.data_dir / "spool").iterdir() if path.is_dir()]
        assert len(owners) == 1, "the dead one's folder is gone"
    assert await storage.parts() == {}
