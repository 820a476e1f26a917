"""Stopped, killed and started again: no job is lost, and nothing is done twice that was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.e2e.archives import MIB, Wanted, digests, want
from tests.e2e.service import Service, Storage, eventually
from tests.origin import Origin

PART = 16 * MIB


def half_way(origin: Origin) -> list[Wanted]:
    """Five files that come at once, and one whose source falls silent once, in its middle.

    The five are three parts and a rest; what is silent keeps the job going
    until it is asked for again.
    """
    return [
        *(want(origin, seed, 10 * MIB + seed) for seed in range(1, 6)),
        want(origin, 6, 5 * MIB, stall_after=MIB, times=1),
    ]


async def begun(server: Service, storage: Storage, files: list[Wanted]) -> str:
    """Make a job and wait until three parts are stored and written down."""
    job_id = await server.initiate({"source_urls": [file.url for file in files]})

    async def stored() -> bool:
        return list((await storage.parts()).values()) == [[1, 2, 3]]

    await eventually(stored, what="three parts are stored")
    # A temporary file goes when the checkpoint that lets it go is written.
    covered = 3 * PART
    rest = sum(file.size for file in files[:-1]) - covered
    await eventually(
        lambda: sum(server.spool().values()) <= rest + 2 * MIB, what="covered files are gone"
    )
    return job_id


async def assert_gone_on(
    server: Service, origin: Origin, job_id: str, files: list[Wanted], folder: Path
) -> None:
    """The job ends with every byte right, and what was stored was not asked for again."""
    job = await server.ended(job_id)
    path = await server.archive(job, folder)
    assert list(digests(path).values()) == [file.sha256 for file in files]
    assert job["attempts"] == 2
    hits = [origin.hits[file.path] for file in files]
    # The entry that the last stored part cuts in two was still on the disk.
    assert hits == [1, 1, 1, 1, 1, 2]
    assert server.spool() == {}


async def test_a_stop_lets_jobs_end(
    service: Callable[..., Service], origin: Origin, folder: Path
) -> None:
    """After SIGTERM a job that can end soon does so; only then the program ends, with status 0."""
    files = [want(origin, seed, 600_000, rate=400_000) for seed in (1, 2)]
    async with service() as server:
        job_id = await server.initiate({"source_urls": [file.url for file in files]})
        await eventually(lambda: origin.open_connections == 2)
        assert await server.stop() == 0
        await server.start()
        job = await server.status(job_id)
        assert (job["status"], job["attempts"]) == ("completed", 1)
        path = await server.archive(job, folder)
    assert list(digests(path).values()) == [file.sha256 for file in files]


async def test_a_stop_at_once_loses_nothing(
    service: Callable[..., Service], storage: Storage, origin: Origin, folder: Path
) -> None:
    """A second SIGTERM ends the program with a job unfinished; the next start goes on with it."""
    files = half_way(origin)
    async with service() as server:
        job_id = await begun(server, storage, files)
        assert await server.stop(times=2) == 0
        await eventually(lambda: origin.open_connections == 0)
        assert list((await storage.parts()).values()) == [[1, 2, 3]]
        assert server.spool(), "the next start goes on with these"
        await server.start()
        await assert_gone_on(server, origin, job_id, files, folder)
    assert await storage.parts() == {}
    assert await storage.objects() == [f"{job_id}.zip"]


async def test_a_kill_loses_nothing(
    service: Callable[..., Service], storage: Storage, origin: Origin, folder: Path
) -> None:
    """After kill -9 the next start goes on with the job from what was written down."""
    files = half_way(origin)
    async with service() as server:
        job_id = await begun(server, storage, files)
        await server.kill()
        left = server.spool()
        assert left, "nobody tidied up"
        await server.start()
        assert not left.keys() & server.spool().keys(), "the next start takes it up"
        await assert_gone_on(server, origin, job_id, files, folder)
    assert await storage.parts() == {}
    assert await storage.objects() == [f"{job_id}.zip"]


async def test_messages_go_on_through_a_restart(
    service: Callable[..., Service], origin: Origin
) -> None:
    """A WebSocket is closed with 1012; with the last id the next process's goes on behind it."""
    files = [want(origin, 1, 500_000, rate=300_000), want(origin, 2, MIB, rate=MIB)]
    async with service(fetch_per_job=2) as server:
        job_id = await server.initiate({"source_urls": [file.url for file in files]})
        path = f"/v1/download/subscribe/{job_id}"
        async with server.client.ws_connect(path) as ws:
            first = [await ws.receive_json() for _ in range(3)]
            stopping = asyncio.create_task(server.stop(times=2))
            first += [message.json() async for message in ws]
            assert ws.close_code == 1012
        assert await stopping == 0
        await server.start()
        async with server.client.ws_connect(f"{path}?lastEventId={first[-1]['id']}") as ws:
            second = [message.json() async for message in ws]
            assert ws.close_code == 1000
        everything = server.event_ids(job_id)
    assert second[-1]["type"] == "complete"
    seen = [message["id"] for message in (*first, *second)]
    assert seen == everything[everything.index(first[0]["id"]) :]


async def test_events_go_on_through_a_restart(
    service: Callable[..., Service], origin: Origin
) -> None:
    """With Last-Event-ID a watcher gets every event once, in order, over two processes."""
    files = [
        want(origin, 1, 500_000, rate=500_000),
        want(origin, 2, 2 * MIB, stall_after=1000, times=1),
        want(origin, 3, 1 * MIB, rate=MIB),
    ]
    async with service(fetch_per_job=2) as server:
        job_id = await server.initiate({"source_urls": [file.url for file in files]})
        first = []
        stream = server.events(job_id)
        async for event in stream:
            first.append(event)
            if len(first) == 3:
                assert await server.stop(times=2) == 0
        await server.start()
        second = [event async for event in server.events(job_id, after=first[-1].id)]
        seen = [event.id for event in (*first, *second)]
        everything = server.event_ids(job_id)
        # Whoever has seen the last event is told to stay away.
        async with server.client.get(
            f"/v1/download/subscribe/{job_id}", headers={"Last-Event-ID": str(seen[-1])}
        ) as response:
            assert response.status == 204
    assert first[0].type == "status"
    assert [event.type for event in first[1:]] == ["progress"] * (len(first) - 1)
    assert second[-1].type == "complete"
    # The status event stands for all up to its own id.
    assert seen == everything[everything.index(str(first[0].id)) :]
    told = [event.data["progress"] for event in (*first, *second)]
    assert told == sorted(told)
