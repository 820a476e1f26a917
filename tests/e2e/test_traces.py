"""What a collector gets to see: one tree for a request and its job, whoever works on it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.collector import Collector, Span
from tests.e2e.archives import MIB, want
from tests.e2e.service import Service, eventually, s3_storage
from tests.gateway import Gateway
from tests.origin import Origin
from tests.receiver import SECRET, Receiver

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OTHER = "5bf92f3577b34da6a3ce929d0e0e4737"
SERVER, CLIENT, CONSUMER = 2, 3, 5
WORK = "download.process"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


def traced(folder: Path, collector: Collector, **environ: str) -> Service:
    """A service that sends its spans at once, and more readily than by default."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "DOWNLOADD_WEBHOOKS_SECRET": SECRET,
        "DOWNLOADD_TELEMETRY_SERVICE_NAME": "files",
    }
    return Service(folder / "data", {**settings, **environ})


async def make(server: Service, body: Any, *, flags: str | None = "01") -> dict[str, Any]:
    headers = {} if flags is None else {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
    async with server.client.post("/v1/download/initiate", json=body, headers=headers) as answer:
        job: dict[str, Any] = await answer.json()
        assert answer.status == 200, job
        assert answer.headers["X-Trace-Id"] == job["traceId"]
        return job


def lines(server: Service, message: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in told if line["message"] == message]


async def under_way(server: Service, job: dict[str, Any]) -> None:
    """Wait until there is something of the job that another process can know of."""

    async def begun() -> bool:
        return bool((await server.status(job["jobId"]))["bytesFetched"])

    await eventually(begun, what="bytes have come")


def one(spans: list[Span]) -> Span:
    (span,) = spans
    return span


async def test_one_tree(
    folder: Path, gateway: Gateway, collector: Collector, origin: Origin
) -> None:
    """The request, the job's work, and what that calls: parents, links, times, and no secret."""
    files = [want(origin, seed, 9 * MIB) for seed in (1, 2)]
    files.append(want(origin, 3, 50_000, status=503, times=1))
    bare = f"http://lovelace:hunter2@127.0.0.1:{origin.port}"
    urls = [f"{file.url.replace(f'http://127.0.0.1:{origin.port}', bare)}" for file in files]
    urls = [f"{url}{'&' if '?' in url else '?'}X-Amz-Signature=hunter2" for url in urls]
    async with (
        s3_storage(gateway, "traces") as storage,
        Receiver() as receiver,
        traced(folder, collector, **storage.environ) as server,
    ):
        job = await make(server, {"source_urls": urls, "callback_url": receiver.url()})
        assert job["traceId"] == TRACE
        assert (await server.ended(job["jobId"]))["status"] == "completed"
        await collector.until(lambda: collector.named("webhook.deliver"))
        async with server.client.get("/health") as health, server.client.get("/nowhere") as lost:
            assert (health.status, lost.status) == (200, 404)
        seen = receiver.calls()
        assert await server.stop() == 0

    request = one(collector.named("POST /v1/download/initiate"))
    assert (request.trace, request.parent, request.kind) == (TRACE, CALLER, SERVER)
    assert request.attributes["http.response.status_code"] == 200
    assert request.resource["service.name"] == "files"
    work = one(collector.named(WORK))
    assert (work.trace, work.parent, work.kind) == (TRACE, request.id, CONSUMER)
    assert work.links == {(TRACE, request.id)}
    assert work.attributes["job.id"] == job["jobId"]
    assert work.attributes["job.status"] == "completed"
    assert not work.failed

    below = [span for span in collector.spans if span.parent == work.id]
    assert Counter(span.name for span in below) == {
        "source.fetch": 3,
        "archive.append": 3,
        "s3.upload_part": 2,
        "s3.complete": 1,
        "webhook.deliver": 1,
    }
    assert {span.trace for span in below} == {TRACE}
    retried = [span for span in below if span.events == ["retry"]]
    assert [span.attributes["file.attempts"] for span in retried] == [2]

    # Those who are called hear of it.
    fetches = {span.id for span in below if span.name == "source.fetch"}
    told = {asked.headers["traceparent"] for asked in origin.requests}
    assert told == {f"00-{TRACE}-{span}-01" for span in fetches}
    call = one([span for span in below if span.kind == CLIENT and "webhook" in span.name])
    assert [it.headers["traceparent"] for it in seen] == [f"00-{TRACE}-{call.id}-01"]

    # Lines and spans name each other.
    (line,) = lines(server, "job.completed")
    assert (line["traceId"], line["spanId"]) == (TRACE, work.id)
    access = [line for line in lines(server, "http.request") if line["method"] == "POST"]
    assert [(line["traceId"], line["spanId"]) for line in access] == [(TRACE, request.id)]

    names = {span.name for span in collector.spans}
    assert "GET unmatched" in names
    assert not any("health" in name for name in names)
    assert not any(b"hunter2" in body or b"lovelace" in body for body in collector.bodies)


async def test_across_processes(folder: Path, collector: Collector, origin: Origin) -> None:
    """Who goes on with a job goes on with its trace, and links to who had it before."""
    slow = want(origin, 5, 400_000, rate=150_000)
    async with Receiver() as receiver, traced(folder, collector) as server:
        body = {"source_urls": [slow.url], "callback_url": receiver.url()}
        job = await make(server, body, flags=None)
        await under_way(server, job)
        assert await server.stop(times=2) == 0
        await server.start()
        assert (await server.ended(job["jobId"]))["status"] == "completed"
        call = one(await collector.until(lambda: collector.named("webhook.deliver")))

        # After a kill nobody has told of the span, but its link does.
        last = want(origin, 6, 400_000, rate=150_000)
        killed = await make(server, {"source_urls": [last.url]})
        await under_way(server, killed)
        await server.kill()
        await server.start()
        assert (await server.ended(killed["jobId"]))["status"] == "completed"
        assert await server.stop() == 0

    trace = job["traceId"]
    request = one([it for it in collector.named("POST /v1/download/initiate") if it.trace == trace])
    first, second = sorted(
        (it for it in collector.named(WORK) if it.trace == trace),
        key=lambda it: it.attributes["job.attempt"],
    )
    assert first.attributes["job.given_up"] == "shutdown"
    assert (first.parent, second.parent) == (request.id, request.id)
    assert first.links == {(trace, request.id)}
    assert second.links == {(trace, request.id), (trace, first.id)}
    assert (call.trace, call.parent) == (trace, second.id)
    again = one([it for it in collector.named(WORK) if it.trace == TRACE])
    assert len(again.links) == 2
    started = [line for line in lines(server, "job.started") if line["jobId"] == killed["jobId"]]
    assert {span for _, span in again.links} >= {started[0]["spanId"]}


async def test_what_is_not_kept(folder: Path, collector: Collector, origin: Origin) -> None:
    """Callers' decisions hold; of what begins here the set share is kept; ids are there anyhow."""
    async with traced(folder, collector, DOWNLOADD_TELEMETRY_TRACE_SAMPLE_RATIO="0") as server:
        for flags in ("00", None):
            file = want(origin, 7, 5_000)
            body = {"source_urls": [file.url], "options": {"dedupe": False}}
            job = await make(server, body, flags=flags)
            ended = await server.ended(job["jobId"])
            assert (ended["status"], ended["traceId"]) == ("completed", job["traceId"])
            assert (job["traceId"] == TRACE) is (flags is not None)
        missing = want(origin, 8, 5_000, status=404)
        kept = await make(server, {"source_urls": [missing.url]})
        assert (await server.ended(kept["jobId"]))["status"] == "failed"
        other = {"traceparent": f"00-{OTHER}-{CALLER}-01"}
        path = f"/v1/download/{kept['jobId']}/retry"
        async with server.client.post(path, headers=other) as answer:
            assert (await answer.json())["traceId"] == TRACE
        assert (await server.ended(kept["jobId"]))["status"] == "failed"
        assert await server.stop() == 0
    retry = one([span for span in collector.spans if span.trace == OTHER])
    first, second = sorted(collector.named(WORK), key=lambda it: it.attributes["job.attempt"])
    assert (second.trace, second.parent) == (TRACE, first.parent)
    assert second.links == {(TRACE, first.parent), (OTHER, retry.id)}
    failed = {span.name: span for span in collector.spans if span.failed}
    assert failed.keys() == {WORK, "source.fetch"}
    assert failed["source.fetch"].attributes["error.type"] == "source_refused"
    assert failed["source.fetch"].attributes["file.attempts"] == 1


async def test_a_collector_that_hangs(folder: Path, collector: Collector, origin: Origin) -> None:
    """Traces that nobody takes hold up no job and no stop, and fill no log."""
    collector.answering.clear()
    async with traced(folder, collector) as server:
        for seed in range(20):
            file = want(origin, 20 + seed, 5_000)
            job = await make(server, {"source_urls": [file.url]})
            assert (await server.ended(job["jobId"]))["status"] == "completed"
        began = time.monotonic()
        assert await server.stop() == 0
    assert time.monotonic() - began < 15
    assert (
        len([line for line in server.log.read_text().splitlines() if "opentelemetry" in line]) < 10
    )
