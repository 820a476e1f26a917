"""One job, several views: how each is asked for, and what is refused."""

from __future__ import annotations

import asyncio
import json
import uuid
from functools import partial
from typing import Any

import aiohttp
import pytest

from downloadd.app import POOL, begin_drain
from downloadd.web import keys
from tests.e2e.service import eventually
from tests.integration.web.conftest import Server, Start, read_events
from tests.integration.web.test_sse import until
from tests.origin import Origin

URL = "https://files.example/a.pdf"
SINGLE = {"file_id": 70000, "source_urls": [URL]}
SEVERAL = {"file_ids": [70000], "source_urls": [URL]}

READS = [
    "/v1/export/{}",
    "/v1/export/{}/progress",
    "/v1/export/{}/download",
    "/v1/download/job/{}",
    "/v1/download/job/{}/download-url",
]
RETRY = "/v1/download/job/{}/retry"


async def answer(server: Server, method: str, path: str, **how: Any) -> tuple[int, Any]:
    async with server.client.request(method, path, **how) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("path", [*READS, RETRY])
async def test_ids_that_are_none_or_nobodys(server: Server, path: str) -> None:
    """A malformed id is a 400 at every address, an unknown one a 404."""
    method = "POST" if path == RETRY else "GET"
    assert (await answer(server, method, path.format("1")))[0] == 400
    status, told = await answer(server, method, path.format(uuid.uuid4()))
    assert (status, told["code"]) == (404, "job_not_found")


async def test_a_state_that_does_not_allow_it(server: Server) -> None:
    """Without an archive the links are 409, and so is the retry of a job that goes on."""
    await server.app[POOL].drain(0)
    job_id = (await server.initiate(SEVERAL))["jobId"]
    for method, path in (("GET", READS[2]), ("GET", READS[4]), ("POST", RETRY)):
        status, told = await answer(server, method, path.format(job_id))
        assert (status, told["code"]) == (409, "job_state_conflict")


async def expired(server: Server, job_id: str) -> bool:
    return bool((await server.status(job_id))["status"] == "expired")


async def test_an_archive_that_is_gone(start: Start, origin: Origin) -> None:
    """When its time is over, the links are 410 and the manager is told so."""
    async with start(storage__archive_ttl=1) as server:
        job_id = (await server.initiate({"source_urls": [origin.url()]}))["jobId"]
        await eventually(partial(expired, server, job_id), what="the archive's time is over")
        for path in (READS[2], READS[4]):
            assert (await answer(server, "GET", path.format(job_id)))[0] == 410
        assert (await answer(server, "GET", READS[3].format(job_id)))[1]["status"] == "expired"


async def test_forms_are_no_duplicates_of_each_other(server: Server) -> None:
    """One body asked for in two forms makes two jobs; in the same form, one."""
    await server.app[POOL].drain(0)
    made = [
        (await answer(server, "POST", path, json=SEVERAL))[1]["jobId"]
        for path in ("/v1/download/initiate", "/v1/export") * 2
    ]
    assert made[:2] == made[2:]
    assert len(set(made)) == 2
    key = {"Idempotency-Key": "k"}
    assert (await answer(server, "POST", "/v1/export", json=SEVERAL, headers=key))[0] == 200
    status, told = await answer(server, "POST", "/v1/download/initiate", json=SEVERAL, headers=key)
    assert (status, told["code"]) == (422, "idempotency_conflict")


async def test_a_single_file_is_one_job(server: Server) -> None:
    """The same file asked for twice is the same job, in snake_case both times."""
    await server.app[POOL].drain(0)
    first, second = [await server.initiate(SINGLE) for _ in range(2)]
    assert first["job_id"] == second["job_id"]
    assert (first["file_id"], second["file_id"]) == (70000, 70000)


async def test_locations(server: Server) -> None:
    """A new job is to be looked for in the form in which it was asked for."""
    await server.app[POOL].drain(0)
    for path, place in (
        ("/v1/export", "/v1/export/{}"),
        ("/v1/download/initiate", "/v1/download/status/{}"),
    ):
        async with server.client.post(path, json=SEVERAL) as response:
            job_id = (await response.json())["jobId"]
            assert response.headers["Location"] == place.format(job_id)


async def test_the_case_can_be_asked_for(server: Server) -> None:
    """``case`` wins over the job's form, both ways, and is nothing else than its two values."""
    await server.app[POOL].drain(0)
    path = "/v1/download/initiate"
    assert "jobId" in (await answer(server, "POST", f"{path}?case=camel", json=SINGLE))[1]
    told = (await answer(server, "POST", f"{path}?case=snake", json=SEVERAL))[1]
    status = f"/v1/download/status/{told['job_id']}"
    assert "jobId" in (await answer(server, "GET", status))[1]
    snake = (await answer(server, "GET", f"{status}?case=snake&files=true"))[1]
    assert snake["files"][0]["original_url"] == URL
    assert not [name for name in snake if name != name.lower()]
    refused = await answer(server, "GET", f"{status}?case=kebab")
    assert (refused[0], list(refused[1]["details"])) == (400, ["case"])


async def test_events_in_snake_case(server: Server) -> None:
    """Events are camelCase whatever the job's form, unless snake_case is asked for."""
    await server.app[POOL].drain(0)
    job_id = (await server.initiate(SINGLE))["job_id"]
    path = f"/v1/download/subscribe/{job_id}"
    for query, name in (("", "jobId"), ("?case=snake", "job_id"), ("?case=camel", "jobId")):
        async with server.client.get(path + query) as response:
            assert name in (await anext(read_events(response))).data
    assert (await answer(server, "GET", f"{path}?case=x"))[0] == 400


PLAIN = {"Content-Type": "text/plain;charset=UTF-8"}


@pytest.mark.parametrize(
    ("origins", "given", "status"),
    [
        (["https://app.example"], None, 200),
        (["https://app.example"], "own", 200),
        (["https://app.example"], "https://app.example", 200),
        (["https://app.example"], "https://evil.example", 415),
        (["https://app.example"], "https://app.example.evil.example", 415),
        (["https://app.example"], "null", 415),
        (["*"], "https://anybody.example", 200),
    ],
    ids=["no-page", "own", "listed", "foreign", "lookalike", "null", "everybody"],
)
async def test_plain_text_from_pages(
    start: Start, origins: list[str], given: str | None, status: int
) -> None:
    """An export as plain text, which browsers send without asking, is taken from friends alone."""
    async with start(server__cors_origins=origins) as server:
        await server.app[POOL].drain(0)
        headers = dict(PLAIN)
        if given is not None:
            headers["Origin"] = server.url if given == "own" else given
        data = json.dumps(SEVERAL)
        got = await answer(server, "POST", "/v1/export", data=data, headers=headers)
        assert got[0] == status, got
        if status == 415:
            assert await server.redis_keys() == []


async def test_plain_text_is_for_the_export_alone(server: Server) -> None:
    """Other calls take JSON by its name and nothing else."""
    for path in ("/v1/download/initiate", "/v1/download/start"):
        assert (await answer(server, "POST", path, data="{}", headers=PLAIN))[0] == 415


async def test_start_needs_a_single_file(server: Server) -> None:
    """Another form of the body is a 400 that names the field, and makes no job."""
    status, told = await answer(server, "POST", "/v1/download/start", json=SEVERAL)
    assert (status, list(told["details"])) == (400, ["file_id"])
    assert await server.redis_keys() == []


async def test_start_gives_up_in_time(start: Start) -> None:
    """A job that takes longer is a 202 that says where to ask and when, in its own form."""
    async with start(server__request_timeout=1.2) as server:
        await server.app[POOL].drain(0)
        async with server.client.post("/v1/download/start", json=SINGLE) as response:
            told = await response.json()
            assert response.status == 202
            assert response.headers["Location"] == f"/v1/download/status/{told['job_id']}"
            assert int(response.headers["Retry-After"]) >= 1
        assert told["status"] == "queued"


async def test_start_ends_early_when_the_server_does(server: Server) -> None:
    """Who waits during a stop is told at once where its job is."""
    await server.app[POOL].drain(0)
    waiting = asyncio.create_task(answer(server, "POST", "/v1/download/start", json=SINGLE))
    await until(lambda: len(server.app[keys.STREAMS]) == 1)
    begin_drain(server.app)
    async with asyncio.timeout(5):
        assert (await waiting)[0] == 202


async def test_start_without_its_client(server: Server, origin: Origin) -> None:
    """A client that goes away leaves nobody waiting, and the job to go on."""
    body = {"file_id": 70000, "source_urls": [origin.url(size=500, delay=2)]}
    waiting = asyncio.create_task(answer(server, "POST", "/v1/download/start", json=body))
    await until(lambda: len(server.app[keys.STREAMS]) == 1)
    waiting.cancel()
    await until(lambda: len(server.app[keys.STREAMS]) == 0)
    again = await server.initiate(body)
    assert (await server.ended(again["job_id"]))["status"] == "completed"


async def test_start_of_a_cancelled_job(server: Server) -> None:
    """What gave no archive has failed, and the message says how."""
    await server.app[POOL].drain(0)
    waiting = asyncio.create_task(answer(server, "POST", "/v1/download/start", json=SINGLE))
    await until(lambda: len(server.app[keys.STREAMS]) == 1)
    job_id = (await server.initiate(SINGLE))["job_id"]
    assert (await answer(server, "DELETE", f"/v1/download/{job_id}"))[0] == 200
    status, told = await waiting
    assert (status, told["status"], told["downloadUrl"]) == (200, "failed", None)
    assert "cancelled" in told["message"]


async def test_start_tells_the_trace(server: Server, origin: Origin) -> None:
    """It is the one of the request where that has one."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    body = {"file_id": 70000, "source_urls": [origin.url(size=500)]}
    told = await answer(server, "POST", "/v1/download/start", json=body, headers=headers)
    assert told[1]["traceId"] == trace


async def test_an_answer_that_takes_too_long(start: Start) -> None:
    """A request is answered within its time, with 503 and when to come again."""
    async with (
        start(server__request_timeout=0.5) as server,
        server.client.post(
            "/v1/download/initiate",
            data=aiohttp.AsyncIterablePayload(_slowly()),
            headers={"Content-Type": "application/json"},
        ) as response,
    ):
        assert (response.status, (await response.json())["code"]) == (503, "answer_timeout")
        assert int(response.headers["Retry-After"]) >= 1


async def _slowly() -> Any:
    yield b"{"
    await asyncio.sleep(1.5)
    yield b"}"


async def test_streams_outlast_a_requests_time(start: Start) -> None:
    """An event stream goes on when an answer would have had to end."""
    async with start(server__request_timeout=0.5) as server:
        await server.app[POOL].drain(0)
        job_id = (await server.initiate(SEVERAL))["jobId"]
        async with server.client.get(f"/v1/download/subscribe/{job_id}") as response:
            events = read_events(response)
            await anext(events)
            await asyncio.sleep(0.8)
            assert (await answer(server, "DELETE", f"/v1/download/{job_id}"))[0] == 200
            assert (await anext(events)).type == "cancelled"
