"""``POST /v1/download/initiate``: what makes a job, and what leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from downloadd.app import POOL
from tests.integration.web.conftest import Server, Start
from tests.integration.web.wire import exchange
from tests.origin import Origin
from tests.unit.web.test_schemas import BROKEN, URL

PATH = "/v1/download/initiate"


async def test_a_job_is_made_and_done(server: Server, origin: Origin) -> None:
    """The documented body gives a queued job at once and an archive a little later."""
    urls = [origin.url(seed=seed, size=5000) for seed in (1, 2, 3)]
    body = {
        "file_ids": [70000, 70001, 70002],
        "source_urls": urls,
        "options": {
            "compress": True,
            "format": "zip",
            "watermark": False,
            "onError": "fail",
            "manifest": True,
            "fileName": "order-4711.zip",
            "metadata": {"order": "4711"},
            "priority": "normal",
        },
    }
    async with server.client.post(PATH, json=body) as response:
        made = await response.json()
        assert response.status == 200
        assert response.headers["Location"] == f"/v1/download/status/{made['jobId']}"
    assert uuid.UUID(made["jobId"]).version == 4
    assert made["status"] == "queued"
    assert made["progress"] == 0
    assert made["totalFiles"] == made["totalFileIds"] == 3
    assert made["bytesTotal"] is None
    assert made["createdAt"].endswith("Z")
    assert len(made["traceId"]) == 32
    done = await server.ended(made["jobId"])
    assert done["status"] == "completed", done
    assert done["progress"] == 100
    assert done["fileName"] == "order-4711.zip"
    assert [file["fileId"] for file in done["files"]] == ["70000", "70001", "70002"]
    assert all(file["processed"] and len(file["sha256"]) == 64 for file in done["files"])


async def test_traceparent_becomes_the_trace(server: Server) -> None:
    """The trace of the request is the job's."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    made = await server.initiate(
        {"source_urls": ["https://files.example/a.pdf"]},
        traceparent=f"00-{trace}-00f067aa0ba902b7-01",
    )
    assert made["traceId"] == trace


async def test_every_broken_rule_is_a_400_that_leaves_nothing(start: Start, tmp_path: Path) -> None:
    """Each broken rule answers 400 with the field named; Redis and the disk stay empty."""
    unsupported = [
        (
            {"source_urls": ["https://files.example/a.pdf"], "options": {"watermark": True}},
            "options.watermark",
        ),
        (
            {
                "source_urls": ["https://files.example/a.pdf"],
                "callback_url": "https://app.example/h",
            },
            "callback_url",
        ),
    ]
    closed = [
        ({"source_urls": [URL, bad]}, "source_urls.1")
        for bad in (
            "ftp://files.example/a",
            "file:///etc/passwd",
            "files.example/a",
            "http://10.0.0.1/a",
            "http://[::1]/a",
            "http://169.254.169.254/latest/meta-data",
            "http://2130706434/",
            "http://8.8.8.8:22/a",
            "http:///a",
            "storage:///70000.zip",
        )
    ]
    async with start(jobs__max_files=5) as server:
        for body, field in [*BROKEN, *unsupported, *closed]:
            async with server.client.post(PATH, json=body) as response:
                answer = await response.json()
            assert response.status == 400, body
            assert list(answer["details"]) == [field], body
            code = "unsupported_option" if (body, field) in unsupported else "validation_error"
            assert answer["code"] == code
            assert answer["error"] == "Validation Error"
            assert answer["message"]
            assert answer["requestId"] == response.headers["X-Request-ID"]
        assert await server.redis_keys() == []
    archives = tmp_path / "data" / "archives"
    assert list(archives.rglob("*.zip")) == []


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "validation_error"),
        (b"not json", "application/json", 400, "validation_error"),
        (b"[]", "application/json", 400, "validation_error"),
        (b'{"a": NaN}', "application/json", 400, "validation_error"),
        (b"[" * 1_000_000, "application/json", 400, "validation_error"),
        (b'{"a":' * 100_000, "application/json", 400, "validation_error"),
        (b'{"source_urls": "\xff"}', "application/json", 400, "validation_error"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "application/json; charset=latin-1", 415, "unsupported_media_type"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"a": "' + b"x" * (10 << 20) + b'"}', "application/json", 413, "payload_too_large"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else str(value),
)
async def test_bodies_that_are_none(
    server: Server, raw: bytes, content_type: str, status: int, code: str
) -> None:
    """What is not a JSON object, of another type or too large is refused in our form."""
    async with server.client.post(
        PATH, data=io.BytesIO(raw), headers={"Content-Type": content_type}
    ) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (status, code)
    assert await server.redis_keys() == []


async def test_a_large_body_without_a_length(server: Server) -> None:
    """The limit holds for chunked bodies, whose length nobody announced."""

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    async with server.client.post(
        PATH, data=chunks(), headers={"Content-Type": "application/json"}
    ) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("encoding", "raw", "status"),
    [
        ("gzip", gzip.compress(b'{"source_urls": []}', mtime=0), 415),
        ("gzip", b"not gzip", 415),
        ("GZip, identity", b"{}", 415),
        ("deflate", b"not deflate", 415),
        ("br", b"{}", 415),
        ("x", b"{}", 415),
        ("identity", b"{}", 400),
    ],
)
async def test_compressed_bodies_are_a_415(
    server: Server, encoding: str, raw: bytes, status: int
) -> None:
    """A body in a coding is not decoded, be it proper or not, and the answer says what is taken."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Encoding: {encoding}\r\nContent-Length: {len(raw)}\r\n"
        "Connection: close\r\n\r\n"
    )
    answer = await exchange(server, head.encode() + raw)
    assert answer.status == status
    if status == 415:
        assert answer.json()["code"] == "unsupported_media_type"
        assert answer.headers["Accept-Encoding"] == "identity"


async def test_charset_utf8_is_json(server: Server) -> None:
    """A content type that names UTF-8 is fine."""
    async with server.client.post(
        PATH,
        data=json.dumps({"source_urls": ["https://files.example/a.pdf"]}),
        headers={"Content-Type": "application/json; charset=UTF-8"},
    ) as response:
        assert response.status == 200


async def test_the_same_body_is_the_same_job(server: Server) -> None:
    """A retry storm makes one job; other bodies, and dedupe false, make others."""
    # A job that has failed would not stand for its body.
    await server.app[POOL].drain(0)
    body = {"source_urls": ["https://files.example/a.pdf"], "options": {"manifest": True}}
    first = await server.initiate(body)
    again = await server.initiate(
        {"options": {"manifest": True}, "source_urls": ["https://files.example/a.pdf"]}
    )
    other = await server.initiate({"source_urls": [URL, URL]})
    fresh = {**body, "options": {"manifest": True, "dedupe": False}}
    ids = [(await server.initiate(fresh))["jobId"] for _ in range(2)]
    assert again["jobId"] == first["jobId"]
    assert len({first["jobId"], other["jobId"], *ids}) == 4


async def test_idempotency_key(server: Server) -> None:
    """The same key and body give the same job, and say so; another body is a 422."""
    body = {"source_urls": ["https://files.example/a.pdf"], "options": {"dedupe": False}}
    headers = {"Idempotency-Key": "order 4711"}
    answers = []
    for _ in range(2):
        async with server.client.post(PATH, json=body, headers=headers) as response:
            answers.append(((await response.json())["jobId"], response.headers))
    assert answers[0][0] == answers[1][0]
    assert "Idempotent-Replayed" not in answers[0][1]
    assert answers[1][1]["Idempotent-Replayed"] == "true"
    async with server.client.post(
        PATH, json={**body, "source_urls": [URL, URL]}, headers=headers
    ) as response:
        assert response.status == 422
        assert (await response.json())["code"] == "idempotency_conflict"


async def test_a_window_of_nothing_is_no_deduplication(start: Start) -> None:
    """With jobs.dedupe_window 0 every request without a key makes a job, however quick."""
    async with start(jobs__dedupe_window=0) as server:
        await server.app[POOL].drain(0)
        ids = {
            (await server.initiate({"source_urls": ["https://files.example/a.pdf"]}))["jobId"]
            for _ in range(5)
        }
    assert len(ids) == 5


async def test_another_key_is_another_job(server: Server) -> None:
    """The same body under a new key is a new job; without a key it is one that is there."""
    # A job that has failed would not stand for its body.
    await server.app[POOL].drain(0)
    body = {"source_urls": ["https://files.example/a.pdf"]}
    plain = await server.initiate(body)
    keyed = [(await server.initiate(body, Idempotency_Key=key))["jobId"] for key in "aba"]
    assert len({plain["jobId"], *keyed}) == 3
    assert keyed[0] == keyed[2]
    assert (await server.initiate(body))["jobId"] == keyed[1]


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel", "a\tb"])
async def test_idempotency_keys_that_are_none(server: Server, key: str) -> None:
    """A key that is empty, too long or not printable ASCII is a 400 that names the header."""
    async with server.client.post(
        PATH,
        json={"source_urls": ["https://files.example/a.pdf"]},
        headers={"Idempotency-Key": key},
    ) as response:
        assert response.status == 400
        assert list((await response.json())["details"]) == ["Idempotency-Key"]
    assert await server.redis_keys() == []


async def test_two_idempotency_keys(server: Server) -> None:
    """Which of two counts would be a guess: a 400, even where they are the same."""
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    async with server.client.post(
        PATH, json={"source_urls": ["https://files.example/a.pdf"]}, headers=headers
    ) as response:
        assert response.status == 400
        assert list((await response.json())["details"]) == ["Idempotency-Key"]
    assert await server.redis_keys() == []


async def test_a_full_queue_is_a_503(start: Start, origin: Origin) -> None:
    """When no more jobs are taken, the answer says when to come again."""
    async with start(jobs__queue_limit=1, jobs__concurrency=1) as server:
        slow = [origin.url(seed=seed, delay=5) for seed in range(4)]
        statuses = []
        for url in slow:
            async with server.client.post(PATH, json={"source_urls": [url]}) as response:
                statuses.append(response.status)
                if response.status == 503:
                    assert int(response.headers["Retry-After"]) >= 1
                    assert (await response.json())["code"] == "queue_full"
        assert 503 in statuses


async def test_a_thousand_files_are_taken_at_once(server: Server) -> None:
    """A body at the limit makes a job well within 200 ms of work."""
    body = {
        "file_ids": list(range(70000, 71000)),
        "source_urls": [f"https://files.example/{n}.pdf?token=secret{n}" for n in range(1000)],
    }
    made = await server.initiate(body)
    assert made["totalFiles"] == 1000


@pytest.mark.parametrize(("priorities", "place"), [({}, 1), ({"anonymous": "normal"}, 2)])
async def test_priority_is_capped_by_role(
    start: Start, priorities: dict[str, str], place: int
) -> None:
    """A job that asks for more than its caller's role may have is queued with that."""
    async with start(limits__priorities=priorities) as server:
        await server.app[POOL].drain(0)
        await server.initiate({"source_urls": ["https://files.example/a.pdf"]})
        body = {"source_urls": ["https://files.example/a.pdf"], "options": {"priority": "high"}}
        assert (await server.initiate(body))["queuePosition"] == place
