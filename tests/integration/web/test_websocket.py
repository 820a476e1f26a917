"""WebSockets: the same story as event streams, resumption, manners, and every way of ending."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from downloadd.access.caller import ANONYMOUS
from downloadd.app import STATE, begin_drain
from downloadd.errors import StorageUnavailable
from downloadd.model import Job, Link
from downloadd.web import keys
from downloadd.web.websocket import Sockets
from tests.contract import check_event, check_value
from tests.integration.web.conftest import Sent, Server, read_events
from tests.integration.web.test_sse import Idle, idle_job, until
from tests.origin import Origin

NOBODYS = "7e192c11-1029-4b6e-bdb5-ee4decf93e66"
#: How the types of an event stream are called on a WebSocket.
TYPES = {"failed": "error", "cancelled": "status"}


@asynccontextmanager
async def connected(
    server: Server, path: str, **options: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with server.client.ws_connect(path, **options) as ws:
        yield ws


async def heard(server: Server, job_id: str, after: str = "") -> list[dict[str, Any]]:
    """All messages of a job until the connection ends, which it does in order."""
    query = f"?lastEventId={after}" if after else ""
    async with connected(server, f"/v1/download/subscribe/{job_id}{query}") as ws:
        messages = [json.loads(message.data) async for message in ws]
        assert ws.close_code == 1000
    return messages


async def streamed(server: Server, job_id: str) -> list[Sent]:
    async with server.client.get(f"/v1/download/subscribe/{job_id}") as response:
        return [event async for event in read_events(response)]


async def polled(server: Server, job_id: str) -> list[dict[str, Any]]:
    """The job at every look, until it has ended."""
    states = []
    while not states or states[-1]["status"] in ("queued", "processing"):
        states.append(await server.status(job_id))
        await asyncio.sleep(0.01)
    return states


def as_streamed(message: dict[str, Any]) -> dict[str, Any]:
    """A message's data as an event stream has it."""
    data = dict(message["data"])
    counts = {name: data.pop(name, None) for name in ("current", "total", "percentage")}
    assert counts["percentage"] == data["progress"]
    assert counts["total"] == data["totalFiles"]
    if (remaining := data.get("estimatedTimeRemaining")) is not None:
        data["estimatedTimeRemaining"] = remaining / 1000
    return data


@pytest.mark.parametrize("fate", ["completed", "failed", "cancelled", "partial"])
async def test_one_story(server: Server, origin: Origin, fate: str) -> None:
    """Polling, event stream and WebSocket tell the same, event for event, of every end."""
    urls = [origin.url(seed=seed, size=20_000, delay=0.3 * seed) for seed in range(4)]
    if fate in ("failed", "partial"):
        urls.append(origin.url(seed=9, status=404, delay=1.0))
    options = {"onError": "skip"} if fate == "partial" else {}
    job_id = (await server.initiate({"source_urls": urls, "options": options}))["jobId"]
    watchers = asyncio.gather(
        polled(server, job_id), streamed(server, job_id), heard(server, job_id)
    )
    if fate == "cancelled":
        await until_processing(server, job_id)
        async with server.client.delete(f"/v1/download/{job_id}") as response:
            assert response.status == 200
    states, events, messages = await watchers
    for message in messages:
        check_value("Message", message)

    assert [event.id for event in events[1:]] == [message["id"] for message in messages[1:]]
    assert [event.data for event in events[1:]] == [as_streamed(m) for m in messages[1:]]
    status = None
    for event, message in zip(events[1:], messages[1:], strict=True):
        same = status in (None, event.data["status"])
        kind = TYPES.get(event.type, event.type)
        assert message["type"] == (kind if same or kind != "progress" else "status")
        status = event.data["status"]
    assert (events[0].type, messages[0]["type"]) == ("status", "status")

    told = {(event.data["status"], event.data["progress"]) for event in events}
    shown = [state["progress"] for state in states]
    assert shown == sorted(shown)
    last, end = states[-1], events[-1].data
    assert (last["status"], last["progress"]) in told
    for name in ("status", "filesCompleted", "filesFailed", "totalSize", "sha256", "error"):
        assert last.get(name) == end.get(name), name
    if fate in ("completed", "partial"):
        for url in (last["downloadUrl"], messages[-1]["data"]["downloadUrl"]):
            async with server.client.get(URL(url, encoded=True)) as archive:
                assert len(await archive.read()) == last["totalSize"]


async def until_processing(server: Server, job_id: str) -> None:
    for _ in range(200):
        if (await server.status(job_id))["filesCompleted"]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no file came")


async def finished(server: Server) -> tuple[Idle, list[dict[str, Any]]]:
    job = await idle_job(server)
    async with connected(server, f"/v1/download/subscribe/{job.job_id}") as ws:
        await job.begin()
        for percent in (10, 20, 30):
            await job.progress(percent)
        await job.fail()
        return job, [json.loads(message.data) async for message in ws]


async def test_resuming_leaves_no_gap(server: Server) -> None:
    """From any id on, a client gets exactly what it has not seen; nothing after the last."""
    job, messages = await finished(server)
    kinds = [message["type"] for message in messages]
    assert kinds == ["status", "status", "progress", "progress", "progress", "error"]
    assert messages[-1]["data"]["error"] == "It failed."
    for place, message in enumerate(messages):
        again = await heard(server, job.job_id, message["id"])
        rest = messages[place + 1 :]
        assert [it["id"] for it in again] == [it["id"] for it in rest]
        assert [it["data"] for it in again] == [it["data"] for it in rest]


async def test_who_reads_late_hears_the_end(server: Server) -> None:
    """The connection is there until the client has agreed to its end: no 1006, nothing lost."""
    job, messages = await finished(server)
    async with connected(server, f"/v1/download/subscribe/{job.job_id}") as ws:
        await asyncio.sleep(0.5)
        await ws.send_json({"type": "ping"})
        await asyncio.sleep(0.1)
        told = [json.loads(message.data) async for message in ws]
        assert ws.close_code == 1000
    assert told[-1] == messages[-1]


def parse(time: str) -> datetime:
    return datetime.fromisoformat(time)


async def test_times_are_those_of_events(server: Server) -> None:
    """Each message was written when it says, also the first one of a job that has ended."""
    job, messages = await finished(server)
    created = (await server.status(job.job_id))["createdAt"]
    later = await heard(server, job.job_id)
    assert [message["type"] for message in later] == ["status", "error"]
    # Two clocks: the server's for the job, Redis's for its events.
    since = parse(created) - timedelta(seconds=1)
    for message in (*messages, *later):
        assert since < parse(message["timestamp"]) < since + timedelta(minutes=1)
    assert later[0]["timestamp"] == later[0]["data"]["updatedAt"]


async def test_names_in_snake_case(server: Server) -> None:
    """``?case=snake`` is for messages, too; another case is a bad request."""
    job, messages = await finished(server)
    path = f"/v1/download/subscribe/{job.job_id}"
    async with connected(server, f"{path}?case=snake") as ws:
        told = [json.loads(message.data) async for message in ws]
    for message in told:
        data = dict(message["data"])
        for name in ("current", "total", "percentage"):
            data.pop(name)
        check_event(data)
        assert "job_id" in data
    assert told[-1]["id"] == messages[-1]["id"]
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with connected(server, f"{path}?case=kebab"):
            pass
    assert caught.value.status == 400


@pytest.mark.parametrize("connection", ["", "keep-alive"])
async def test_an_upgrade_that_a_proxy_left_over(server: Server, connection: str) -> None:
    """Without ``Connection: Upgrade`` nobody asks for a WebSocket: events come as a stream."""
    job, _ = await finished(server)
    headers = {"Upgrade": "websocket", "Connection": connection}
    async with server.client.get(
        f"/v1/download/subscribe/{job.job_id}", headers=headers
    ) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        kinds = [event.type async for event in read_events(response)]
    assert kinds == ["status", "failed"]


async def test_pings_and_other_words(server: Server) -> None:
    """A ping gets its pong; what else a client says changes nothing."""
    job = await idle_job(server)
    async with connected(server, f"/v1/download/subscribe/{job.job_id}") as ws:
        assert (await ws.receive_json())["type"] == "status"
        for words in ('{"type": "subscribe"}', "[]", "7", '{"type": "ping"}'):
            await ws.send_str(words)
        assert await ws.receive_json() == {"type": "pong"}
        await job.begin()
        message = await ws.receive_json()
        assert (message["type"], message["data"]["status"]) == ("status", "processing")
        assert message["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("words", "code"), [("{", 1007), (b"{}", 1003), ('"' + "x" * 5000 + '"', 1009)]
)
async def test_what_is_no_message(server: Server, words: str | bytes, code: int) -> None:
    """No JSON, no text, or too much of it ends the connection with the code for that."""
    job = await idle_job(server)
    async with connected(server, f"/v1/download/subscribe/{job.job_id}") as ws:
        await ws.receive_json()
        await (ws.send_str(words) if isinstance(words, str) else ws.send_bytes(words))
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == code


@pytest.mark.parametrize(("job_id", "status"), [(NOBODYS, 404), ("x", 400)])
async def test_no_such_job(server: Server, job_id: str, status: int) -> None:
    """A job that is none is told by HTTP, before there is a connection."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await server.client.ws_connect(f"/v1/download/subscribe/{job_id}")
    assert refused.value.status == status


async def test_a_bad_handshake(server: Server) -> None:
    """An upgrade that is half asked for gets an answer in our form."""
    job = await idle_job(server)
    path = f"/v1/download/subscribe/{job.job_id}"
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    async with server.client.get(path, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (400, "bad_request")


async def test_foreign_pages(start: Any) -> None:
    """Where origins are listed, pages of others cannot connect; ours and no page can."""
    async with start(server__cors_origins=["https://app.example"]) as server:
        job = await idle_job(server)
        for path in (f"/v1/download/subscribe/{job.job_id}", "/ws"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await server.client.ws_connect(path, origin="https://evil.example")
            assert refused.value.status == 403
            for origin in ("https://app.example", server.url, None):
                async with connected(server, path, origin=origin):
                    pass


async def test_a_stop_asks_to_come_back(server: Server) -> None:
    """A server that stops closes with 1012 and says how to go on, also to who comes then."""
    job = await idle_job(server)
    path = f"/v1/download/subscribe/{job.job_id}"
    async with connected(server, path) as ws:
        first = await ws.receive_json()
        begin_drain(server.app)
        message = await ws.receive()
        assert (ws.close_code, "lastEventId" in message.extra) == (1012, True)
    async with connected(server, path) as ws:
        await ws.receive()
        assert ws.close_code == 1012
    assert first["id"]
    await until(lambda: len(server.app[keys.SOCKETS]) == 0)


async def test_the_time_limit(server: Server) -> None:
    """After its time a connection is closed as by a stop; nothing is lost by it."""
    metrics = server.app[keys.METRICS]
    server.app[keys.SOCKETS]._limit = 0.2
    job = await idle_job(server)
    async with connected(server, f"/v1/download/subscribe/{job.job_id}") as ws:
        await ws.receive_json()
        await ws.receive()
        assert ws.close_code == 1012
    await until(lambda: metrics.active_websocket_connections._value.get() == 0)


async def test_who_is_gone_is_forgotten(server: Server) -> None:
    """A client that closes, or answers no heartbeat, is counted no longer."""
    sockets = server.app[keys.SOCKETS]
    sockets._heartbeat = 0.2
    job = await idle_job(server)
    path = f"/v1/download/subscribe/{job.job_id}"
    async with connected(server, path):
        await until(lambda: len(sockets) == 1)
    await until(lambda: len(sockets) == 0)
    async with connected(server, path, autoping=False) as ws:
        await until(lambda: len(sockets) == 1)
        await until(lambda: len(sockets) == 0)
        assert ws is not None


@asynccontextmanager
async def stalled(
    server: Server, job_id: str
) -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """A client that subscribes and never reads: the server's end of its connection, and its own."""
    sockets: Sockets = server.app[keys.SOCKETS]
    url = URL(server.url)
    assert url.host
    assert url.port
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((url.host, url.port))
        slow.sendall(
            f"GET /v1/download/subscribe/{job_id} HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await until(lambda: len(sockets) == 1)
        (there,) = sockets._open
        request = there._response._req
        assert request is not None
        assert request.transport is not None
        raw = request.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield request.transport, slow


async def test_a_slow_reader(server: Server) -> None:
    """Who takes nothing is dropped in the end, and meanwhile slows nobody down."""
    sockets: Sockets = server.app[keys.SOCKETS]
    sockets._stall = 1.0
    job = await idle_job(server)
    await job.begin()
    path = f"/v1/download/subscribe/{job.job_id}"
    async with stalled(server, job.job_id), connected(server, path) as ws:
        await ws.receive_json()
        for number in range(8000):
            await job.progress(1 + number % 98)
            assert (await ws.receive_json())["data"]["progress"] == 1 + number % 98
            if len(sockets) == 1:
                break
        assert len(sockets) == 1, "the slow one is still there"


@pytest.mark.parametrize("end", ["heartbeat", "last event", "no frame"])
async def test_nothing_is_left_of_who_reads_nothing(server: Server, end: str) -> None:
    """However its end comes, its connection is gone, and so are unread bytes.

    The buffer is so full that closing has to wait, and not so that sending has.
    """
    sockets: Sockets = server.app[keys.SOCKETS]
    if end == "heartbeat":
        sockets._heartbeat = 1.0
    else:
        sockets._stall = 2.0
    job = await idle_job(server)
    await job.begin()
    async with stalled(server, job.job_id) as (transport, slow):
        if end != "heartbeat":
            transport.set_write_buffer_limits(high=4096)
        number = 0
        while transport.get_write_buffer_size() < 10_000:
            number += 1
            await job.progress(1 + number % 98)
        if end == "last event":
            await job.fail()
        elif end == "no frame":
            slow.sendall(b"\x83\x80\0\0\0\0")
        await until(lambda: len(sockets) == 0)
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert transport.is_closing()


# --- several jobs on one connection ----------------------------------------------------


async def test_several_jobs(server: Server, origin: Origin) -> None:
    """Jobs that are subscribed to are pushed whole, in snake_case, to their ends."""
    async with connected(server, "/ws") as ws:
        await ws.send_str('{"type":"subscribe"}')  # of no job yet: nothing
        made = [
            await server.initiate({"file_id": 70000 + n, "source_urls": [origin.url(seed=n)]})
            for n in range(3)
        ]
        ids = {job["job_id"] for job in made}
        for job_id in ids:
            await ws.send_json({"type": "subscribe", "job_id": job_id})
        ended: dict[str, dict[str, Any]] = {}
        async with asyncio.timeout(20):
            while ended.keys() != ids:
                job = await ws.receive_json()
                if job["status"] == "completed":
                    ended[job["job_id"]] = job
        for job in ended.values():
            async with server.client.get(URL(job["download_url"], encoded=True)) as archive:
                assert len(await archive.read()) == job["total_size"]
            check_value("JobSnake", job)
        await ws.send_json({"type": "ping"})
        assert await ws.receive_json() == {"type": "pong"}


async def test_jobs_that_are_none(server: Server) -> None:
    """What cannot be followed is told as an error, and the connection stays."""
    async with connected(server, "/ws") as ws:
        for job_id, code in ((NOBODYS, "job_not_found"), ("x", "validation_error")):
            await ws.send_json({"type": "subscribe", "job_id": job_id})
            answer = await ws.receive_json()
            assert (answer["job_id"], answer["code"]) == (job_id, code)


async def test_a_job_that_is_retried_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows a job goes on when it was queued again before its end could be told."""
    job = await idle_job(server)
    service = server.app[keys.SERVICE]
    get, failed = service.get, False

    async def get_after_retry(*args: Any, **kwargs: Any) -> Job:
        nonlocal failed
        if failed:
            failed = False
            await service.retry(job.job_id, ANONYMOUS)
        return await get(*args, **kwargs)

    async with connected(server, "/ws") as ws, asyncio.timeout(20):
        await ws.send_json({"type": "subscribe", "job_id": job.job_id})
        assert (await ws.receive_json())["status"] == "queued"
        await job.begin()
        assert (await ws.receive_json())["status"] == "processing"
        monkeypatch.setattr(service, "get", get_after_retry)
        failed = True
        await job.fail()
        assert (await ws.receive_json())["status"] == "queued"
        async with server.client.delete(f"/v1/download/{job.job_id}") as response:
            assert response.status == 200
        while (await ws.receive_json())["status"] != "cancelled":
            pass


async def test_a_job_that_is_forgotten(server: Server) -> None:
    """When Redis has lost a job, whoever follows it is told that it is lost."""
    job = await idle_job(server)
    redis = server.app[STATE].client
    async with connected(server, "/ws") as ws, asyncio.timeout(20):
        await ws.send_json({"type": "subscribe", "job_id": job.job_id})
        assert (await ws.receive_json())["status"] == "queued"
        await redis.execute("DEL", *await server.redis_keys())
        # It is noticed when the feed has to look at the stream again.
        await redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        told = await ws.receive_json()
    assert (told["status"], told["error_code"]) == ("failed", "state_lost")


async def test_a_link_that_cannot_be_signed(
    server: Server, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower is told that the storage is away, and the connection stays."""
    made = await server.initiate({"source_urls": [origin.url(size=10)]})
    await server.ended(made["jobId"])
    service = server.app[keys.SERVICE]

    class Unreachable:
        async def sign(self, _: object) -> Link:
            raise StorageUnavailable("No route to 10.1.2.3.")

    monkeypatch.setattr(service, "_objects", Unreachable())
    monkeypatch.setattr("downloadd.jobs.service.LINK_MARGIN_SECONDS", 1e9)
    async with connected(server, "/ws") as ws:
        await ws.send_json({"type": "subscribe", "job_id": made["jobId"]})
        told = await ws.receive_json()
        assert told["code"] == "storage_unavailable"
        assert "10.1.2.3" not in told["error"]
        await ws.send_json({"type": "ping"})
        assert await ws.receive_json() == {"type": "pong"}


async def test_only_so_many_jobs(server: Server) -> None:
    """One connection follows twenty jobs at most."""
    job = await idle_job(server)
    body = {"source_urls": ["https://files.example/b.pdf"], "options": {"dedupe": False}}
    ids = [job.job_id, *[(await server.initiate(body))["jobId"] for _ in range(20)]]
    async with connected(server, "/ws") as ws:
        for job_id in ids:
            await ws.send_json({"type": "subscribe", "job_id": job_id})
        answers = [await ws.receive_json() for _ in ids]
    assert [it["job_id"] for it in answers if it.get("code") == "too_many_jobs"] == [ids[-1]]
