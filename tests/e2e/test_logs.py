"""What a server's log tells of requests and jobs: one line each, found by their ids."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.e2e.archives import want
from tests.e2e.service import Service, eventually
from tests.origin import Origin


async def test_one_line_a_change(folder: Path, origin: Origin) -> None:
    """Each request and each move of a job is a line that has the ids SPEC §10 names."""
    environ = {"DOWNLOADD_STORAGE_ARCHIVE_TTL": "1", "DOWNLOADD_JOBS_CONCURRENCY": "1"}
    async with Service(folder / "data", environ) as server:
        done = await server.initiate({"source_urls": [want(origin, 1, 5_000).url]})
        assert (await server.ended(done))["status"] == "completed"
        missing = want(origin, 2, 5_000, status=404, times=1)
        failed = await server.initiate({"source_urls": [missing.url]})
        assert (await server.ended(failed))["status"] == "failed"
        async with server.client.post(f"/v1/download/{failed}/retry") as answer:
            assert answer.status == 200
        assert (await server.ended(failed))["status"] == "completed"
        slow = want(origin, 3, 400_000, rate=20_000)
        running = await server.initiate({"source_urls": [slow.url]})
        waiting = await server.initiate({"source_urls": [want(origin, 4, 5_000).url]})
        await eventually(lambda: running in told(server, "job.started"))
        for job in (waiting, running):
            assert await server.cancel(job) == 200
        assert await server.stop() == 0
        await server.start()  # when it looks for what is due
        await eventually(lambda: {done, failed} <= told(server, "job.expired"))
        async with server.client.get(f"/v1/download/status/{done}?token=x") as answer:
            assert answer.headers["X-Request-ID"]
        assert await server.stop() == 0
    lines = read(server)
    moves = Counter((it["message"], it["jobId"]) for it in lines if it["message"] in MOVES)
    assert moves == {
        **{("job.queued", job): 1 for job in (done, failed, running, waiting)},
        **{("job.started", job): 1 for job in (done, running)},
        ("job.started", failed): 2,
        ("job.failed", failed): 1,
        ("job.retried", failed): 1,
        **{("job.completed", job): 1 for job in (done, failed)},
        **{("job.cancelled", job): 1 for job in (running, waiting)},
        **{("job.expired", job): 1 for job in (done, failed)},
    }
    for line in lines:
        assert line["service"] == "downloadd"
        if line["message"] in MOVES - {"job.expired"}:
            assert line["userId"] == "anonymous", line
            assert (len(line["traceId"]), len(line["spanId"])) == (32, 16), line
    requests = [it for it in lines if it["message"] == "http.request"]
    assert len({it["requestId"] for it in requests}) == len(requests)
    assert all(it["traceId"] and it["spanId"] for it in requests)
    assert {it["path"] for it in requests} == {
        "/v1/download/initiate",
        "/v1/download/status/{job_id}",
        "/v1/download/{job_id}",
        "/v1/download/{job_id}/retry",
    }
    made = [it["jobId"] for it in requests if it["path"] == "/v1/download/initiate"]
    assert made == [done, failed, running, waiting]
    # What fails for its source's sake is a warning; nothing here is an error of ours.
    assert {it["level"] for it in lines if it["message"] == "job.failed"} == {"warning"}
    assert {it["level"] for it in lines} == {"info", "warning"}


MOVES = frozenset(
    f"job.{it}"
    for it in ("queued", "started", "completed", "failed", "cancelled", "retried", "expired")
)


def read(server: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line]


def told(server: Service, message: str) -> set[str]:
    """The jobs of which this was told."""
    return {line["jobId"] for line in read(server) if line["message"] == message}
