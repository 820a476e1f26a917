"""``POST /v1/download/check``: is a file there, and what would become of a whole list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from downloadd.app import POOL
from downloadd.app.site import OBJECTS
from tests.content import content
from tests.gateway import GatewayProcess, run_gateway_process
from tests.integration.objects.support import META, Body
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin
from tests.ports import free_port
from tests.unit.web.test_schemas import BROKEN

PATH = "/v1/download/check"
MIB = 1 << 20


@pytest.fixture
def own_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with run_gateway_process(tmp_path_factory.mktemp("gateway")) as running:
        yield running


async def check(server: Server, body: Mapping[str, Any], status: int = 200) -> dict[str, Any]:
    async with server.client.post(PATH, json=body) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def one(server: Server, url: str, **file: Any) -> dict[str, Any]:
    """What is said of one file behind a URL."""
    answer = await check(server, {"files": [{"url": url, **file}]})
    (found,) = answer["files"]
    return dict(found)


# --- one file, by its id ------------------------------------------------------------


async def test_a_stored_file_by_its_id(start: Start, tmp_path: Path) -> None:
    """The documented answers to an id whose file is there, and to one whose is not."""
    async with start() as server:
        (tmp_path / "data" / "archives" / "70000.zip").write_bytes(content(1, 1234))
        there = await check(server, {"file_id": 70000})
        assert len(there.pop("traceId")) == 32
        assert there == {"file_id": 70000, "available": True, "s3Key": "70000.zip", "size": 1234}
        gone = await check(server, {"file_id": 70001})
        assert len(gone.pop("traceId")) == 32
        assert gone == {"file_id": 70001, "available": False, "s3Key": None, "size": None}


async def test_a_file_behind_a_template(start: Start, origin: Origin) -> None:
    """With a template it is the URL that is asked, which has no key."""
    template = f"http://127.0.0.1:{origin.port}/file/{{file_id}}/1000"
    async with start(fetch__source_url_template=template) as server:
        there = await check(server, {"file_id": 70000})
        assert (there["available"], there["s3Key"], there["size"]) == (True, None, 1000)
    closed = f"http://127.0.0.1:{free_port()}/{{file_id}}"
    async with start(fetch__source_url_template=closed) as server:
        gone = await check(server, {"file_id": 70000})
        assert (gone["available"], gone["s3Key"], gone["size"]) == (False, None, None)


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_a_bucket(start: Start, own_gateway: GatewayProcess, how: str) -> None:
    """In a bucket as in a folder; a storage that is away is not taken for a missing file."""
    gateway = own_gateway.gateway
    settings = {
        "bucket": "checked",
        "endpoint": gateway.endpoint,
        "access_key_id": gateway.access_key_id,
        "secret_access_key": gateway.secret_access_key,
        "force_path_style": True,
    }
    named = {f"storage__{key}": value for key, value in settings.items()}
    async with start(**named, server__request_timeout=6) as server:
        await server.app[OBJECTS].put("70000.zip", Body(b"data"), META)
        there = await check(server, {"file_id": 70000})
        assert (there["available"], there["s3Key"], there["size"]) == (True, "70000.zip", 4)
        gone = await check(server, {"file_id": 70001})
        assert (gone["available"], gone["s3Key"], gone["size"]) == (False, None, None)
        listed = (await check(server, {"file_ids": [70001, 70000]}))["files"]
        assert [it.get("errorCode") for it in listed] == ["source_missing", None]
        if how == "killed":
            own_gateway.kill()
        else:
            own_gateway.pause()
        answer = await check(server, {"file_id": 70000}, 503)
        assert answer["code"] == "storage_unavailable"
        own_gateway.resume()


async def test_the_list_of_one_is_no_such_question(start: Start) -> None:
    """Only an id alone is answered in the short form."""
    async with start() as server:
        answer = await check(server, {"file_id": 70000, "options": {"manifest": True}})
        assert answer["totalFiles"] == 1
        assert answer["files"][0]["url"] == "storage:///70000.zip"


# --- a list -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"head": 405},
        {"head": 403},
        {"head": 501},
        {"head": 400},
        {"head": 404},
        {"head": "close"},
        {"head": "hang"},
        {"head": "nolength"},
        {"head": "zero"},
        {"head": 405, "norange": 1},
        {"redirect": 3},
        {"redirect": 3, "head": 405},
    ],
    ids=lambda query: "-".join(f"{key}={value}" for key, value in query.items()) or "plain",
)
async def test_what_is_there(server: Server, origin: Origin, query: dict[str, Any]) -> None:
    """A file is found with its size and type, whatever its server thinks of HEAD."""
    found = await one(server, origin.url(size=50 * MIB, **query), headers={"X-Mine": "yes"})
    assert found.pop("url").startswith(f"http://127.0.0.1:{origin.port}/file/1/{50 * MIB}")
    assert found == {
        "fileId": "1",
        "reachable": True,
        "size": 50 * MIB,
        "blocked": False,
        "name": str(50 * MIB),
        "contentType": "image/png",
    }
    assert all(request.headers["x-mine"] == "yes" for request in origin.requests)
    # What was in the sockets when the connection was closed.
    assert sum(origin.sent.values()) < 8 * MIB


async def test_sizes_that_nobody_says(server: Server, origin: Origin) -> None:
    """A file without a length is there, and the total is not known; an empty one has a size."""
    urls = [origin.url(seed=2, chunked=1, norange=1), origin.url(size=0), origin.url(seed=3)]
    answer = await check(server, {"source_urls": urls})
    assert [file["size"] for file in answer["files"]] == [None, 0, 1000]
    assert all(file["reachable"] for file in answer["files"])
    assert answer["totalSize"] is None
    assert answer["totalFiles"] == 3
    assert (await check(server, {"source_urls": urls[1:]}))["totalSize"] == 1000


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "source_refused"),
        (403, "source_refused"),
        (404, "source_refused"),
        (410, "source_refused"),
        (429, "source_unavailable"),
        (500, "source_unavailable"),
    ],
)
async def test_what_is_not_there(server: Server, origin: Origin, status: int, code: str) -> None:
    """A refusal is told as the job would tell it."""
    found = await one(server, origin.url(status=status, signature="secret"))
    assert (found["reachable"], found["size"], found["errorCode"]) == (False, None, code)
    assert str(status) in found["error"]
    assert "secret" not in str(found)
    assert not found["blocked"]


async def test_nobody_listens(server: Server) -> None:
    """A host that cannot be reached is told as such."""
    found = await one(server, f"http://127.0.0.1:{free_port()}/a")
    assert (found["reachable"], found["errorCode"]) == (False, "source_unreachable")


async def test_redirects_pass_the_guard(server: Server, origin: Origin) -> None:
    """A redirect to an address that is closed is blocked, by HEAD and by GET."""
    for head in ({}, {"head": 405}):
        url = origin.url(to="http://10.0.0.1/secret", **head)
        found = await one(server, url)
        assert (found["reachable"], found["blocked"]) == (False, True)
        assert found["errorCode"] == "address_blocked"
        assert "10.0.0.1" not in found["error"]


async def test_names_are_those_of_the_archive(server: Server, origin: Origin) -> None:
    """Names are given, sent, or of the URL, and unique, as in the archive itself."""
    sent = origin.url(seed=2, disposition='attachment; filename="a.pdf"')
    files = [
        {"url": origin.url(seed=1), "name": "in/b.pdf"},
        {"url": sent},
        {"url": f"{sent}&x=1"},
        {"url": origin.url(seed=3)},
        {"url": origin.url(seed=4), "name": "manifest.json"},
    ]
    answer = await check(server, {"files": files})
    names = [file["name"] for file in answer["files"]]
    made = await server.initiate({"files": files})
    job = await server.ended(made["jobId"])
    assert sorted(names) == sorted(file["name"] for file in job["files"])
    assert names == ["in/b.pdf", "a.pdf", "a (2).pdf", "1000 (3)", "manifest (2).json"]


async def test_what_a_job_would_not_take(start: Start, origin: Origin) -> None:
    """A size other than the one given, and one above the limit, are said beforehand."""
    async with start(jobs__max_file_bytes=2000) as server:
        wrong = await one(server, origin.url(), size=999)
        assert (wrong["reachable"], wrong["errorCode"]) == (True, "size_mismatch")
        large = await one(server, origin.url(size=2001))
        assert (large["reachable"], large["errorCode"]) == (True, "file_too_large")


async def test_it_leaves_nothing(server: Server, origin: Origin) -> None:
    """No job is made, no file fetched, nothing written."""
    await check(server, {"source_urls": [origin.url()], "options": {"dedupe": False}})
    assert await server.redis_keys() == []
    assert server.app[POOL].active == 0
    assert [request.method for request in origin.requests] == ["HEAD"]


async def test_an_estimate_when_something_was_measured(server: Server, origin: Origin) -> None:
    """The time is null until the first job, and whole seconds after it."""
    body = {"source_urls": [origin.url(rate=100_000, size=60_000)]}
    assert (await check(server, body))["estimatedTime"] is None
    job = await server.ended((await server.initiate(body))["jobId"])
    assert job["status"] == "completed"
    async with asyncio.timeout(20):
        while (seconds := (await check(server, body))["estimatedTime"]) is None:
            await asyncio.sleep(0.2)
    assert isinstance(seconds, int)
    assert seconds >= 1


async def test_rules_are_those_of_initiate(start: Start) -> None:
    """Each broken rule answers 400 with the field named."""
    async with start(jobs__max_files=5) as server:
        for body, field in BROKEN:
            answer = await check(server, body, 400)
            assert list(answer["details"]) == [field], body
        for bad in ("http://10.0.0.1/a", "storage:///70000.zip"):
            answer = await check(server, {"source_urls": [bad]}, 400)
            assert list(answer["details"]) == ["source_urls.0"]
        async with server.client.get(PATH) as response:
            assert (response.status, response.headers["Allow"]) == (405, "OPTIONS, POST")


# --- bounds --------------------------------------------------------------------------


async def test_it_ends_in_time(start: Start, origin: Origin) -> None:
    """Of 1,000 files those that answer are known, the others are not, and it ends in time."""
    async with Origin() as stuck, start(server__request_timeout=9) as server:
        urls = [stuck.url(seed=seed, delay=600) for seed in range(500)]
        urls += [origin.url(seed=seed) for seed in range(500)]
        begun = time.monotonic()
        answer = await check(server, {"source_urls": urls})
        assert time.monotonic() - begun < 9
    hung, well = answer["files"][:500], answer["files"][500:]
    assert {(it["reachable"], it["errorCode"]) for it in hung} == {(None, "timeout")}
    assert sum(it["reachable"] is True for it in well) > 100
    assert answer["totalSize"] is None
    assert answer["totalFiles"] == 1000
    assert stuck.connections <= 30


async def test_all_requests_share_the_bounds(start: Start, origin: Origin) -> None:
    """Many checks at once open no more connections to a host than one."""
    async with start(fetch__per_host=3) as server:
        urls = [origin.url(seed=seed, delay=0.02) for seed in range(8)]
        answers = await asyncio.gather(*(check(server, {"source_urls": urls}) for _ in range(50)))
        assert origin.connections <= 3
    assert all(it["reachable"] for answer in answers for it in answer["files"])
