"""An answer is a promise: at its first byte server and Valkey are killed, and the job is there.

100 times in all, with a Valkey beside the server and with the embedded one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.e2e.archives import Wanted, want
from tests.e2e.service import Service
from tests.faults.outages import PREFIX, beside, body, client_of, durable_valkey
from tests.origin import Origin
from tests.valkey import Valkey

#: Servers that are killed side by side, and how often each.
LANES, ROUNDS = 3, 30
EMBEDDED = 10
#: The job that a killed server had just claimed is another's soon.
SOON = {"DOWNLOADD_JOBS_LEASE": "1"}

_LOCATION = re.compile(rb"Location: /v1/download/status/([0-9a-f-]{36})\r\n")


async def acknowledged(server: Service, files: list[Wanted], victims: list[int]) -> str:
    """Make a job, kill these processes at the first byte of the answer, return the job's id."""
    content = json.dumps(body(files)).encode()
    head = (
        "POST /v1/download/initiate HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head.encode() + content)
        first = await reader.readexactly(1)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        # What has left the server is in the kernel's hands.
        answer = first + await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    found = _LOCATION.search(answer)
    assert found, answer
    return found[1].decode()


def assert_kept(valkey: Valkey, job_id: str) -> None:
    """The job can be read, and somebody will work on it, or has done so."""
    with client_of(valkey) as client:
        status = client.hget(f"{PREFIX}job:{job_id}", "status")
        places = {
            "queued": client.zscore(f"{PREFIX}queue", job_id),
            "processing": client.zscore(f"{PREFIX}active", job_id),
            "completed": True,
        }
        assert status in places, f"job {job_id} is {status}"
        assert places[str(status)] is not None
        assert client.exists(f"{PREFIX}job:{job_id}:events")


async def all_completed(server: Service, jobs: list[str]) -> None:
    assert len(set(jobs)) == len(jobs)
    for job_id in jobs:
        assert (await server.ended(job_id))["status"] == "completed"


@pytest.mark.timeout(300)
async def test_with_valkey_beside_it(folder: Path, origin: Origin) -> None:
    """No job is lost that an outside Valkey has acknowledged, when both are killed."""
    async with asyncio.TaskGroup() as lanes:
        for lane in range(LANES):
            lanes.create_task(killed_beside(folder / str(lane), origin, lane * ROUNDS))


async def killed_beside(folder: Path, origin: Origin, seed: int) -> None:
    folder.mkdir()
    jobs: list[str] = []
    with durable_valkey() as valkey:
        async with Service(folder / "data", {**beside(valkey), **SOON}) as server:
            for number in range(seed, seed + ROUNDS):
                victims = [valkey.pid, server.process.pid]
                jobs.append(await acknowledged(server, [want(origin, number, 1000)], victims))
                await server.exited()
                await asyncio.to_thread(valkey.kill)  # it is dead; this waits for it
                await asyncio.to_thread(valkey.start)
                assert_kept(valkey, jobs[-1])
                await server.start()
                # Or the next kill would be one of this job's deaths.
                await all_completed(server, jobs[-1:])
            await all_completed(server, jobs)


async def test_with_the_embedded_valkey(folder: Path, origin: Origin) -> None:
    """No job is lost when the server and its own Valkey are killed at once."""
    jobs: list[str] = []
    async with Service(folder / "data", SOON) as server:
        for number in range(EMBEDDED):
            valkey = int((server.data_dir / "valkey.pid").read_text())
            victims = [valkey, server.process.pid]
            jobs.append(await acknowledged(server, [want(origin, number, 1000)], victims))
            await server.exited()
            await server.start()
            # Or the next kill would be one of this job's deaths.
            await all_completed(server, jobs[-1:])
        await all_completed(server, jobs)
