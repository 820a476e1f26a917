"""What every answer has, whatever was asked: headers, error form, health, metrics."""

from __future__ import annotations

import re
import uuid

import pytest

from downloadd.app import begin_drain
from downloadd.web import keys
from tests.integration.web.conftest import Server, Start

SECURITY = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
}

#: As jobs have it; no job does.
_ID = "7e192c11-1029-4b6e-bdb5-ee4decf93e66"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/health/live", 200), ("/nothing", 404), ("/v1/download/status/x", 400)],
)
async def test_security_headers_are_everywhere(server: Server, path: str, status: int) -> None:
    """Answers of every kind carry the headers that browsers heed."""
    async with server.client.get(path) as response:
        assert response.status == status
        assert {name: response.headers.get(name) for name in SECURITY} == SECURITY
        assert "aiohttp" not in response.headers["Server"]


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
async def test_a_sane_request_id_is_taken_over(server: Server, given: str) -> None:
    """The caller's id comes back in the header and in the error's body."""
    async with server.client.get("/nothing", headers={"X-Request-ID": given}) as response:
        assert response.headers["X-Request-ID"] == given
        assert (await response.json())["requestId"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a/b", "ä", '"'])
async def test_another_request_id_is_replaced(server: Server, given: str) -> None:
    """An id that could spoil a log is replaced by a UUID."""
    async with server.client.get("/", headers={"X-Request-ID": given}) as response:
        uuid.UUID(response.headers["X-Request-ID"])


async def test_unknown_paths_are_404(server: Server) -> None:
    """A path that is nothing's has an error in our form."""
    for path in ("/nothing", "/v1/download/jobs/x/y", "/v1", "/health/"):
        async with server.client.get(path) as response:
            answer = await response.json()
        assert (response.status, answer["code"], answer["error"]) == (404, "not_found", "Not Found")
        assert answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/download/initiate", "OPTIONS, POST"),
        ("HEAD", "/v1/download/initiate", "OPTIONS, POST"),
        ("PUT", "/v1/download/initiate", "OPTIONS, POST"),
        ("DELETE", "/v1/download/initiate", "OPTIONS, POST"),
        ("POST", f"/v1/download/{_ID}", "DELETE, GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("PROPFIND", "/health", "GET, HEAD, OPTIONS"),
        ("GET", f"/v1/download/{_ID}/retry", "OPTIONS, POST"),
        ("HEAD", f"/v1/download/subscribe/{_ID}", "GET, OPTIONS"),
    ],
)
async def test_wrong_methods(server: Server, method: str, path: str, allowed: str) -> None:
    """A method that a path does not take is a 405 that says which it takes."""
    async with server.client.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == allowed
        if method != "HEAD":
            assert (await response.json())["code"] == "method_not_allowed"


async def test_cors_for_everybody(server: Server) -> None:
    """By default scripts of any origin may read answers, without credentials."""
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, idempotency-key",
    }
    async with server.client.options("/v1/download/initiate", headers=preflight) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "Idempotency-Key" in response.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in response.headers
    async with server.client.get("/nothing", headers={"Origin": "https://a.example"}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]


async def test_cors_for_some(start: Start) -> None:
    """With a list, only its origins are let in, and caches are told."""
    async with start(server__cors_origins=["https://app.example"]) as server:
        for origin, welcome in (("https://app.example", True), ("https://evil.example", False)):
            async with server.client.get("/", headers={"Origin": origin}) as response:
                allowed = response.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin if welcome else None)
                assert response.headers["Vary"] == "Origin"


async def test_health(server: Server) -> None:
    """All is well, and says what was looked at."""
    async with server.client.get("/health") as response:
        assert response.status == 200
        assert await response.json() == {
            "status": "healthy",
            "checks": {"storage": "ok", "redis": "ok"},
        }


async def test_ready_until_draining(server: Server) -> None:
    """A process that goes away is alive, but not ready."""
    async with server.client.get("/health/ready") as response:
        assert response.status == 200
    begin_drain(server.app)
    async with server.client.get("/health/ready") as response:
        assert (response.status, await response.json()) == (503, {"status": "draining"})
    async with server.client.get("/health/live") as response:
        assert response.status == 200


async def test_home(server: Server) -> None:
    """The root says who answers."""
    async with server.client.get("/") as response:
        answer = await response.json()
    assert answer["name"] == "downloadd"
    assert answer["version"]


async def test_metrics_have_templates_for_paths(server: Server) -> None:
    """Requests are counted under their route; what has none shares one label."""
    for path in ("/nothing", "/else", f"/v1/download/status/{uuid.uuid4()}", "/health/live"):
        async with server.client.get(path):
            pass
    async with server.client.request("PROPFIND", "/health/live"):
        pass
    async with server.client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    counted = set(re.findall(r"http_requests_total\{(.*)\} ", text))
    assert counted == {
        'method="GET",path="unmatched",status="404"',
        'method="GET",path="/v1/download/status/{job_id}",status="404"',
        'method="GET",path="/health/live",status="200"',
        'method="OTHER",path="unmatched",status="405"',
    }
    assert "download_queue_depth 0.0" in text


async def test_the_unforeseen_is_a_generic_500(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug answers 500 with the request's id and nothing of its insides."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(server.app[keys.SERVICE], "get", broken)
    async with server.client.get(f"/v1/download/status/{uuid.uuid4()}") as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (500, "internal_error")
    assert answer["requestId"] == response.headers["X-Request-ID"]
    assert "hunter2" not in str(answer)
