"""The main job, end to end: URLs go in, one verified archive comes out, everybody can watch."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.archives import MIB, Wanted, assert_unzip_agrees, digests, want
from tests.e2e.service import Service, Storage, eventually
from tests.integration.web.conftest import Sent
from tests.origin import Origin
from tests.unit.web.test_schemas import BROKEN, URL

#: What the origin does to every tenth file, and how many requests the file then takes.
MISCHIEF: list[tuple[dict[str, Any], int]] = [
    ({}, 1),
    ({"kind": "text", "digest": "good"}, 1),
    ({"drop_after": 50_000, "times": 1}, 2),
    ({"drop_after": 60_000, "times": 2, "reset": 1}, 3),
    ({"status": 503, "times": 2}, 3),
    ({"nolength": 1}, 1),
    ({"chunked": 1}, 1),
    ({"redirect": 3}, 1),
    ({"delay": 0.2, "rate": 600_000}, 1),
    ({"drop_after": 70_000, "times": 1, "norange": 1}, 2),
]


def troubled(origin: Origin, count: int) -> list[Wanted]:
    """Honest files that are hard to get, together larger than a part."""
    return [
        want(origin, number % 20, 150_000 + number * 3000, **MISCHIEF[number % len(MISCHIEF)][0])
        for number in range(count)
    ]


def liar(origin: Origin) -> Wanted:
    return want(origin, 4711, 100_000, lie="longer")


def asked(files: list[Wanted], **options: Any) -> dict[str, Any]:
    return {
        "file_ids": list(range(70000, 70000 + len(files))),
        "source_urls": [file.url for file in files],
        "options": options,
    }


async def test_every_honest_file_arrives(
    service: Callable[..., Service], storage: Storage, origin: Origin, folder: Path
) -> None:
    """From slow, dropping, failing, redirecting sources 100 files arrive byte for byte."""
    files = troubled(origin, 100)
    async with service() as server:
        job = await server.ended(await server.initiate(asked(files)))
        path = await server.archive(job, folder)
        await eventually(lambda: server.spool() == {})
    assert (job["progress"], job["filesCompleted"], job["filesFailed"]) == (100, 100, 0)
    assert job["partial"] is False
    found = digests(path)
    assert list(found) == [listed["name"] for listed in job["files"]]
    for number, (wanted, listed) in enumerate(zip(files, job["files"], strict=True)):
        assert listed["fileId"] == str(70000 + number)
        assert (listed["status"], listed["processed"]) == ("completed", True)
        assert listed["attempts"] == MISCHIEF[number % len(MISCHIEF)][1], listed
        assert listed["size"] == wanted.size
        assert listed["sha256"] == wanted.sha256 == found[listed["name"]]
    assert_unzip_agrees(path)
    assert await storage.objects() != []
    assert await storage.parts() == {}


async def test_a_lying_file_fails_its_job(
    service: Callable[..., Service], storage: Storage, origin: Origin
) -> None:
    """A body shorter than announced ends the job with its own code; not to be retried, all goes."""
    files = troubled(origin, 99)
    files.insert(50, liar(origin))
    async with service(jobs_retry_window=0) as server:
        job = await server.ended(await server.initiate(asked(files, onError="fail")))
        await eventually(lambda: server.spool() == {})  # after its end was told
    assert (job["status"], job["errorCode"]) == ("failed", "source_truncated")
    assert job["error"].startswith("File 70050: ")
    assert job["error"].endswith(".")
    assert job["files"][50]["errorCode"] == "source_truncated"
    assert "downloadUrl" not in job
    assert await storage.objects() == []
    assert await storage.parts() == {}


async def test_a_lying_file_is_skipped(
    service: Callable[..., Service], origin: Origin, folder: Path
) -> None:
    """With onError skip the others arrive, the job is partial, and the manifest says why."""
    files = troubled(origin, 99)
    files.insert(50, liar(origin))
    async with service() as server:
        job = await server.ended(await server.initiate(asked(files, onError="skip")))
        path = await server.archive(job, folder)
    assert (job["filesCompleted"], job["filesFailed"], job["partial"]) == (99, 1, True)
    found = digests(path)
    missing = job["files"][50]
    assert (missing["status"], missing["errorCode"]) == ("failed", "source_truncated")
    for wanted, listed in zip(files, job["files"], strict=True):
        if listed is not missing:
            assert listed["sha256"] == wanted.sha256 == found[listed["name"]]
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert len(found) == 99 + 1
    assert (manifest["filesCompleted"], manifest["filesFailed"]) == (99, 1)
    (told,) = [file for file in manifest["files"] if file["status"] == "failed"]
    assert told["fileId"] == 70050
    assert (told["errorCode"], told["error"]) == (missing["errorCode"], missing["error"])


async def test_parts_are_stored_while_files_arrive(
    service: Callable[..., Service], storage: Storage, origin: Origin, folder: Path
) -> None:
    """The storage has parts of the archive while one of its files is still being fetched."""
    slow = want(origin, 9, 900_000, rate=250_000)
    files = [slow, *(want(origin, seed, 12 * MIB) for seed in (1, 2, 3))]
    async with service() as server:
        job_id = await server.initiate(asked(files))

        async def stored() -> list[int]:
            return [number for parts in (await storage.parts()).values() for number in parts]

        parts = await eventually(stored, what="a part is stored")
        job = await server.status(job_id)
        assert parts
        assert (job["status"], job["stage"]) == ("processing", "fetching")
        assert job["files"][0]["status"] == "fetching"
        assert origin.sent[slow.path] < slow.size
        job = await server.ended(job_id)
        path = await server.archive(job, folder)
    assert list(digests(path).values()) == [file.sha256 for file in files]


async def test_a_thousand_tiny_files(
    service: Callable[..., Service], origin: Origin, folder: Path
) -> None:
    """The archive lists a thousand files in the order in which they were asked for."""
    files = [want(origin, number % 10, number) for number in range(1000)]
    body = {
        "files": [
            {"url": file.url, "name": f"{number % 7}/{number:04}.txt"}
            for number, file in enumerate(files)
        ]
    }
    async with service() as server:
        job = await server.ended(await server.initiate(body))
        path = await server.archive(job, folder)
    found = digests(path)
    assert list(found) == [file["name"] for file in body["files"]]
    assert list(found.values()) == [file.sha256 for file in files]
    assert_unzip_agrees(path)


# --- watching -------------------------------------------------------------------


async def test_events_are_few_and_tell_all(service: Callable[..., Service], origin: Origin) -> None:
    """A busy job tells of its progress at most four times a second, never back, and of its end."""
    # Each part that is stored is written down, six a second.
    files = [want(origin, n, 16 * MIB, rate=16 * MIB) for n in range(15)]
    async with service() as server:
        job_id = await server.initiate(asked(files))
        events = [event async for event in server.events(job_id)]
    kinds = [event.type for event in events]
    assert kinds[0] == "status"
    assert kinds[-1] == "complete"
    assert set(kinds[1:-1]) == {"progress"}
    told = [event.data["progress"] for event in events]
    assert told == sorted(told)
    assert told[-1] == 100
    # Valkey's own clock, in the ids, is not held up as this process may be.
    begun, *rest = [int(str(event.id).partition("-")[0]) for event in events[1:-1]]
    assert rest, "there was progress to tell of"
    assert len(rest) <= 4.2 * (rest[-1] - begun) / 1000 + 1


# --- bodies that are none ---------------------------------------------------------

RAW: list[tuple[bytes, str, int]] = [
    (b"", "application/json", 400),
    (b"{", "application/json", 400),
    (b"null", "application/json", 400),
    (b'{"source_urls": ["\xff"]}', "application/json", 400),
    (b"[" * 100_000, "application/json", 400),
    (b"{}", "text/plain", 415),
    (b'{"a": "' + b"x" * (10 * MIB) + b'"}', "application/json", 413),
]


async def test_bad_input_leaves_nothing(
    service: Callable[..., Service], storage: Storage, origin: Origin
) -> None:
    """After every kind of bad body: no key in Valkey, no file, no object, no upload, no request."""
    bodies = [(body, field) for body, field in BROKEN if "10.0.0.1" not in str(body)]
    bodies += [
        ({"source_urls": [url]}, "source_urls.0")
        for url in ("ftp://files.example/a", "http://10.0.0.1/a", "http://[::1]/a", "a", "http:///")
    ]
    bodies += [({"source_urls": [URL], "options": {"watermark": True}}, "options.watermark")]
    # A good source beside what is wrong: it must not be asked either.
    good = origin.url()
    bodies += [({"source_urls": [good, "http://10.0.0.1/a"]}, "source_urls.1")]
    async with service(jobs_max_files=5) as server:
        before = server.keys()
        for body, field in bodies:
            status, answer = await refused(server, json.dumps(body).encode(), "application/json")
            assert (status, list(answer["details"])) == (400, [field]), body
        for raw, content_type, expected in RAW:
            status, answer = await refused(server, raw, content_type)
            assert status == expected, raw[:20]
            assert answer["message"]
        assert server.keys() == before
        assert server.spool() == {}
    assert await storage.objects() == []
    assert await storage.parts() == {}
    assert origin.connections == 0


async def refused(server: Service, body: bytes, content_type: str) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": content_type}
    async with server.client.post(
        "/v1/download/initiate", data=io.BytesIO(body), headers=headers
    ) as response:
        return response.status, await response.json()


# --- cancelling -------------------------------------------------------------------


async def watch(server: Service, job_id: str) -> list[Sent]:
    return [event async for event in server.events(job_id)]


@pytest.mark.parametrize("moment", ["queued", "fetching", "uploading"])
async def test_cancelling_stops_everything(
    service: Callable[..., Service], storage: Storage, origin: Origin, moment: str
) -> None:
    """Soon after DELETE no connection, file or upload of the job's is left; watchers are told."""
    # Where nothing moves any more, nothing is written either that would be refused.
    silent = [want(origin, seed, 50 * MIB, stall_after=2 * MIB) for seed in (1, 2)]
    files = silent
    if moment == "uploading":
        files = [*silent, *(want(origin, seed, 12 * MIB, hangup=1) for seed in (3, 4))]
    async with service(jobs_concurrency=1) as server:
        other = None
        if moment == "queued":
            other = await server.initiate(asked([want(origin, 8, 1000, stall_after=10)]))
            await eventually(lambda: origin.open_connections == 1)
        job_id = await server.initiate(asked(files))
        watcher = asyncio.create_task(watch(server, job_id))
        if moment == "fetching":
            await eventually(lambda: origin.open_connections == 2)
            sent = [file.path for file in files]
            await eventually(lambda: all(origin.sent[path] == 2 * MIB for path in sent))
            await asyncio.sleep(0.6)
            assert server.spool(), "bytes are on disk"
        if moment == "uploading":
            await eventually(storage.parts, what="an upload is open")

        assert await server.cancel(job_id) == 200
        async with asyncio.timeout(3):
            events = await watcher
            await eventually(lambda: origin.open_connections == (other is not None))
            await eventually(lambda: server.spool() == {})
            while await storage.parts():
                await asyncio.sleep(0.02)
        assert (events[-1].type, events[-1].data["status"]) == ("cancelled", "cancelled")
        assert await server.cancel(job_id) == 409
        assert (await server.status(job_id))["status"] == "cancelled"
        if other is not None:
            assert origin.connections == 1, "a job that waited asks nobody"
            assert await server.cancel(other) == 200
        # The place is free again.
        again = await server.ended(await server.initiate(asked([want(origin, 7, 1000)])))
        assert again["status"] == "completed"
    assert await storage.objects() == [f"{again['jobId']}.zip"]


async def test_a_job_past_its_time_leaves_nothing(
    service: Callable[..., Service], storage: Storage, origin: Origin
) -> None:
    """A job that takes too long has failed with job_timeout; without a retry all it had goes."""
    files = [
        want(origin, 1, 50 * MIB, rate=MIB),
        *(want(origin, seed, 12 * MIB, hangup=1) for seed in (2, 3)),
    ]
    async with service(jobs_timeout=2, jobs_retry_window=0) as server:
        job_id = await server.initiate(asked(files))
        events = [event async for event in server.events(job_id)]
        job = await server.ended(job_id)
        assert (job["status"], job["errorCode"]) == ("failed", "job_timeout")
        assert "2 seconds" in job["error"]
        assert job["processingTimeMs"] < 5000
        assert (events[-1].type, events[-1].data["errorCode"]) == ("failed", "job_timeout")
        await eventually(lambda: server.spool() == {}, seconds=3)
        await eventually(lambda: origin.open_connections == 0, seconds=3)
    assert await storage.objects() == []
    assert await storage.parts() == {}
