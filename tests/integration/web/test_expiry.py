"""What callers see of an archive whose time is over."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from downloadd.app import STATE
from downloadd.model import JobStatus
from tests.e2e.service import eventually
from tests.origin import Origin

from .conftest import Server, Start


async def assert_expired(server: Server, job_id: str) -> None:
    job = await server.status(job_id)
    assert job["status"] == "expired"
    assert "downloadUrl" not in job
    async with server.client.get(f"/v1/download/status/{job_id}") as response:
        assert response.headers["X-Accel-Expires"] == "5"
    for path in (f"/v1/download/result/{job_id}", f"/v1/download/{job_id}"):
        async with server.client.get(path, allow_redirects=False) as response:
            assert (response.status, (await response.json())["code"]) == (410, "job_expired")
    path = f"/v1/download/{job_id}"
    for method, end in (("DELETE", ""), ("POST", "/retry")):
        async with server.client.request(method, f"{path}{end}") as response:
            assert response.status == 409
            assert "expired" in (await response.json())["message"]


async def test_an_archive_whose_time_is_over(start: Start, origin: Origin, tmp_path: Path) -> None:
    """Expired at once for callers; deleted by the sweeper of whichever process comes first."""
    settings = {"storage__archive_ttl": 1, "state__prefix": f"{{{uuid.uuid4().hex}}}:"}
    archives = tmp_path / "data" / "archives"
    async with start(**settings) as server:
        body = {"source_urls": [origin.url(size=3000)]}
        job_id = (await server.initiate(body))["jobId"]

        async def over() -> bool:
            return (await server.status(job_id))["status"] == "expired"

        await eventually(over)
        await assert_expired(server, job_id)
        async with server.client.get(f"/v1/download/subscribe/{job_id}") as response:
            told = await response.text()
        assert '"status":"expired"' in told.replace(" ", "")
    async with start(**settings) as server:
        jobs = server.app[STATE].jobs

        async def noted() -> bool:
            return (await jobs.load(job_id)).status is JobStatus.EXPIRED

        await eventually(noted)
        await assert_expired(server, job_id)
        assert [path for path in archives.iterdir() if path.suffix == ".zip"] == []
        # The body is free for a new job.
        assert (await server.initiate(body))["jobId"] != job_id


async def test_leftovers_are_swept_at_the_start(
    start: Start, origin: Origin, tmp_path: Path
) -> None:
    """An archive of no job goes soon after the start; an archive that is wanted stays."""
    settings = {"state__prefix": f"{{{uuid.uuid4().hex}}}:"}
    archives = tmp_path / "data" / "archives"
    async with start(**settings) as server:
        job = await server.initiate({"source_urls": [origin.url(size=3000)]})
        await server.ended(job["jobId"])
    orphan, stranger = archives / f"{uuid.uuid4()}.zip", archives / "holiday.zip"
    for path in (orphan, stranger):
        path.write_bytes(b"data")
    async with start(**settings):
        await eventually(lambda: not orphan.exists())
        await asyncio.sleep(0.2)
        assert stranger.exists()
        assert (archives / f"{job['jobId']}.zip").exists()
