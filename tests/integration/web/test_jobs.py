"""Looking jobs up, cancelling them, and getting at their archives."""

from __future__ import annotations

import hashlib
import io
import uuid
import zipfile
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from downloadd.app import POOL
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin, content
from tests.ports import free_port


async def test_status_has_an_etag(server: Server, origin: Origin) -> None:
    """An answer that has not changed is a 304; one that has is sent."""
    job = await server.initiate({"source_urls": [origin.url()]})
    await server.ended(job["jobId"])
    path = f"/v1/download/status/{job['jobId']}"
    async with server.client.get(path) as response:
        tag = response.headers["ETag"]
        body = await response.read()
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        async with server.client.get(path, headers={"If-None-Match": known}) as response:
            assert response.status == 304
            assert await response.read() == b""
            assert response.headers["ETag"] == tag
    async with server.client.get(path, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200
        assert await response.read() == body


async def test_what_a_proxy_may_keep(server: Server, origin: Origin) -> None:
    """A completed state for 5 s, in every form; no other, and nothing but the whole answer."""

    async def kept(path: str, **headers: str) -> tuple[int, str | None]:
        async with server.client.get(path, headers=headers) as response:
            await response.read()
            return response.status, response.headers.get("X-Accel-Expires")

    forms = ("/v1/download/status/{}", "/v1/export/{}", "/v1/download/job/{}")
    done = (await server.initiate({"source_urls": [origin.url()]}))["jobId"]
    waits = (await server.initiate({"source_urls": [origin.url(seed=2, delay=30)]}))["jobId"]
    fails = (await server.initiate({"source_urls": [origin.url(seed=3, status=404)]}))["jobId"]
    await server.ended(done)
    await server.ended(fails)
    for form in forms:
        assert await kept(form.format(done)) == (200, "5")
        assert await kept(form.format(done), **{"If-None-Match": "*"}) == (304, None)
        # Both can still become something else: by themselves, or by a retry.
        assert await kept(form.format(waits)) == (200, None)
        assert await kept(form.format(fails)) == (200, None)
    await server.client.delete(f"/v1/download/{waits}")
    assert await kept(forms[0].format(waits)) == (200, None)
    assert (await kept(f"/v1/download/result/{done}"))[1] is None
    assert (await kept(forms[0].format(uuid.uuid4())))[1] is None


async def test_files_are_listed_on_request_or_at_the_end(server: Server, origin: Origin) -> None:
    """A job under way lists its files with ?files=true alone, URLs without their secrets."""
    url = origin.url(delay=3) + "&token=secret"
    job = await server.initiate({"source_urls": [url]})
    assert "files" not in await server.status(job["jobId"])
    listed = (await server.status(job["jobId"], files="true"))["files"]
    assert [(file["fileId"], file["processed"]) for file in listed] == [("1", False)]
    assert "secret" not in listed[0]["originalUrl"]
    await server.client.delete(f"/v1/download/{job['jobId']}")
    assert len((await server.status(job["jobId"]))["files"]) == 1


@pytest.mark.parametrize(
    "job_id",
    ["1", "initiate2", "x" * 36, "%00", "7e192c11-e846-11f1-8a62-02fc00000001", "..%2f..%2fetc"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/download/status/{}"),
        ("GET", "/v1/download/subscribe/{}"),
        ("GET", "/v1/download/stream/{}"),
        ("GET", "/v1/download/result/{}"),
        ("GET", "/v1/download/{}"),
        ("DELETE", "/v1/download/{}"),
        ("DELETE", "/v1/download/cancel/{}"),
        ("POST", "/v1/download/{}/retry"),
        ("GET", "/v1/download/{}/deliveries"),
        ("POST", "/v1/download/{}/deliveries/replay"),
    ],
)
async def test_malformed_ids_are_400(
    redisless: Server, method: str, path: str, job_id: str
) -> None:
    """What cannot be a job's id is refused without asking Redis, which is not there."""
    target = URL(redisless.url + path.format(job_id), encoded=True)
    async with redisless.client.request(method, target) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (400, "validation_error")
    assert list(answer["details"]) == ["jobId"]


async def test_unknown_jobs_are_404(server: Server) -> None:
    """A well-formed id that is nobody's is a 404, whatever is asked of it."""
    unknown = uuid.uuid4()
    for method, path in (
        ("GET", f"/v1/download/status/{unknown}"),
        ("GET", f"/v1/download/subscribe/{unknown}"),
        ("GET", f"/v1/download/result/{unknown}"),
        ("GET", f"/v1/download/{unknown}"),
        ("DELETE", f"/v1/download/{unknown}"),
        ("POST", f"/v1/download/{unknown}/retry"),
        ("GET", f"/v1/download/{unknown}/deliveries"),
        ("POST", f"/v1/download/{unknown}/deliveries/replay"),
    ):
        async with server.client.request(method, path) as response:
            assert response.status == 404, path
            assert (await response.json())["code"] == "job_not_found"


async def test_without_redis_the_answer_is_503(redisless: Server) -> None:
    """While Redis is away, calls say so and when to come again, with no internals."""
    async with redisless.client.get(f"/v1/download/status/{uuid.uuid4()}") as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (503, "state_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert "redis://" not in str(answer)
    async with redisless.client.get("/health") as response:
        assert response.status == 503
        assert await response.json() == {
            "status": "unhealthy",
            "checks": {"storage": "ok", "redis": "error"},
        }
    async with redisless.client.get("/metrics") as response:
        assert "download_queue_depth NaN" in await response.text()


async def test_result_and_link(server: Server, origin: Origin) -> None:
    """A completed job gives a link whose bytes are the archive; both ways lead there."""
    job = await server.initiate(
        {"files": [{"url": origin.url(seed=7, size=3000), "name": "ä/one.bin"}]}
    )
    await server.ended(job["jobId"])
    async with server.client.get(f"/v1/download/result/{job['jobId']}") as response:
        result = await response.json()
    assert response.status == 200
    assert set(result) == {"jobId", "downloadUrl", "expiresAt", "fileSize", "fileName", "sha256"}
    async with server.client.get(f"/v1/download/{job['jobId']}", allow_redirects=False) as hop:
        assert hop.status == 302
        assert await hop.read() == b""
    for url in (result["downloadUrl"], hop.headers["Location"]):
        async with server.client.get(URL(url, encoded=True)) as response:
            body = await response.read()
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/zip"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Disposition"].startswith("attachment;")
        assert len(body) == result["fileSize"]
        assert hashlib.sha256(body).hexdigest() == result["sha256"]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.read("ä/one.bin") == content(7, 3000)


async def test_forged_and_outdated_links_are_403(start: Start, origin: Origin) -> None:
    """A link that was changed or is past its time opens nothing; the job gives a fresh one."""
    async with start(storage__presign_ttl=1) as server:
        job = await server.initiate({"source_urls": [origin.url(size=3000)]})
        done = await server.ended(job["jobId"])
        link = URL(done["downloadUrl"], encoded=True)
        forged = [
            link.update_query(expires=int(link.query["expires"]) + 1000),
            link.update_query(name="other.zip"),
            link.update_query(signature="x"),
            link.without_query_params("signature"),
            link.with_path(f"/v1/files/{uuid.uuid4()}.zip", keep_query=True),
            URL(f"{server.url}/v1/files/..%2f..%2flinks.key", encoded=True),
            link.update_query(expires=1),
        ]
        for url in forged:
            async with server.client.get(url) as response:
                assert response.status == 403, url
                assert (await response.json())["code"] == "link_invalid"
        fresh = [(await server.status(job["jobId"]))["downloadUrl"] for _ in range(2)]
        async with server.client.get(URL(fresh[1], encoded=True)) as response:
            assert response.status == 200


async def test_no_archive_yet_is_409(server: Server, origin: Origin) -> None:
    """Until a job is completed, its result is a 409 whose sentence says the status."""
    slow = await server.initiate({"source_urls": [origin.url(delay=20)]})
    broken = await server.initiate({"source_urls": [origin.url(status=404)]})
    assert (await server.ended(broken["jobId"]))["status"] == "failed"
    for job, word in ((slow, ("queued", "processing")), (broken, ("failed",))):
        for path in (f"/v1/download/result/{job['jobId']}", f"/v1/download/{job['jobId']}"):
            async with server.client.get(path, allow_redirects=False) as response:
                answer = await response.json()
            assert (response.status, answer["code"]) == (409, "job_state_conflict")
            assert any(status in answer["message"] for status in word)


@pytest.mark.parametrize("path", ["/v1/download/{}", "/v1/download/cancel/{}"])
async def test_cancel(server: Server, origin: Origin, path: str) -> None:
    """A job under way is cancelled at once; one that has ended cannot be."""
    job = await server.initiate({"source_urls": [origin.url(delay=20)]})
    target = path.format(job["jobId"])
    async with server.client.delete(target) as response:
        answer = await response.json()
    assert (response.status, answer["status"]) == (200, "cancelled")
    async with server.client.delete(target) as response:
        assert response.status == 409
        assert "cancelled" in (await response.json())["message"]
    async with server.client.get(f"/v1/download/result/{job['jobId']}") as response:
        assert response.status == 409


async def test_retry(server: Server, origin: Origin) -> None:
    """A failed job is queued again under its id, and completes; then there is nothing to retry."""
    job = await server.initiate({"source_urls": [origin.url(status=404, times=1)]})
    target = f"/v1/download/{job['jobId']}/retry"
    assert (await server.ended(job["jobId"]))["status"] == "failed"
    async with server.client.post(target) as response:
        answer = await response.json()
        assert response.status == 200, answer
        assert response.headers["Location"] == f"/v1/download/status/{job['jobId']}"
    assert (answer["jobId"], answer["status"]) == (job["jobId"], "queued")
    assert not {"error", "errorCode", "completedAt"} & set(answer)
    done = await server.ended(job["jobId"])
    assert (done["status"], done["attempts"]) == ("completed", 2)
    async with server.client.post(target) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (409, "job_state_conflict")
    assert "completed" in answer["message"]


async def test_a_retry_takes_its_place_in_the_queue(start: Start, origin: Origin) -> None:
    """It needs room there as a new job does."""
    async with start(jobs__queue_limit=1) as server:
        job = await server.initiate({"source_urls": [origin.url(status=404)]})
        await server.ended(job["jobId"])
        await server.app[POOL].drain(0)
        await server.initiate({"source_urls": [origin.url(seed=2)]})
        async with server.client.post(f"/v1/download/{job['jobId']}/retry") as response:
            assert (response.status, (await response.json())["code"]) == (503, "queue_full")
            assert int(response.headers["Retry-After"]) >= 1


@pytest.fixture
async def redisless(start: Start) -> AsyncIterator[Server]:
    """A server whose Redis is not there."""
    async with start(state__redis_url=f"redis://127.0.0.1:{free_port()}") as server:
        yield server
