"""The caller's jobs: paged, filtered, newest first."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from typing import Any

import pytest
import redis.asyncio

from downloadd.app import POOL, STATE
from downloadd.model import FileEntry, Job, JobStatus, Source
from downloadd.state import codec
from tests.integration.web.conftest import Server
from tests.origin import Origin
from tests.valkey import Valkey

SOURCE = "https://files.example/a.pdf"
MANY = 10_000


async def listed(server: Server, **query: object) -> dict[str, Any]:
    params = {name: str(value) for name, value in query.items()}
    async with server.client.get("/v1/download/jobs", params=params) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [job["jobId"] for job in answer["jobs"]]


async def queued(server: Server, count: int) -> list[str]:
    """Make jobs that nobody works on; the newest first."""
    await server.app[POOL].drain(0)
    body = {"source_urls": [SOURCE], "options": {"dedupe": False}}
    made = [(await server.initiate(body))["jobId"] for _ in range(count)]
    return made[::-1]


async def store_many(server: Server, valkey: Valkey, *, user: str = "anonymous") -> list[str]:
    """Write 10,000 jobs as they are stored, every fourth failed; the newest first."""
    keys = server.app[STATE].keys
    made = []
    async with redis.asyncio.from_url(valkey.url) as client, client.pipeline() as pipe:
        for number in range(MANY):
            job = Job(
                id=str(uuid.uuid4()),
                user=user,
                files=(FileEntry(index=0, source=Source(url=SOURCE)),),
                total_files=1,
                status=JobStatus.QUEUED if number % 4 else JobStatus.FAILED,
                created_at=1e9 + number,
                updated_at=1e9 + number,
            )
            fields = codec.encode_new(job)
            pipe.hset(keys.job(job.id), mapping=dict(zip(fields[::2], fields[1::2], strict=True)))
            pipe.zadd(keys.user_jobs(user), {job.id: job.created_at})
            made.append(job.id)
        await pipe.execute()
    return made[::-1]


async def test_newest_first_in_pages(server: Server) -> None:
    """Pages follow one another without a gap; the total counts all."""
    made = await queued(server, 5)
    pages = [await listed(server, limit=2, page=page) for page in (1, 2, 3, 4)]
    assert [ids(page) for page in pages] == [made[:2], made[2:4], made[4:], []]
    assert {page["total"] for page in pages} == {5}
    assert (pages[1]["page"], pages[1]["limit"]) == (2, 2)
    assert pages[0]["jobs"][0]["queuePosition"] == 5


async def test_an_empty_list(server: Server) -> None:
    """Who has no jobs gets an empty page, not an error."""
    assert await listed(server) == {"jobs": [], "total": 0, "page": 1, "limit": 20}


async def test_by_status(server: Server, origin: Origin) -> None:
    """A status, or several, filter; links of completed jobs work."""
    done = await server.initiate({"source_urls": [origin.url(size=100)]})
    broken = await server.initiate({"source_urls": [origin.url(status=404)]})
    for job in (done, broken):
        await server.ended(job["jobId"])
    assert ids(await listed(server, status="failed")) == [broken["jobId"]]
    assert ids(await listed(server, status="completed,failed")) == [
        broken["jobId"],
        done["jobId"],
    ]
    assert (await listed(server, status="queued"))["total"] == 0
    (job,) = (await listed(server, status="completed"))["jobs"]
    async with server.client.get(job["downloadUrl"]) as archive:
        assert len(await archive.read()) == job["totalSize"]
    assert "files" not in job


async def test_what_redis_has_forgotten_is_not_listed(server: Server) -> None:
    """A job whose time is over is neither shown nor counted."""
    made = await queued(server, 3)
    state = server.app[STATE]
    await state.client.execute("DEL", state.keys.job(made[1]))
    answer = await listed(server)
    assert (ids(answer), answer["total"]) == ([made[0], made[2]], 2)
    assert await state.client.execute("ZCARD", state.keys.user_jobs("anonymous")) == 2


async def test_an_archive_past_its_time_is_expired(server: Server, origin: Origin) -> None:
    """Before the sweep has been, a job counts as what its own status says."""
    job = await server.initiate({"source_urls": [origin.url(size=100)]})
    await server.ended(job["jobId"])
    state = server.app[STATE]
    await state.client.execute("HSET", state.keys.job(job["jobId"]), "completed_at", "1000")
    assert (await listed(server, status="completed"))["total"] == 0
    (expired,) = (await listed(server, status="expired"))["jobs"]
    assert expired["status"] == "expired"
    assert "downloadUrl" not in expired


async def test_only_ones_own(server: Server, valkey: Valkey) -> None:
    """Other users' jobs are not there."""
    await store_many(server, valkey, user="somebody")
    assert (await listed(server))["total"] == 0


async def test_each_in_its_own_case(server: Server) -> None:
    """A job of one file is listed as it answers elsewhere; ?case= writes all alike."""
    await queued(server, 1)
    await server.initiate({"file_id": 70000, "source_urls": [SOURCE]})
    assert ["job_id" in job for job in (await listed(server))["jobs"]] == [True, False]
    assert all("job_id" in job for job in (await listed(server, case="snake"))["jobs"])
    assert all("jobId" in job for job in (await listed(server, case="camel"))["jobs"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "x"),
        ("limit", "-1"),
        ("limit", "1.0"),
        ("limit", ""),
        ("page", "0"),
        ("page", "1000001"),
        ("page", "٣"),
        ("status", "done"),
        ("status", "failed;queued"),
        ("case", "kebab"),
    ],
)
async def test_wrong_questions(server: Server, name: str, value: str) -> None:
    """What makes no sense is refused by name."""
    async with server.client.get("/v1/download/jobs", params={name: value}) as response:
        answer = await response.json()
    assert (response.status, list(answer["details"])) == (400, [name])


async def test_ten_thousand_jobs(server: Server, valkey: Valkey) -> None:
    """The list of 10,000 jobs is right, and quick (50 ms is the goal, and shown)."""
    made = await store_many(server, valkey)
    seconds = []

    async def timed(**query: object) -> dict[str, Any]:
        began = time.perf_counter()
        answer = await listed(server, **query)
        seconds.append(time.perf_counter() - began)
        return answer

    for page in (1, 2, 250, 500, 501):
        answer = await timed(page=page)
        assert (ids(answer), answer["total"]) == (made[20 * (page - 1) : 20 * page], MANY)
    answer = await timed(status="failed", limit=100, page=25)
    assert (ids(answer), answer["total"]) == (made[3::4][2400:2500], MANY / 4)
    assert (await timed(status="completed"))["total"] == 0
    together = await asyncio.gather(*(timed(limit=100) for _ in range(8)))
    assert all(ids(answer) == made[:100] for answer in together)
    print(f"a page of 10,000 jobs: {1000 * statistics.median(seconds[:7]):.1f} ms in the median")
    assert statistics.median(seconds[:7]) < 0.5
