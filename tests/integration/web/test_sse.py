"""Event streams: order, resumption, and every way in which one ends."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from downloadd.app import POOL, STATE, begin_drain
from downloadd.model import JobStatus, progress_event, terminal_event
from downloadd.ports import Claim
from downloadd.web import keys
from downloadd.web.sse import Streams
from tests.integration.web.conftest import Sent, Server, read_events
from tests.integration.web.wire import exchange
from tests.origin import Origin

SOURCE = "https://files.example/a.pdf"


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to pass")


@asynccontextmanager
async def subscribed(
    server: Server, job_id: str, **headers: str
) -> AsyncIterator[tuple[aiohttp.ClientResponse, AsyncIterator[Sent]]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with server.client.get(f"/v1/download/subscribe/{job_id}", headers=named) as response:
        yield response, read_events(response)


async def all_events(server: Server, job_id: str, **headers: str) -> list[Sent]:
    async with subscribed(server, job_id, **headers) as (response, events):
        assert response.status == 200
        return [event async for event in events]


def place(event: Sent) -> tuple[int, ...]:
    assert event.id is not None
    return tuple(int(part) for part in event.id.split("-"))


class Idle:
    """A queued job that the test itself works on, the pool being at rest."""

    def __init__(self, server: Server, job_id: str) -> None:
        self.store = server.app[STATE].jobs
        self.job_id = job_id
        self.claim: Claim | None = None

    async def begin(self) -> None:
        (self.claim,) = await self.store.claim(1)

    async def progress(self, percent: int) -> None:
        assert self.claim is not None
        job = self.claim.job.evolve(progress=percent)
        await self.store.save(self.claim.lease, job, event=progress_event(job))

    async def fail(self) -> None:
        assert self.claim is not None
        job = self.claim.job.moved(
            JobStatus.FAILED, error="It failed.", error_code="x", completed_at=1.0
        )
        await self.store.finish(self.claim.lease, job, terminal_event(job))


async def idle_job(server: Server) -> Idle:
    await server.app[POOL].drain(0)
    job = await server.initiate({"source_urls": [SOURCE], "options": {"dedupe": False}})
    return Idle(server, job["jobId"])


async def test_a_stream_tells_a_jobs_whole_story(server: Server, origin: Origin) -> None:
    """Status first, then progress that never goes back, then the end, each with an id."""
    urls = [origin.url(seed=seed, size=20000, delay=0.3 * seed) for seed in range(4)]
    job = await server.initiate({"source_urls": urls})
    async with subscribed(server, job["jobId"]) as (response, events):
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        told = [event async for event in events]
    kinds = [event.type for event in told]
    assert kinds[0] == "status"
    assert kinds[-1] == "complete"
    assert set(kinds[1:-1]) == {"progress"}
    assert told[0].data["jobId"] == job["jobId"]
    percents = [event.data["progress"] for event in told]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    places = [place(event) for event in told]
    assert places == sorted(set(places))
    assert {"status", "progress", "filesCompleted", "totalFiles", "stage", "bytesFetched"} <= set(
        told[1].data
    )
    async with server.client.get(URL(told[-1].data["downloadUrl"], encoded=True)) as archive:
        assert archive.status == 200
        assert len(await archive.read()) == told[-1].data["totalSize"]


async def test_resuming_leaves_no_gap(server: Server) -> None:
    """From any id on, header or query, a client gets exactly what it has not seen."""
    job = await idle_job(server)
    async with subscribed(server, job.job_id) as (_, events):
        await job.begin()
        for percent in (10, 20, 30):
            await job.progress(percent)
        await job.fail()
        told = [event async for event in events]
    assert [event.data["progress"] for event in told][2:5] == [10, 20, 30]
    for index, event in enumerate(told[:-1]):
        assert event.id is not None
        assert await all_events(server, job.job_id, Last_Event_ID=event.id) == told[index + 1 :]
    path = f"/v1/download/subscribe/{job.job_id}?lastEventId={told[2].id}"
    async with server.client.get(path) as response:
        assert [event async for event in read_events(response)] == told[3:]


async def test_a_live_stream_is_resumed(server: Server) -> None:
    """What happens while a client is away is told when it comes back, once."""
    job = await idle_job(server)
    await job.begin()
    async with subscribed(server, job.job_id) as (_, events):
        first = await anext(events)
    await job.progress(10)
    await job.progress(20)
    assert first.id is not None
    async with subscribed(server, job.job_id, Last_Event_ID=first.id) as (_, events):
        away = [await anext(events) for _ in range(2)]
        await job.progress(30)
        live = await anext(events)
    assert [event.data["progress"] for event in [*away, live]] == [10, 20, 30]


async def test_who_has_seen_the_end_is_told_to_stay_away(server: Server) -> None:
    """After the last event a reconnecting EventSource gets 204, on which it stops."""
    job = await idle_job(server)
    await job.begin()
    await job.fail()
    told = await all_events(server, job.job_id)
    assert told[-1].id is not None
    async with subscribed(server, job.job_id, Last_Event_ID=told[-1].id) as (response, _):
        assert response.status == 204


async def test_an_ended_job_has_a_status_and_an_end(server: Server) -> None:
    """A late subscriber gets the whole job, its last event, and the stream's end."""
    job = await idle_job(server)
    await job.begin()
    await job.fail()
    told = await all_events(server, job.job_id)
    assert [event.type for event in told] == ["status", "failed"]
    assert told[0].data["status"] == "failed"
    assert len(told[0].data["files"]) == 1
    assert told[1].data["errorCode"] == "x"
    # Cut off between the two, it must not be taken for one who has seen the end.
    assert told[0].id is not None
    assert (await all_events(server, job.job_id, Last_Event_ID=told[0].id))[-1] == told[1]


@pytest.mark.parametrize(
    "given",
    [
        "x",
        "1",
        "1-2-3",
        "-1",
        "9" * 40 + "-0",
        "1-0 OR 1",
        f"{2**64}-0",
        f"0-{2**64}",
        f"{2**64 - 1}-0",
        "9999999999999-0",
    ],
)
async def test_an_id_that_is_none_makes_a_new_subscriber(server: Server, given: str) -> None:
    """Who comes back with nonsense, or from the future, begins anew, with the status."""
    job = await idle_job(server)
    async with subscribed(server, job.job_id, Last_Event_ID=given) as (response, events):
        assert response.status == 200
        assert (await anext(events)).type == "status"


async def test_cancelling_ends_the_stream(server: Server, origin: Origin) -> None:
    """Everybody who watches hears of a cancel at once."""
    job = await server.initiate({"source_urls": [origin.url(delay=30)]})
    async with subscribed(server, job["jobId"]) as (_, events):
        await anext(events)
        async with server.client.delete(f"/v1/download/{job['jobId']}") as response:
            assert response.status == 200
        assert [event.type async for event in events][-1] == "cancelled"


async def test_retry_comes_first_and_comments_keep_the_stream_alive(server: Server) -> None:
    """Clients learn when to reconnect, and proxies see traffic on a quiet stream."""
    job = await idle_job(server)
    server.app[keys.STREAMS]._ping = 0.2
    async with server.client.get(f"/v1/download/subscribe/{job.job_id}") as response:
        raw = b""
        while raw.count(b": ping") < 2:
            raw += await response.content.readany()
    assert raw.startswith(b"retry: 3000\r\n\r\nid: ")


async def test_a_stream_has_a_time_limit(server: Server) -> None:
    """A stream that has lasted long enough ends in order; nothing is lost by it."""
    job = await idle_job(server)
    server.app[keys.STREAMS]._limit = 0.5
    told = await all_events(server, job.job_id)
    assert [event.type for event in told] == ["status"]


async def test_streams_end_when_the_server_does(server: Server) -> None:
    """A drain ends open streams in order and soon."""
    job = await idle_job(server)
    async with subscribed(server, job.job_id) as (_, events):
        await anext(events)
        begin_drain(server.app)
        async with asyncio.timeout(5):
            assert [event async for event in events] == []
    assert len(server.app[keys.STREAMS]) == 0


async def test_who_comes_during_a_drain_is_told_to_come_back(server: Server) -> None:
    """A stream without events brings an EventSource back; an error would end it for good."""
    job = await idle_job(server)
    begin_drain(server.app)
    async with server.client.get(f"/v1/download/subscribe/{job.job_id}") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.read() == b"retry: 3000\r\n\r\n"
    async with server.client.get(f"/v1/download/subscribe/{uuid.uuid4()}") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("version", "asked", "given"),
    [
        ("HTTP/1.0", "keep-alive", None),
        ("HTTP/1.0", "", None),
        ("HTTP/1.1", "close", "close"),
    ],
)
async def test_the_end_of_a_stream_can_be_seen(
    server: Server, version: str, asked: str, given: str | None
) -> None:
    """Where a stream has no chunks, or the client asks for it, its end is the connection's."""
    job = await idle_job(server)
    await job.begin()
    await job.fail()
    head = f"GET /v1/download/subscribe/{job.job_id} {version}\r\nHost: x\r\n"
    answer = await exchange(server, f"{head}Connection: {asked}\r\n\r\n".encode())
    assert answer.headers.get("Connection") == given
    assert b"event: failed" in answer.body


def feed_watchers(server: Server) -> int:
    return sum(topic.watchers for topic in server.app[STATE].feed._topics.values())


async def test_nothing_is_left_of_500_clients_that_went_away(server: Server) -> None:
    """Handlers, tasks and subscriptions end with their clients, though no event comes."""
    job = await idle_job(server)
    streams: Streams = server.app[keys.STREAMS]
    before = len(asyncio.all_tasks())
    request = (
        f"GET /v1/download/subscribe/{job.job_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    address = URL(server.url)
    sockets: list[socket.socket] = []
    try:
        for _ in range(500):
            client = socket.create_connection((address.host, address.port))
            client.sendall(request)
            sockets.append(client)
            if len(sockets) % 50 == 0:
                await asyncio.sleep(0.05)
        await until(lambda: len(streams) == 500 and feed_watchers(server) == 500)
        async with server.client.get("/metrics") as response:
            assert "active_sse_connections 500.0" in await response.text()
        for number, client in enumerate(sockets):
            if number % 2:
                # Half of them go with a reset instead of a FIN.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    finally:
        for client in sockets:
            client.close()
    await until(lambda: len(streams) == 0)
    await until(lambda: feed_watchers(server) == 0)
    # aiohttp's own connection task for our client may have come since.
    await until(lambda: len(asyncio.all_tasks()) <= before + 2)
    async with server.client.get("/metrics") as response:
        assert "active_sse_connections 0.0" in await response.text()


async def test_who_is_gone_before_the_first_event_is_no_fault(server: Server) -> None:
    """It is neither an error in the log nor a 500 in the metrics that a client left early."""
    job = await idle_job(server)
    path = f"/v1/download/stream/{job.job_id}"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    address = URL(server.url)
    # Every handler begins, and waits for Redis.
    await server.app[STATE].client.execute("CLIENT", "PAUSE", "500", "ALL")
    left = [await asyncio.open_connection(address.host, address.port) for _ in range(20)]
    for _, writer in left:
        writer.write(request)
    await asyncio.sleep(0.2)
    for _, writer in left:
        writer.transport.abort()
    counted = r'http_requests_total\{.*/stream/\{job_id\}",status="(\d+)"\} (\d+)'

    def statuses() -> dict[str, int]:
        text = server.app[keys.METRICS].render()[0].decode()
        return {status: int(count) for status, count in re.findall(counted, text)}

    await until(lambda: sum(statuses().values()) == 20)
    # Redis may be faster than some of them.
    assert statuses().keys() <= {"499", "200"}
    assert statuses()["499"] > 0


async def test_a_slow_reader_holds_nobody_up(server: Server) -> None:
    """One client that reads nothing does not delay another's events, nor its own end."""
    job = await idle_job(server)
    await job.begin()
    address = URL(server.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect((address.host, address.port))
        slow.sendall(
            f"GET /v1/download/subscribe/{job.job_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        async with subscribed(server, job.job_id) as (_, events):
            await anext(events)
            for number in range(300):
                await job.progress(number % 100)
                async with asyncio.timeout(10):
                    event = await anext(events)
                assert event.data["progress"] == number % 100
        begin_drain(server.app)
        await until(lambda: len(server.app[keys.STREAMS]) == 0)


async def test_unknown_jobs_have_no_stream(server: Server) -> None:
    """Nobody can subscribe to what does not exist."""
    async with server.client.get(f"/v1/download/stream/{uuid.uuid4()}") as response:
        assert response.status == 404
