"""Callbacks: what receivers get, when, how often, and what callers learn of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiodns import DNSResolver

from downloadd.app import STATE
from downloadd.web import keys
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin
from tests.receiver import SECRET, Receiver

#: Short waits between tries: the first fails at once, the second soon.
SCHEDULE = [0.05, 0.1, 0.2]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


def calling(start: Start, **settings: Any) -> AbstractAsyncContextManager[Server]:
    """A server that calls back, soon again where that fails."""
    given = {"webhooks__secret": SECRET, "webhooks__schedule": SCHEDULE, "webhooks__timeout": 5}
    return start(**{**given, **settings})


@pytest.fixture
async def server(start: Start) -> AsyncIterator[Server]:
    async with calling(start) as server:
        yield server


async def make(server: Server, origin: Origin, callback_url: str, **query: object) -> str:
    """A job of one file, told to a receiver; its id."""
    body = {"source_urls": [origin.url(**query)], "callback_url": callback_url}
    return str((await server.initiate({**body, "options": {"dedupe": False}}))["jobId"])


async def deliveries(server: Server, job_id: str) -> list[dict[str, Any]]:
    async with server.client.get(f"/v1/download/{job_id}/deliveries") as response:
        assert response.status == 200, await response.text()
        answer = await response.json()
    assert answer["jobId"] == job_id
    return list(answer["deliveries"])


async def settled(server: Server, job_id: str, status: str) -> dict[str, Any]:
    """Wait until the job's last message is in this status."""
    async with asyncio.timeout(20):
        while not (all_of := await deliveries(server, job_id)) or all_of[-1]["status"] != status:
            await asyncio.sleep(0.02)
    return all_of[-1]


async def replay(server: Server, job_id: str) -> tuple[int, Any]:
    async with server.client.post(f"/v1/download/{job_id}/deliveries/replay") as response:
        return response.status, await response.json()


# --- what comes ---------------------------------------------------------------


async def test_a_completed_job_is_told(server: Server, origin: Origin, receiver: Receiver) -> None:
    """The message is signed, and holds the job as its status has it, with a link that works."""
    job_id = await make(server, origin, receiver.url())
    (call,) = await receiver.called()
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"] == "downloadd"
    message, job = call.message, await server.status(job_id)
    assert message["type"] == "download.completed"
    assert message["timestamp"] == job["completedAt"]
    told = message["data"]
    async with server.client.get(told["downloadUrl"]) as response:
        assert response.status == 200
    assert told == job
    delivery = await settled(server, job_id, "delivered")
    assert delivery["id"] == call.id
    assert delivery["type"] == "download.completed"
    assert [attempt["status"] for attempt in delivery["attempts"]] == [200]
    assert "nextAttemptAt" not in delivery


async def test_a_failed_job_is_told(server: Server, origin: Origin, receiver: Receiver) -> None:
    """What went wrong is in the message."""
    await make(server, origin, receiver.url(), status=404)
    (call,) = await receiver.called()
    assert call.message["type"] == "download.failed"
    assert call.message["data"]["status"] == "failed"
    assert call.message["data"]["errorCode"] == "source_refused"


async def test_a_cancelled_job_is_told(server: Server, origin: Origin, receiver: Receiver) -> None:
    """Cancelling is an end like others."""
    job_id = await make(server, origin, receiver.url(), delay=20)
    async with server.client.delete(f"/v1/download/{job_id}") as response:
        assert response.status == 200
    (call,) = await receiver.called()
    assert call.message["type"] == "download.cancelled"
    assert call.message["data"]["jobId"] == job_id


async def test_who_asks_for_none_gets_none(server: Server, origin: Origin) -> None:
    """A job without callback_url puts nothing into the outbox and has no deliveries."""
    job = await server.initiate({"source_urls": [origin.url()], "callback_url": None})
    await server.ended(job["jobId"])
    assert await deliveries(server, job["jobId"]) == []
    assert not any("deliveries" in key or "webhooks" in key for key in await server.redis_keys())
    status, answer = await replay(server, job["jobId"])
    assert (status, answer["code"]) == (409, "job_state_conflict")


async def test_many_files_are_left_out(server: Server, origin: Origin, receiver: Receiver) -> None:
    """A message stays small: files whose list would make it large can be asked for."""
    urls = [f"{origin.url(1, 10)}/{'x' * 600}{number}?kind=text" for number in range(100)]
    job = await server.initiate({"source_urls": urls, "callback_url": receiver.url()})
    (call,) = await receiver.called()
    assert len(call.body) < 64 * 1024
    assert "files" not in call.message["data"]
    assert call.message["data"]["filesCompleted"] == 100
    assert len((await server.status(job["jobId"]))["files"]) == 100


async def test_credentials_are_sent_and_not_shown(
    server: Server, origin: Origin, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user in the URL becomes basic auth; neither it nor the query is shown or logged."""
    url = receiver.url("500,200").replace("//", "//ada:hunter2@") + "?key=hunter3"
    job_id = await make(server, origin, url)
    call, _ = await receiver.called(2)
    expected = base64.b64encode(b"ada:hunter2").decode()
    assert call.headers["authorization"] == f"Basic {expected}"
    await settled(server, job_id, "delivered")
    async with server.client.get(f"/v1/download/{job_id}/deliveries") as response:
        shown = await response.text()
    assert f'"callbackUrl":"http://127.0.0.1:{receiver.port}/500,200/?key=***"' in shown
    shown += str(await server.status(job_id)) + call.body.decode()
    async with server.client.get(f"/v1/download/subscribe/{job_id}") as response:
        shown += await response.text()
    shown += "".join(capsys.readouterr())
    assert "hunter" not in shown


# --- when it goes wrong -----------------------------------------------------------


async def test_it_is_tried_again(server: Server, origin: Origin, receiver: Receiver) -> None:
    """After failures the same message comes again, each time signed anew, until it is taken."""
    job_id = await make(server, origin, receiver.url("500,drop,200"))
    calls = await receiver.called(3)
    assert len({call.id for call in calls}) == 1
    assert len({call.body for call in calls}) == 1
    delivery = await settled(server, job_id, "delivered")
    assert [attempt.get("status") for attempt in delivery["attempts"]] == [500, None, 200]
    assert "closed the connection" in delivery["attempts"][1]["error"]
    await server.ended(job_id)
    async with server.client.get("/metrics") as response:
        metrics = await response.text()
    assert 'webhook_deliveries_total{status="failed"} 2.0' in metrics
    assert 'webhook_deliveries_total{status="delivered"} 1.0' in metrics


async def test_tries_come_to_an_end(server: Server, origin: Origin, receiver: Receiver) -> None:
    """After the schedule's last wait there is no further try; replay begins anew."""
    job_id = await make(server, origin, receiver.url("503"))
    delivery = await settled(server, job_id, "exhausted")
    assert len(delivery["attempts"]) == 1 + len(SCHEDULE)
    status, _ = await replay(server, job_id)
    assert status == 202
    calls = await receiver.called(2 * (1 + len(SCHEDULE)))
    assert {call.id for call in calls} == {delivery["id"]}
    await settled(server, job_id, "exhausted")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_failures(
    server: Server, origin: Origin, receiver: Receiver, status: int
) -> None:
    """Nobody is called that the caller has not named."""
    job_id = await make(server, origin, receiver.url(f"{status},200"))
    delivery = await settled(server, job_id, "delivered")
    assert [attempt["status"] for attempt in delivery["attempts"]] == [status, 200]
    assert receiver.calls("moved") == []


async def test_410_is_the_end(server: Server, origin: Origin, receiver: Receiver) -> None:
    """A receiver that is gone is left alone, unless somebody asks for a replay."""
    job_id = await make(server, origin, receiver.url("410,200"))
    delivery = await settled(server, job_id, "gone")
    assert len(delivery["attempts"]) == 1
    await asyncio.sleep(2 * SCHEDULE[0])
    assert len(receiver.calls()) == 1
    assert (await replay(server, job_id))[0] == 202
    delivery = await settled(server, job_id, "delivered")
    assert [call.id for call in receiver.calls()] == [delivery["id"]] * 2


async def test_retry_after_is_honoured(server: Server, origin: Origin, receiver: Receiver) -> None:
    """The next try comes no sooner than the receiver asked."""
    await make(server, origin, receiver.url("wait=1,200"))
    first, second = await receiver.called(2)
    assert second.at - first.at >= 1


@pytest.mark.parametrize("how", ["slow", "drip"])
async def test_slow_receivers_hold_up_themselves_alone(
    start: Start, origin: Origin, receiver: Receiver, how: str
) -> None:
    """Time-outs end what is slow, byte by byte too; others get theirs meanwhile."""
    allowed = ["127.0.0.1", "localhost"]
    async with calling(
        start, webhooks__timeout=1, webhooks__schedule=[60], network__allow=allowed
    ) as server:
        slow = [await make(server, origin, receiver.url(how, f"{n}")) for n in range(12)]
        await receiver.called(4)
        for job_id in slow:
            await server.ended(job_id)
        # Another host, as far as the bound on one host goes.
        other = await make(server, origin, receiver.url("200", "quick", host="localhost"))
        begun = asyncio.get_running_loop().time()
        await receiver.called(1, "quick", seconds=10)
        assert asyncio.get_running_loop().time() - begun < 5
        await settled(server, other, "delivered")
        assert receiver.most[how] <= 4
        delivery = (await deliveries(server, slow[0]))[0]
        async with asyncio.timeout(20):
            while not delivery["attempts"]:
                await asyncio.sleep(0.05)
                delivery = (await deliveries(server, slow[0]))[0]
        (attempt,) = delivery["attempts"]
        assert "took longer than 1 s" in attempt["error"]
        assert 1000 <= attempt["durationMs"] < 8000
        assert delivery["status"] == "pending"
        assert "nextAttemptAt" in delivery


@pytest.mark.parametrize("how", ["dribble", "flood"])
async def test_endless_answers_are_not_read(
    server: Server, origin: Origin, receiver: Receiver, how: str
) -> None:
    """The status is the answer: what follows is not waited for."""
    job_id = await make(server, origin, receiver.url(how))
    delivery = await settled(server, job_id, "delivered")
    assert delivery["attempts"][0]["durationMs"] < 4000


# --- ids ----------------------------------------------------------------------------


async def test_each_end_is_a_message(server: Server, origin: Origin, receiver: Receiver) -> None:
    """A job that is retried and ends again is told of twice, under two ids."""
    job_id = await make(server, origin, receiver.url(), status=404, times=1)
    await settled(server, job_id, "delivered")
    async with server.client.post(f"/v1/download/{job_id}/retry") as response:
        assert response.status == 200
    failed, completed = await receiver.called(2)
    assert [failed.message["type"], completed.message["type"]] == [
        "download.failed",
        "download.completed",
    ]
    assert failed.id != completed.id
    await settled(server, job_id, "delivered")
    assert [it["id"] for it in await deliveries(server, job_id)] == [failed.id, completed.id]


async def test_news_of_a_retried_job_are_withdrawn(
    start: Start, origin: Origin, receiver: Receiver
) -> None:
    """A message that waits for its next try is not sent when the job goes on after all."""
    async with calling(start, webhooks__schedule=[0.5]) as server:
        url = receiver.url("500,200")
        job_id = await make(server, origin, url, status=404, times=1)
        await receiver.called()
        async with server.client.post(f"/v1/download/{job_id}/retry") as response:
            assert response.status == 200
        first, second = await receiver.called(2)
        await settled(server, job_id, "delivered")
        await asyncio.sleep(0.6)
        assert [call.id for call in receiver.calls()] == [first.id, second.id]
        assert second.message["type"] == "download.completed"
        statuses = [it["status"] for it in await deliveries(server, job_id)]
        assert statuses == ["superseded", "delivered"]


async def test_replay_of_what_is_under_way(
    server: Server, origin: Origin, receiver: Receiver
) -> None:
    """A job that has not ended, and a message on its way, are 409; one that waits goes now."""
    job_id = await make(server, origin, receiver.url("slow"), delay=0.5)
    status, answer = await replay(server, job_id)
    assert (status, answer["code"]) == (409, "job_state_conflict")
    await receiver.called()
    status, answer = await replay(server, job_id)
    assert (status, answer["code"]) == (409, "job_state_conflict")
    assert "on its way" in answer["message"]


async def test_replay_does_not_wait(start: Start, origin: Origin, receiver: Receiver) -> None:
    """A message whose next try is far is sent at once."""
    async with calling(start, webhooks__schedule=[3600]) as server:
        job_id = await make(server, origin, receiver.url("500,200"))
        await receiver.called()
        async with asyncio.timeout(10):
            while "nextAttemptAt" not in (await deliveries(server, job_id))[0]:
                await asyncio.sleep(0.02)
        assert (await replay(server, job_id))[0] == 202
        first, second = await receiver.called(2)
        assert first.id == second.id


# --- addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/hook",
        "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/hook",
        "https://1.1.1.1:22/hook",
        "ftp://app.example/hook",
        "app.example/hook",
    ],
)
async def test_addresses_that_may_not_be_called(server: Server, origin: Origin, url: str) -> None:
    """The guard of sources holds for callbacks: a blocked one is a 400 that names the field."""
    body = {"source_urls": [origin.url()], "callback_url": url}
    async with server.client.post("/v1/download/initiate", json=body) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (400, "validation_error")
    assert list(answer["details"]) == ["callback_url"]


async def test_a_name_is_checked_when_it_is_dialled(
    server: Server, origin: Origin, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that turns out to be a private address is not called."""
    real = DNSResolver.getaddrinfo

    def getaddrinfo(resolver: DNSResolver, host: str, **options: Any) -> Any:
        return real(resolver, "127.0.0.2" if host == "app.example" else host, **options)

    monkeypatch.setattr(DNSResolver, "getaddrinfo", getaddrinfo)
    job_id = await make(server, origin, "http://app.example:8000/hook")
    delivery = await settled(server, job_id, "exhausted")
    for attempt in delivery["attempts"]:
        assert attempt["error"] == "The receiver's address may not be called."


async def test_without_a_secret(start: Start, origin: Origin) -> None:
    """Over a Redis that others may share, a server with no secret takes no callback_url."""
    async with start() as server:
        body = {"source_urls": [origin.url()], "callback_url": "https://app.example/hook"}
        async with server.client.post("/v1/download/initiate", json=body) as response:
            answer = await response.json()
        assert (response.status, answer["code"]) == (400, "unsupported_option")
        assert "webhooks.secret" in answer["message"]


# --- trouble of our own --------------------------------------------------------------------


async def test_a_job_that_is_gone(start: Start, origin: Origin, receiver: Receiver) -> None:
    """News of a job that Redis has lost are dropped, and those behind them are told."""
    async with calling(start, webhooks__schedule=[2]) as server:
        job_id = await make(server, origin, receiver.url("500"))
        async with asyncio.timeout(10):
            while not (await settled(server, job_id, "pending"))["attempts"]:
                await asyncio.sleep(0.02)
        state = server.app[STATE]
        await state.client.execute("DEL", state.keys.job(job_id), state.keys.deliveries(job_id))
        other = await make(server, origin, receiver.url("200", "other"))
        await settled(server, other, "delivered")
        async with asyncio.timeout(10):
            while await state.client.execute("ZCARD", state.keys.webhooks):
                await asyncio.sleep(0.05)
        counted = server.app[keys.METRICS].webhook_deliveries.labels("undeliverable")
        assert counted._value.get() == 1


async def test_a_list_of_files_that_cannot_be_read(
    server: Server, origin: Origin, receiver: Receiver
) -> None:
    """What is known of the job is told all the same."""
    job_id = await make(server, origin, receiver.url("500,200"), gate=1)
    state = server.app[STATE]
    async with asyncio.timeout(10):
        while (await server.status(job_id))["status"] == "queued":
            await asyncio.sleep(0.01)
    await state.client.execute("HSET", state.keys.job(job_id), "spec", "no JSON")
    origin.gate.set()
    await receiver.called(2)
    await settled(server, job_id, "delivered")
    told = receiver.calls()[-1].message
    assert told["type"] == "download.completed"
    assert told["data"]["downloadUrl"]
    assert "files" not in told["data"]


async def test_a_stop_gives_messages_back(start: Start, origin: Origin, receiver: Receiver) -> None:
    """A try under way at a shutdown is given up soon, and the next process goes on at once."""
    name = "given"
    async with calling(start, webhooks__timeout=60) as server:
        job_id = await make(server, origin, receiver.url("slow,200", name))
        (first,) = await receiver.called(1, name)
        prefix, begun = server.prefix, asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 8
    async with calling(start, state__prefix=prefix) as server:
        _, second = await receiver.called(2, name)
        assert second.id == first.id
        assert len((await settled(server, job_id, "delivered"))["attempts"]) == 1
