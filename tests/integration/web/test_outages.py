"""What callers and balancers hear while Redis takes no writes, or the storage is away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from downloadd.app import POOL, STORAGE_PROBE
from tests.e2e.service import eventually
from tests.gateway import Gateway, run_gateway
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def own_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


async def checks(server: Server) -> dict[str, str]:
    async with server.client.get("/health") as response:
        answer = await response.json()
        well = set(answer["checks"].values()) == {"ok"}
        assert response.status == (200 if well else 503)
        return dict(answer["checks"])


async def refusal(server: Server, origin: Origin) -> tuple[int, str]:
    """What a new job is answered, which has to come soon."""
    body = {"source_urls": [origin.url()], "options": {"dedupe": False}}
    async with server.client.post("/v1/download/initiate", json=body) as response:
        answer = await response.json()
        if response.status == 503:
            assert int(response.headers["Retry-After"]) >= 1
        return response.status, answer.get("code", "")


@pytest.mark.parametrize("how", ["full", "replica"])
async def test_a_redis_that_takes_no_writes(
    start: Start, own_valkey: Valkey, origin: Origin, how: str
) -> None:
    """It answers reads, but it is not well, and new jobs are refused until it is."""
    wrong, right = {
        "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        "replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    }[how]
    async with start(state__redis_url=own_valkey.url) as server:
        assert await checks(server) == {"storage": "ok", "redis": "ok"}
        own_valkey.call(*wrong)
        await asyncio.sleep(1.1)
        assert await checks(server) == {"storage": "ok", "redis": "error"}
        assert await refusal(server, origin) == (503, "state_unavailable")
        own_valkey.call(*right)
        await asyncio.sleep(1.1)
        assert await checks(server) == {"storage": "ok", "redis": "ok"}
        assert (await refusal(server, origin))[0] == 200


async def test_a_storage_that_is_away(start: Start, origin: Origin, tmp_path: Path) -> None:
    """New jobs are refused, those that wait go on waiting; then all goes on by itself."""
    archives = tmp_path / "data" / "archives"
    async with start() as server:
        probe = server.app[STORAGE_PROBE]
        archives.rename(tmp_path / "elsewhere")
        archives.write_bytes(b"")
        try:
            assert await probe.result() is False
            assert (await refusal(server, origin)) == (503, "storage_unavailable")
            assert await checks(server) == {"storage": "error", "redis": "ok"}
        finally:
            archives.unlink()
            (tmp_path / "elsewhere").rename(archives)
        await eventually(lambda: server.app[POOL]._storage_there(), what="it asks by itself")
        assert (await refusal(server, origin))[0] == 200


async def test_a_storage_that_hangs(
    start: Start, own_gateway: Gateway, origin: Origin, gateway_process: int
) -> None:
    """Nobody waits for it: the answer comes at once, and after a few seconds it is a 503."""
    async with start(
        storage__kind="s3",
        storage__bucket="hanging",
        storage__endpoint=own_gateway.endpoint,
        storage__region=own_gateway.region,
        storage__access_key_id=own_gateway.access_key_id,
        storage__secret_access_key=own_gateway.secret_access_key,
        storage__force_path_style=True,
        storage__create_bucket=True,
    ) as server:
        await server.app[POOL].drain(0)
        await refusal(server, origin)
        await asyncio.sleep(1.1)
        os.kill(gateway_process, signal.SIGSTOP)
        took, answers = [], []
        try:
            async with asyncio.timeout(20):
                while (answers[-1:] or [(200, "")])[0][0] == 200:
                    begun = time.monotonic()
                    answers.append(await refusal(server, origin))
                    took.append(time.monotonic() - begun)
                    await asyncio.sleep(0.1)
        finally:
            os.kill(gateway_process, signal.SIGCONT)
        print(f"answers while the storage hung: {max(took) * 1000:.0f} ms at most")
        assert answers[-1] == (503, "storage_unavailable")
        assert sorted(took)[len(took) // 2] < 0.2


@pytest.fixture
def gateway_process(own_gateway: Gateway) -> int:
    """The id of the process that listens on the gateway's port."""
    port = f"{own_gateway.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    (inode,) = {
        fields[9]
        for fields in map(str.split, lines)
        if fields[1].endswith(f":{port}") and fields[3] == "0A"
    }
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue
    raise AssertionError("nobody listens there")
