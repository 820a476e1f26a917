"""Hostile requests: each answered with the right status in the usual form, none with a 500."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from yarl import URL

from tests.e2e.service import Service, eventually
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin
from tests.security.hostile_requests import CLOSED, REQUESTS


def test_there_are_as_many_as_asked_for(tried: Callable[[str, int], None]) -> None:
    tried("requests", len(REQUESTS))
    assert len(REQUESTS) >= 80
    assert len({name for name, _, _ in REQUESTS}) == len(REQUESTS)


async def answer_to(url: str, data: bytes) -> bytes:
    """What comes back over a connection of its own."""
    parts = URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(20):
                while chunk := await reader.read(1 << 16):
                    answer += chunk
                    if _is_whole(answer):
                        break
        return answer
    finally:
        writer.close()


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\nContent-Length: *([0-9]+)", head)
    return bool(found and length and len(body) >= int(length[1]))


@pytest.fixture
async def picky(start: Start) -> AsyncIterator[Server]:
    async with start(
        server__cors_origins=["https://app.example"], network__allow=["127.0.0.1"]
    ) as it:
        yield it


async def made(server: Server) -> set[str]:
    """What is left of requests that made something."""
    marks = (":job:", "}:queue", "}:dedupe:", "}:idempotency:", "}:webhooks")
    return {key for key in await server.redis_keys() if any(mark in key for mark in marks)}


@pytest.mark.timeout(240)
async def test_every_request(picky: Server, origin: Origin) -> None:
    """The status is one of those expected; errors are in our form; nothing is left of any."""
    job = await picky.initiate({"source_urls": [origin.url(size=5)]})
    await picky.ended(job["jobId"])
    before = await made(picky)
    wrong = {}
    sent = [data.replace(b"{job}", job["jobId"].encode()) for _, data, _ in REQUESTS]
    # Together: the one that says nothing is waited for.
    answers = await asyncio.gather(*(answer_to(picky.url, data) for data in sent))
    for (name, _, statuses), data, raw in zip(REQUESTS, sent, answers, strict=True):
        status = int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.1 ") else CLOSED
        if status not in statuses:
            wrong[name] = (status, raw[:300])
        elif status >= 400:
            _check_form(name, raw, data)
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert await made(picky) == before
    async with picky.client.get("/metrics") as response:
        text = await response.text()
    assert 'status="500"' not in text
    # No label has what somebody sent.
    assert not re.search(r"passwd|<script|evil", text)


def _check_form(name: str, raw: bytes, sent: bytes) -> None:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"\r\nX-Content-Type-Options: nosniff" in head, name
    assert b"\r\nX-Request-ID: " in head, name
    assert b"aiohttp" not in head.lower(), name
    if sent.startswith(b"HEAD"):
        return
    answer = json.loads(body)
    assert {"error", "code", "message", "requestId"} <= answer.keys(), name
    for word in ("Traceback", "aiohttp", "marshmallow", "redis", "/work/", "site-packages"):
        assert word not in answer["message"], (name, answer)


def held(port: int) -> int:
    """Connections that the server on this port has not closed: established, or left by clients."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    open_states = ("01", "08")
    return sum(row[1].endswith(f":{port:04X}") and row[3] in open_states for row in rows)


async def test_nothing_stays_open(tmp_path: Path, origin: Origin) -> None:
    """Through a process of its own: no connection and no file is left, and it works as before."""
    async with Service(tmp_path / "data", {}) as server:
        job_id = await server.initiate({"source_urls": [origin.url(size=5)]})
        await server.ended(job_id)
        before = held(server.port)
        asked = [data for _, data, statuses in REQUESTS if CLOSED not in statuses]
        sent = [data.replace(b"{job}", job_id.encode()) for data in asked]
        await asyncio.gather(*(answer_to(server.url, data) for data in sent))
        await eventually(lambda: held(server.port) <= before, what="the connections are closed")
        job_id = await server.initiate({"source_urls": [origin.url(size=6)]})
        assert (await server.ended(job_id))["status"] == "completed"
        log = server.log.read_text()
        for word in ("http.failed", "Traceback", "passwd"):
            assert word not in log


async def test_a_body_that_trickles(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its time, then 408; what is sent after that is nobody's request."""
    monkeypatch.setattr("downloadd.web.body.BODY_TIMEOUT_SECONDS", 0.5)
    async with start() as server:
        parts = URL(server.url)
        reader, writer = await asyncio.open_connection(parts.host, parts.port)
        writer.write(
            b"POST /v1/download/initiate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        for _ in range(20):
            writer.write(b" ")
            await asyncio.sleep(0.05)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 408 ")
        writer.close()
