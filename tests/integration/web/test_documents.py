"""``/openapi.json`` and ``/docs``, as they are served."""

from __future__ import annotations

import gzip

import aiohttp
import pytest

from tests import contract
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin

ASSETS = {
    "docs.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}


async def test_the_document_is_served(server: Server) -> None:
    async with server.client.get("/openapi.json") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert await response.json() == contract.document()


async def test_limits_are_those_in_force(start: Start) -> None:
    async with start(jobs__max_files=3) as server, server.client.get("/openapi.json") as response:
        schemas = (await response.json())["components"]["schemas"]
    assert schemas["NewJob"]["properties"]["source_urls"]["maxItems"] == 3


async def test_home_tells_where_the_page_is(server: Server) -> None:
    async with server.client.get("/") as response:
        home = await response.json()
    assert home["docs"] == "/docs"
    async with server.client.get(home["docs"]) as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    # Nothing in the page itself that such a policy forbids, and no other host.
    assert "<style" not in page
    assert "://" not in page
    assert {name for name in ASSETS if f'"docs/{name}"' in page} == set(ASSETS)


@pytest.mark.parametrize("name", ASSETS)
async def test_what_the_page_needs(server: Server, name: str) -> None:
    path = f"/docs/{name}"
    async with server.client.get(path) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == f"{ASSETS[name]}; charset=utf-8"
        body, tag = await response.read(), response.headers["ETag"]
    async with server.client.get(path, headers={"If-None-Match": tag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with (
        aiohttp.ClientSession(server.url, auto_decompress=False) as client,
        client.get(path, headers={"Accept-Encoding": "gzip"}) as response,
    ):
        sent = await response.read()
        packed = response.headers.get("Content-Encoding") == "gzip"
    assert packed == (len(body) > 1024)
    assert (gzip.decompress(sent) if packed else sent) == body


@pytest.mark.parametrize("name", ["", "nothing.js", "docs.html", "README.md", "..%2Fviews.py"])
async def test_nothing_else_is_to_be_had(server: Server, name: str) -> None:
    async with server.client.get(f"/docs/{name}") as response:
        assert response.status == 404
        assert (await response.json())["code"] == "not_found"


async def test_what_follows_a_form_is_told(server: Server, origin: Origin) -> None:
    """A job's state has the same schema however it was asked for; the judge sees each."""
    for path in ("/v1/download/initiate", "/v1/export"):
        async with server.client.post(
            path, json={"source_urls": [origin.url(size=10)], "options": {"dedupe": False}}
        ) as response:
            job_id = (await response.json())["jobId"]
        await server.ended(job_id)
        for case in ("camel", "snake"):
            for prefix in ("/v1/download/status", "/v1/export", "/v1/download/job"):
                async with server.client.get(f"{prefix}/{job_id}?case={case}") as response:
                    assert response.status == 200
                    await response.read()
