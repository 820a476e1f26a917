"""What browsers are told: policies, sharing across origins, and what is no page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from downloadd.web.routes import ROUTES
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin

NOTHING = "default-src 'none'; frame-ancestors 'none'"
FIXED = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Strict-Transport-Security": "max-age=31536000",
    "Server": "downloadd",
}


async def test_every_answer_has_a_policy(server: Server, origin: Origin) -> None:
    """What is no page may load nothing; pages load from here alone, without inline code."""
    job = await server.initiate({"source_urls": [origin.url(size=10)]})
    ended = await server.ended(job["jobId"])
    paths = {
        re.sub(r"\{job_id[^{}]*(?:\{[^{}]*\})?[^{}]*\}", job["jobId"], route.path)
        for route in ROUTES
        if route.method == "GET"
    }
    for path in {*paths, "/nothing", "/docs/docs.js", ended["downloadUrl"]}:
        async with server.client.get(path, allow_redirects=False) as response:
            policy = response.headers["Content-Security-Policy"]
            for name, value in FIXED.items():
                assert response.headers.getall(name) == [value], (path, name)
        if response.content_type == "text/html":
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "script-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
        else:
            assert policy == NOTHING, path


async def test_an_archive_is_no_page(server: Server, origin: Origin) -> None:
    """Whatever it is called, a browser saves it."""
    body = {"source_urls": [origin.url(size=10)], "options": {"fileName": "<script>.html"}}
    ended = await server.ended((await server.initiate(body))["jobId"])
    async with server.client.get(ended["downloadUrl"]) as response:
        assert response.content_type == "application/zip"
        assert response.headers["Content-Disposition"].startswith("attachment;")
        assert "<" not in response.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("allowed", "origin", "welcome"),
    [
        (["*"], "https://evil.example", "*"),
        (["https://app.example"], "https://app.example", "https://app.example"),
        (["https://app.example"], "https://evil.example", None),
        (["https://app.example"], "https://app.example.evil.example", None),
        (["https://app.example"], "https://notapp.example", None),
        (["https://app.example"], "http://app.example", None),
        (["https://app.example"], "https://app.example:444", None),
        (["https://app.example"], "null", None),
        (["https://app.example"], "https://APP.example", None),
    ],
)
async def test_sharing(start: Start, allowed: list[str], origin: str, welcome: str | None) -> None:
    """Whole origins are compared; credentials are never shared, and caches know what varies."""
    async with start(server__cors_origins=allowed) as server:
        asked: Any = {"Origin": origin}
        preflight = {**asked, "Access-Control-Request-Method": "POST"}
        for call in (
            server.client.get("/health/live", headers=asked),
            server.client.get("/v1/download/status/x", headers=asked),
            server.client.options("/v1/download/initiate", headers=preflight),
        ):
            async with call as response:
                assert response.headers.get("Access-Control-Allow-Origin") == welcome
                assert "Access-Control-Allow-Credentials" not in response.headers
                if allowed != ["*"]:
                    assert "Origin" in response.headers["Vary"]


async def test_a_page_sees_what_is_left(start: Start) -> None:
    """Scripts of a welcome origin may read the headers of the limits."""
    async with start() as server:
        async with server.client.get("/v1/download/jobs") as response:
            exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"RateLimit-Remaining", "X-RateLimit-Remaining", "Retry-After"} <= set(exposed)
