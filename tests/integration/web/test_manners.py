"""How every address behaves, whatever it is for: methods, headers, caches, compression."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from downloadd.app import POOL
from tests.integration.web.conftest import Server, Start
from tests.integration.web.test_surroundings import SECURITY
from tests.integration.web.wire import Answer, exchange
from tests.origin import Origin

#: Where events come: the only answers to GET that HEAD cannot ask for.
STREAMS = {
    "/ws",
    "/v1/download/subscribe/{job_id}",
    "/v1/download/stream/{job_id}",
    "/v1/export/{job_id}/progress",
}
#: Headers that differ from one answer to the next.
_OF_THE_MOMENT = (
    "Date",
    "X-Request-ID",
    "X-Trace-Id",
    *(f"{name}-{of}" for name in ("X-RateLimit", "RateLimit") for of in ("Remaining", "Reset")),
)
_JSON = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Address:
    """One of the server's addresses, where a completed job's archive can be got at."""

    template: str
    url: URL
    #: The same with a job that nobody has.
    unknown: URL
    methods: frozenset[str]


@dataclass(frozen=True)
class Site:
    server: Server
    #: One for every route that the application has.
    addresses: list[Address]

    async def ask(self, method: str, url: URL, **kwargs: Any) -> Answer:
        """Ask without following redirects, and read the answer."""
        async with self.server.client.request(
            method, url, allow_redirects=False, **kwargs
        ) as response:
            return Answer("HTTP/1.1", response.status, response.headers, await response.read())


@pytest.fixture
async def site(server: Server, origin: Origin) -> Site:
    made = await server.initiate({"source_urls": [origin.url(size=3000)]})
    job = await server.ended(made["jobId"])
    link = URL(job["downloadUrl"], encoded=True)
    methods: dict[str, set[str]] = {}
    for route in server.app.router.routes():
        assert route.resource is not None
        methods.setdefault(route.resource.canonical, set()).add(route.method)
    assert "/v1/download/status/{job_id}" in methods
    assert "/v1/files/{key}" in methods

    def url(template: str, job_id: str) -> URL:
        if template == "/v1/files/{key}":
            return link
        path = template.replace("{job_id}", job_id).replace("{asset}", "docs.js")
        assert "{" not in path, f"nobody has told what to put into {template}"
        return URL(server.url + path)

    return Site(
        server,
        [
            Address(
                template,
                url(template, made["jobId"]),
                url(template, str(uuid.uuid4())),
                frozenset(taken),
            )
            for template, taken in methods.items()
        ],
    )


def lasting(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in _OF_THE_MOMENT:
        kept.pop(name, None)
    if "Location" in kept:
        # A link is signed anew for each, and says until when it is good.
        link = URL(kept["Location"], encoded=True)
        kept["Location"] = f"{link.with_query(None)}?{'&'.join(sorted(link.query))}"
    # HEAD need not tell that there is nothing to be had (RFC 9110 §8.6).
    if kept.get("Content-Length") == "0":
        del kept["Content-Length"]
    return kept


async def test_head_is_get_without_a_body(site: Site) -> None:
    """Wherever there is GET, HEAD answers with the same status and headers; not for streams."""
    for address in site.addresses:
        if "HEAD" not in address.methods:
            continue
        for url in {address.url, address.unknown}:
            got = await site.ask("GET", url)
            head = await site.ask("HEAD", url)
            assert (head.status, head.body) == (got.status, b""), address
            expected, found = lasting(got.headers), lasting(head.headers)
            if address.template == "/metrics":
                # They have counted the first request.
                assert int(found.pop("Content-Length")) > 0
                del expected["Content-Length"]
            assert found == expected, address
    streams = {it.template for it in site.addresses if "HEAD" not in it.methods >= {"GET"}}
    assert streams == STREAMS


async def test_every_address_says_which_methods_it_takes(site: Site) -> None:
    """A method that is not taken is a 405 whose Allow is what OPTIONS says."""
    for address in site.addresses:
        asked = await site.ask("OPTIONS", address.url)
        assert (asked.status, asked.body) == (204, b""), address
        assert address.methods | {"OPTIONS"} <= set(asked.headers["Allow"].split(", ")), address
        for method in {"PATCH", "PROPFIND", "HEAD"} - address.methods:
            refused = await site.ask(method, address.url)
            assert refused.status == 405, (method, address)
            assert refused.headers["Allow"] == asked.headers["Allow"]


async def test_every_answer_has_the_usual_headers(site: Site) -> None:
    """Each address, right or wrong: security headers, an id, UTF-8 JSON, and a word on caches."""
    for address in site.addresses:
        for method in sorted({*address.methods, "OPTIONS", "PATCH"}):
            body: dict[str, Any] = {"json": {}} if method == "POST" else {}
            for url in {address.url, address.unknown}:
                answer = await site.ask(method, url, **body)
                where = (method, url, answer.status)
                assert answer.status < 500, where
                assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY, where
                uuid.UUID(answer.headers["X-Request-ID"])
                check_json(answer, where)
                check_caching(answer, where)


def check_json(answer: Answer, where: object) -> None:
    content_type = answer.headers.get("Content-Type", "")
    if answer.status >= 400 or content_type.startswith("application/json"):
        assert content_type == _JSON, where


def check_caching(answer: Answer, where: object) -> None:
    """Errors are stored by nobody; JSON neither, or else it can be asked for by its tag."""
    cached = answer.headers["Cache-Control"]
    if answer.status >= 400:
        assert cached == "no-store", where
    elif answer.headers.get("Content-Type") == _JSON:
        assert "no-store" in cached or "ETag" in answer.headers, where


async def test_almost_an_address_is_a_404(server: Server) -> None:
    """Slashes too many and spellings of them lead nowhere, with any method."""
    for path in (
        "/health/",
        "//health",
        "/health//live",
        "//",
        "/health%2F",
        "/health%2Flive",
        "/health%00",
        "/./health",
        "/x/../health",
        "/health;a=1",
        "/%ff",
        "/%zz",
        "/HEALTH",
        "/v1/download/initiate/",
        "/v1/download//",
        "/v1/download/a/b/c",
        "/v1/download/status/",
        f"/v1/download/status/{uuid.uuid4()}/",
        f"/v1/download/status//{uuid.uuid4()}",
    ):
        for method in ("GET", "POST", "OPTIONS"):
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            answer = await exchange(server, head.encode())
            found = (answer.status, answer.json()["code"])
            assert found == (404, "not_found"), (method, path)


async def test_a_spelling_of_the_same_address(server: Server) -> None:
    """Letters may be percent-encoded (RFC 3986 §6.2.2.2)."""
    url = URL(f"{server.url}/%68ealth/liv%65", encoded=True)
    async with server.client.get(url) as response:
        assert response.status == 200


async def test_options_of_the_whole_server(server: Server) -> None:
    """``OPTIONS *`` is answered with what there is."""
    answer = await exchange(server, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.status == 204
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, POST"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_what_is_no_request_is_kept_by_nobody(server: Server) -> None:
    """The answer to bytes that are no HTTP has the headers of all others."""
    answer = await exchange(server, b"nothing\r\n\r\n")
    assert answer.status == 400
    assert answer.headers["Content-Type"] == _JSON
    assert answer.headers["Cache-Control"] == "no-store"
    assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY


# --- compression -------------------------------------------------------------------


@pytest.fixture
async def plain(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that neither asks for a coding nor takes one off."""
    async with aiohttp.ClientSession(
        server.url, auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
    ) as client:
        yield client


async def waiting_job(server: Server, files: int) -> str:
    """The path of a large status that stays as it is."""
    await server.app[POOL].drain(0)
    urls = [f"https://files.example/{number}" for number in range(files)]
    job = await server.initiate({"source_urls": urls})
    return f"/v1/download/status/{job['jobId']}?files=true"


async def test_large_statuses_are_compressed(server: Server, plain: aiohttp.ClientSession) -> None:
    """For who takes gzip 1,000 files are a tenth of the bytes, and the same answer."""
    path = await waiting_job(server, 1000)
    bodies, heads = {}, {}
    for accepted in ("", "gzip"):
        headers = {"Accept-Encoding": accepted}
        async with plain.get(path, headers=headers) as response:
            bodies[accepted], heads[accepted] = await response.read(), response.headers
        assert response.headers["Content-Length"] == str(len(bodies[accepted]))
        assert response.headers["Vary"] == "Accept-Encoding"
        async with plain.head(path, headers=headers) as response:
            assert lasting(response.headers) == lasting(heads[accepted])
    assert "Content-Encoding" not in heads[""]
    assert heads["gzip"]["Content-Encoding"] == "gzip"
    assert gzip.decompress(bodies["gzip"]) == bodies[""]
    assert len(bodies["gzip"]) < len(bodies[""]) / 5
    assert heads[""]["ETag"] == heads["gzip"]["ETag"]
    assert heads[""]["ETag"].startswith('W/"')


@pytest.mark.parametrize("accepted", ["", "gzip"])
async def test_a_known_answer_is_known_in_any_coding(
    server: Server, plain: aiohttp.ClientSession, accepted: str
) -> None:
    """The tag of the compressed answer is good for the other one, and the 304 says what varies."""
    path = await waiting_job(server, 50)
    async with plain.get(path, headers={"Accept-Encoding": "gzip"}) as response:
        tag = response.headers["ETag"]
    headers = {"Accept-Encoding": accepted, "If-None-Match": tag}
    for method in ("GET", "HEAD"):
        async with plain.request(method, path, headers=headers) as response:
            assert (response.status, await response.read()) == (304, b"")
        assert response.headers["ETag"] == tag
        assert response.headers["Vary"] == "Accept-Encoding"
        assert response.headers["Cache-Control"] == "private, no-cache"


async def test_every_form_of_a_status_has_a_tag(site: Site) -> None:
    """The statuses of all the documents' clients, and in either case, know what they have sent."""
    templates = ("/v1/download/status/{job_id}", "/v1/export/{job_id}", "/v1/download/job/{job_id}")
    urls = [it.url for it in site.addresses if it.template in templates]
    assert len(urls) == len(templates)
    tags = []
    for url in [*urls, *(url.with_query(case="snake") for url in urls)]:
        answer = await site.ask("GET", url)
        tags.append(answer.headers["ETag"])
        known = await site.ask("GET", url, headers={"If-None-Match": tags[-1]})
        assert known.status == 304, url
    # Two of the three are the same view.
    assert len(set(tags)) == 4


async def test_streams_and_archives_are_never_compressed(
    site: Site, plain: aiohttp.ClientSession
) -> None:
    """Events come as they are, and so do archives, whoever takes gzip."""
    templates = (STREAMS - {"/ws"}) | {"/v1/files/{key}"}
    urls = [it.url for it in site.addresses if it.template in templates]
    assert len(urls) == len(templates)
    for url in urls:
        async with plain.get(url, headers={"Accept-Encoding": "gzip"}) as response:
            body = await response.read()
        assert response.status == 200
        assert "Content-Encoding" not in response.headers
        assert "Accept-Encoding" not in response.headers.get("Vary", "")
        assert body.startswith((b"retry: 3000", b"PK"))


async def test_unavailable_says_when_to_come_again(start: Start) -> None:
    """Health's 503 has Retry-After, as every other has."""
    async with start(state__redis_url="redis://127.0.0.1:1") as server:
        for path in ("/health", f"/v1/download/status/{uuid.uuid4()}"):
            async with server.client.get(path) as response:
                assert response.status == 503, path
                assert int(response.headers["Retry-After"]) >= 1
                assert response.headers["Cache-Control"] == "no-store"
