"""The answers that the design documents show, key by key and type by type.

Each row is a call as its document has it; sources are given where the document
has the server find a file by its id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.web.conftest import Server, read_events
from tests.origin import Origin

#: How a documented value looks: a type, a pattern of text, a literal, or nested.
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
LINK = re.compile(r"https?://.+")
TEXT = re.compile(r"(?s).+")
TRACE = re.compile(r"[0-9a-f]{32}")
PATH = re.compile(r"/v1/.+")
NULL_OR_INT = (int, type(None))


def check(shown: Any, given: Any, where: str = "answer") -> None:
    """Every documented key is there, and what it holds has the documented form."""
    if isinstance(shown, Mapping):
        assert isinstance(given, dict), where
        for name, value in shown.items():
            assert name in given, f"{where}.{name} is missing: {sorted(given)}"
            check(value, given[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert isinstance(given, list), where
        assert given, where
        for item in given:
            check(shown[0], item, f"{where}[]")
    elif isinstance(shown, re.Pattern):
        assert isinstance(given, str), f"{where} is {given!r}"
        assert shown.fullmatch(given), f"{where} is {given!r}"
    elif isinstance(shown, type | tuple):
        assert isinstance(given, shown), f"{where} is {given!r}"
        assert not isinstance(given, bool), f"{where} is {given!r}"
    else:
        assert given == shown, where


async def call(server: Server, method: str, path: str, body: Any = None) -> Any:
    async with server.client.request(method, path, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def one(origin: Origin, **how: Any) -> dict[str, Any]:
    """The body of documents 000 and 002: one file by its id."""
    return {"file_id": 70000, "source_urls": [origin.url(**how)]}


def several(origin: Origin, **how: Any) -> dict[str, Any]:
    """The body of documents 000, 001 and 004: files by their ids."""
    ids = [70000, 70001, 70002]
    return {"file_ids": ids, "source_urls": [origin.url(seed=seed, **how) for seed in ids]}


MADE = {
    "000": ("/v1/download/initiate", several, {
        "jobId": UUID, "status": "queued", "totalFiles": 3, "totalFileIds": 3,
        "subscribeUrl": PATH, "statusUrl": PATH,
    }),
    "001": ("/v1/export", several, {
        "jobId": UUID, "status": "queued", "totalFiles": 3, "createdAt": TIME,
    }),
    "002": ("/v1/download/initiate", one, {
        "job_id": UUID, "status": "queued", "created_at": TIME, "queue_position": int,
    }),
    "004": ("/v1/download/initiate", several, {
        "jobId": UUID, "status": "queued", "totalFileIds": 3,
    }),
}  # fmt: skip

FILE = {"fileId": TEXT, "originalUrl": LINK, "processed": True, "size": int}
ENDED = {
    "000": {"/v1/download/status/{}": {
        "jobId": UUID, "status": "completed", "progress": 100, "files": [FILE],
        "downloadUrl": LINK, "expiresAt": TIME, "totalSize": int, "processingTimeMs": int,
    }},
    "001": {
        "/v1/export/{}": {"jobId": UUID, "status": "completed", "progress": 100,
                          "downloadUrl": LINK},
        "/v1/export/{}/download": {"jobId": UUID, "downloadUrl": LINK, "expiresAt": TIME},
        "/v1/download/status/{}": {
            "jobId": UUID, "status": "completed", "progress": 100, "downloadUrl": LINK,
            "expiresAt": TIME, "completedAt": TIME, "updatedAt": TIME, "totalFiles": 3,
            "currentFile": TEXT,
        },
    },
    "002": {
        "/v1/download/status/{}": {
            "job_id": UUID, "status": "completed", "progress": 100, "file_id": 70000,
            "download_url": LINK, "created_at": TIME, "updated_at": TIME, "started_at": TIME,
            "completed_at": TIME,
        },
        "/v1/download/result/{}": {
            "job_id": UUID, "download_url": LINK, "expires_at": TIME, "file_size": int,
            "file_name": TEXT,
        },
    },
    "004": {
        "/v1/download/job/{}": {
            "jobId": UUID, "status": "ready",
            "progress": {"current": 3, "total": 3, "percentage": 100,
                         "estimatedTimeRemaining": NULL_OR_INT},
            "filesProcessed": [{"file_id": int, "status": "completed"}],
            "createdAt": TIME, "updatedAt": TIME,
        },
        "/v1/download/job/{}/download-url": {
            "jobId": UUID, "downloadUrl": LINK, "expiresIn": int, "fileSize": int, "bucket": TEXT,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("document", ["000", "001", "002", "004"])
async def test_from_the_request_to_the_link(server: Server, origin: Origin, document: str) -> None:
    """Each document's answers, at the beginning and when the archive is there."""
    path, body, shown = MADE[document]
    made = await call(server, "POST", path, body(origin, size=2000))
    check(shown, made)
    job_id = made.get("jobId") or made["job_id"]
    assert (await server.ended(job_id))["status"] == "completed"
    for path, shown in ENDED[document].items():
        check(shown, await call(server, "GET", path.format(job_id)), path)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (200, {
            "file_id": 70000, "status": "completed", "downloadUrl": LINK, "size": int,
            "processingTimeMs": int, "traceId": TRACE,
            "message": re.compile(r"Download ready after \d+\.\d seconds"),
        }),
        (404, {
            "file_id": 70000, "status": "failed", "downloadUrl": None, "size": None,
            "processingTimeMs": int, "traceId": TRACE,
            "message": re.compile(r".+ after \d+\.\d seconds of processing"),
        }),
    ],
    ids=["completed", "failed"],
)  # fmt: skip
async def test_the_old_call(
    server: Server, origin: Origin, status: int, shown: dict[str, Any]
) -> None:
    """Document 000's ``start`` answers with the end, and no key is there that is not shown."""
    bad = {} if status == 200 else {"status": status}
    given = await call(server, "POST", "/v1/download/start", one(origin, size=2000, **bad))
    check(shown, given)
    assert set(given) == set(shown)


@pytest.mark.parametrize(
    ("path", "body", "shown"),
    [
        ("/v1/export", several, {"jobId": UUID, "status": "cancelled"}),
        ("/v1/download/initiate", one, {"job_id": UUID, "status": "cancelled"}),
    ],
    ids=["001", "002"],
)
async def test_cancelled(
    server: Server, origin: Origin, path: str, body: Any, shown: dict[str, Any]
) -> None:
    """Documents 001 and 002 cancel, each at its own address and in its own case."""
    made = await call(server, "POST", path, body(origin, delay=20))
    job_id = made.get("jobId") or made["job_id"]
    at = "" if "jobId" in made else "cancel/"
    check(shown, await call(server, "DELETE", f"/v1/download/{at}{job_id}"))


async def test_retried(server: Server, origin: Origin) -> None:
    """Document 004's hook puts the answer of retry in the place of its job: all is there."""
    body = {"file_ids": [70000], "source_urls": [origin.url(status=404, times=1)]}
    made = await call(server, "POST", "/v1/download/initiate", body)
    await server.ended(made["jobId"])
    failed = await call(server, "GET", f"/v1/download/job/{made['jobId']}")
    check({"status": "failed", "error": TEXT}, failed)
    check([{"file_id": 70000, "status": "failed", "error": TEXT}], failed["filesProcessed"])
    path = f"/v1/download/job/{made['jobId']}"
    async with server.client.post(f"{path}/retry") as response:
        assert (response.status, response.headers["Location"]) == (200, path)
        shown = {"jobId": UUID, "status": "queued", "message": TEXT}
        progress = {"current": int, "total": 1, "percentage": int}
        check(shown | {"progress": progress}, await response.json())
    assert (await server.ended(made["jobId"]))["status"] == "completed"


#: A stream, how its job is made, and what it ends with: done, failed, cancelled.
STREAMS = [
    ("/v1/download/initiate", "/v1/download/subscribe/{}", ("complete", "failed", "cancelled")),
    ("/v1/download/initiate", "/v1/download/stream/{}", ("complete", "error", "status")),
    ("/v1/download/initiate", "/v1/export/{}/progress", ("completed", "failed", "cancelled")),
    ("/v1/export", "/v1/download/subscribe/{}", ("completed", "failed", "cancelled")),
    ("/v1/export", "/v1/export/{}/progress", ("completed", "failed", "cancelled")),
    ("/v1/export", "/v1/download/stream/{}", ("complete", "error", "status")),
]


@pytest.mark.parametrize(
    ("maker", "stream", "names"),
    STREAMS,
    ids=[f"{maker[4:10]}-{path[4:24]}".replace("/", "-") for maker, path, _ in STREAMS],
)
async def test_events_are_called_as_their_documents_do(
    server: Server, origin: Origin, maker: str, stream: str, names: tuple[str, str, str]
) -> None:
    """The last event's name goes with the form of the job and with the stream."""
    bodies = [several(origin, size=500), several(origin, status=404), several(origin, delay=20)]
    for body, name in zip(bodies, names, strict=True):
        job_id = (await call(server, "POST", maker, body))["jobId"]
        if body is bodies[2]:
            await call(server, "DELETE", f"/v1/download/{job_id}")
        async with asyncio.timeout(20), server.client.get(stream.format(job_id)) as response:
            told = [event async for event in read_events(response)]
        assert (told[0].type, told[-1].type) == ("status", name)
        if name in ("complete", "completed"):
            check({"downloadUrl": LINK, "expiresAt": TIME}, told[-1].data)
        elif name in ("failed", "error"):
            check({"error": TEXT, "status": "failed"}, told[-1].data)
        else:
            assert told[-1].data["status"] == "cancelled"
