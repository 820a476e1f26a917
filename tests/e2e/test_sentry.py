"""Errors of a running server, as its operators are told of them by Sentry."""

from __future__ import annotations

import json
from pathlib import Path

from tests.collector import SentryProject
from tests.e2e.archives import want
from tests.e2e.service import Service
from tests.origin import Origin

HIDDEN = "hunter2"


async def test_errors_carry_their_ids_and_no_secret(folder: Path, origin: Origin) -> None:
    """A request and a job that fail for a fault of ours are told, with what finds their lines."""
    async with SentryProject() as sentry:
        environ = {"SENTRY_DSN": sentry.dsn, "DOWNLOADD_JOBS_CONCURRENCY": "1"}
        async with Service(folder / "data", environ) as server:
            slow = want(origin, 2, 400_000, rate=20_000)
            first = await server.initiate({"source_urls": [slow.url]})
            url = f"{want(origin, 1, 5_000).url}&X-Amz-Signature={HIDDEN}"
            job = await server.initiate({"source_urls": [url]})
            with server.valkey() as valkey:
                # As another version, or somebody's hand, might have left it.
                valkey.hset(f"{{downloadd}}:job:{job}", "options", f'{{"token": "{HIDDEN}"')
            headers = {"X-Request-ID": "find-me", "Authorization": f"Bearer {HIDDEN}"}
            path = f"/v1/download/status/{job}?token={HIDDEN}"
            async with server.client.get(path, headers=headers) as answer:
                said = await answer.json()
                assert (answer.status, said["code"]) == (500, "internal_error"), said
            await sentry.until(lambda: len(sentry.events) == 1)
            assert await server.cancel(first) == 200
            await sentry.until(lambda: len(sentry.events) == 2)
            assert await server.stop() == 0
    request, work = sentry.events
    lines = [json.loads(it) for it in server.log.read_text().splitlines() if it[:1] == "{"]
    (line,) = [it for it in lines if it["message"] == "http.failed"]
    assert request["tags"] == {
        "requestId": "find-me",
        "jobId": job,
        "traceId": line["traceId"],
    }
    assert request["contexts"]["trace"]["trace_id"] == line["traceId"]
    assert request["exception"]["values"][-1]["type"] == "JSONDecodeError"
    assert work["tags"]["jobId"] == job
    assert work["logentry"]["message"] == "job.unreadable"
    assert not any(HIDDEN.encode() in body for body in sentry.bodies)
