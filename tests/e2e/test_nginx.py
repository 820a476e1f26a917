"""Through a real nginx, with the ``nginx.conf`` that is shipped.

What takes minutes is begun before the first test and looked at by the last ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from downloadd.access import api_keys
from downloadd.web.body import MAX_BODY_BYTES
from downloadd.web.middleware.security import HEADERS
from tests.e2e.archives import PATIENCE
from tests.e2e.proxied import (
    Background,
    Follower,
    Front,
    Reconnections,
    Start,
    TwoMinutes,
    ended,
    front,
    initiate,
    mute_app,
    reconnections,
    session,
    slow_jobs,
)
from tests.e2e.service import eventually, s3_storage
from tests.faults.fleet import Fleet
from tests.folders import file_sizes
from tests.gateway import Gateway
from tests.nginx import CONFIG, Nginx, nginx_server
from tests.origin import Origin
from tests.ports import free_port
from tests.tools import require_tool
from tests.valkey import valkey_server

#: Requests that one address may make within a minute; a user makes fewer in all tests.
RATE = 100
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    with Background() as it:
        yield it


@pytest.fixture(scope="module", autouse=True)
def long(
    background: Background, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[Any]]:
    """What takes minutes, under way."""
    require_tool("nginx", "/usr/sbin/nginx")
    works = {work.__name__: work for work in (slow_jobs, reconnections, mute_app)}
    return {
        name: background.begin(work(tmp_path_factory.mktemp("n"))) for name, work in works.items()
    }


@pytest.fixture(scope="module")
def site(background: Background, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A server with API keys behind nginx, for all tests that need no other."""
    folder, stack = tmp_path_factory.mktemp("n"), AsyncExitStack()
    keys = {
        user: api_keys.add(folder / "keys.json", user=user, role="user", now=time.time())
        for user in ("ann", "bob", "eve", "joe")
    }
    entered = stack.enter_async_context(
        front(
            folder,
            auth_mode="api-keys",
            auth_api_keys_file=folder / "keys.json",
            limits_requests_per_minute=RATE,
        )
    )
    it = background.call(entered)
    it.keys = keys
    try:
        yield it
    finally:
        background.call(stack.aclose())


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Nginx]:
    """An nginx with nothing behind it."""
    with nginx_server(tmp_path / "nginx", [free_port()]) as nginx:
        yield nginx


async def assert_error(response: aiohttp.ClientResponse, status: int, code: str) -> None:
    """An error in the app's form."""
    body = await response.json()
    assert (response.status, body["code"]) == (status, code)
    assert body.keys() == {"error", "code", "message", "requestId"}
    assert response.headers.getall("X-Request-ID") == [body["requestId"]]
    assert response.headers["Cache-Control"] == "no-store"
    for name in HEADERS.keys() - {"Server"}:
        assert response.headers.getall(name) == [HEADERS[name]], name


# --- the configuration ----------------------------------------------------------------


def test_nginx_takes_it_without_a_complaint(tmp_path: Path) -> None:
    """``nginx -t`` has nothing to say of it as it is shipped."""
    checked = Nginx(tmp_path, [free_port()]).check()
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    assert re.findall(r"server [a-z]+:[0-9]+ resolve;", CONFIG.read_text()) == [
        "server app:3000 resolve;",
        "server minio:9000 resolve;",
    ]


async def test_with_tls(tmp_path: Path) -> None:
    """With the lines for TLS and for a proxy before it, it redirects and serves over TLS."""
    port = free_port()
    certificate(tmp_path / "nginx" / "tls")
    text = CONFIG.read_text().replace("#tls ", "").replace("#behind ", "")
    text = text.replace("/etc/nginx/tls", "tls").replace(
        "listen 8443 ssl default_server;", f"listen 127.0.0.1:{port} ssl default_server;"
    )
    # Debian's nginx is older than this directive; all that is shipped for knows it.
    assert text.count("http2 on;") == 1
    text = text.replace("http2 on;", "").replace("10.0.0.0/8", "127.0.0.1")
    with nginx_server(tmp_path / "nginx", [free_port()], text=text) as nginx:
        async with session(nginx.url) as client:
            plain = {"allow_redirects": False, "headers": {"Host": "files.example"}}
            async with client.post("/v1/download/initiate?a=b", **plain) as response:
                assert response.status == 308
                assert (
                    response.headers["Location"] == "https://files.example/v1/download/initiate?a=b"
                )
            async with client.get("/health", **plain) as response:
                await assert_error(response, 502, "bad_gateway")
            forwarded = {"X-Forwarded-For": "192.0.2.1, 198.51.100.7", "X-Request-ID": "over-tls"}
            url = f"https://127.0.0.1:{port}/v1/download/jobs"
            async with client.get(url, ssl=False, headers=forwarded) as response:
                await assert_error(response, 502, "bad_gateway")
        (line,) = await eventually(lambda: nginx.log("over-tls"))
        assert line["remote"] == "198.51.100.7"


def certificate(folder: Path) -> None:
    """Write a certificate of its own, and its key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True)
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


# --- errors of nginx's own -----------------------------------------------------------


async def test_without_the_app(away: Nginx) -> None:
    """Its own errors have the app's form, and say when to come again; logs hold no query."""
    async with session(away.url) as client:
        secret = {"token": "SECRET"}
        async with client.get("/v1/download/status/x", params=secret) as response:
            await assert_error(response, 502, "bad_gateway")
            assert response.headers["Retry-After"] == "5"
        async with client.get("/v1/download/stream/x", params=secret) as response:
            await assert_error(response, 503, "unavailable")
            assert response.headers["Retry-After"] == "5"
        # On an error an EventSource would not come back.
        asked = {"Accept": "text/event-stream"}
        async with client.get("/v1/download/stream/x", params=secret, headers=asked) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert await response.text() == "retry: 3000\n\n"
        for path in (
            "/metrics",
            "//metrics",
            "/x/../metrics",
            "/%6detrics",
            "/_error",
            "/_away/json",
            "/downloads",
            "/x/../downloads/a.zip",
            "//downloads/a.zip",
        ):
            status, body = await raw(away, f"GET {path} HTTP/1.0\r\n\r\n")
            assert (status, json.loads(body)["code"]) == (404, "not_found"), path
        async with client.put("/downloads/x.zip", data=b"x") as response:
            await assert_error(response, 405, "method_not_allowed")
    for request, status, code in (
        ("garbage\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: " + "x" * 9000 + "\r\n\r\n", 431, "headers_too_large"),
        ("GET /" + "x" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
        ("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
        ("GET /?SECRET HTTP/3.0\r\nHost: x\r\n\r\n", 505, "http_version_not_supported"),
    ):
        answered, body = await raw(away, request)
        assert (answered, json.loads(body)["code"]) == (status, code), request[:40]
    # HTTP/0.9 knows no status.
    assert json.loads((await raw(away, "GET /?SECRET\n"))[1])["code"] == "bad_gateway"
    await eventually(lambda: len(away.log()) == 20)
    assert "SECRET" not in away.output.read_text() + away.errors.read_text()


async def raw(nginx: Nginx, request: str) -> tuple[int, bytes]:
    """Status and body of the answer to bytes as they are; 0 where there is no status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
    try:
        writer.write(request.encode())
        async with asyncio.timeout(PATIENCE):
            head, _, body = (await reader.read()).rpartition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]) if head else 0, body


async def test_floods_are_turned_away(away: Nginx) -> None:
    """Far above what the app allows, by address, and before the app has any work of it."""

    async def ask(client: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        async with client.get("/v1/download/jobs") as response:
            await response.read()
            return response

    async with session(away.url, "127.0.0.2") as flood, session(away.url, "127.0.0.3") as other:
        answers = await asyncio.gather(*(ask(flood) for _ in range(900)))
        refused = [answer for answer in answers if answer.status == 429]
        assert 500 <= len(answers) - len(refused) < 900
        await assert_error(refused[0], 429, "rate_limited")
        assert refused[0].headers["Retry-After"] == "5"
        assert (await ask(other)).status == 502


# --- requests --------------------------------------------------------------------------


async def test_request_ids_traces_and_headers(site: Front) -> None:
    """One id from end to end, once in the answer; no header twice; the log tells the trace."""
    async with site.client("ann") as client:
        for given, expected in (("order-4711.a", r"order-4711\.a"), ("not sane", "[0-9a-f]{32}")):
            headers = {"X-Request-ID": given, "traceparent": TRACEPARENT}
            query = {"limit": "1", "signature": "SECRET"}
            async with client.get("/v1/download/jobs", headers=headers, params=query) as response:
                assert response.status == 200, await response.text()
                (request_id,) = response.headers.getall("X-Request-ID")
                twice = {
                    name: count
                    for name, count in Counter(name.lower() for name in response.headers).items()
                    if count > 1
                }
                assert twice == {}
                assert response.headers["X-RateLimit-Limit"] == str(RATE)
                assert response.headers["RateLimit-Limit"] == str(RATE)
                assert {*HEADERS} <= {*response.headers}
            assert re.fullmatch(expected, request_id)
            (line,) = await eventually(lambda rid=request_id: site.nginx.log(rid))
            assert (
                line.items()
                >= {
                    "level": "info",
                    "service": "nginx",
                    "message": "http.request",
                    "traceId": TRACE,
                    "remote": "127.0.0.1",
                    "method": "GET",
                    "path": "/v1/download/jobs",
                    "status": 200,
                    "upstream": f"127.0.0.1:{site.service.port}",
                    "upstreamStatus": "200",
                    "cache": "",
                }.items()
            )
            assert isinstance(line["durationMs"], int)
            (seen,) = app_log(site, requestId=request_id, message="http.request")
            assert seen["path"] == "/v1/download/jobs"
    assert "SECRET" not in site.nginx.output.read_text()


def app_log(site: Front, **fields: str) -> list[dict[str, Any]]:
    """Lines of the app's log that have these fields."""
    lines = [json.loads(line) for line in site.service.log.read_text().splitlines()]
    return [line for line in lines if line.items() >= fields.items()]


async def test_the_real_client_counts(site: Front) -> None:
    """Limits and logs know addresses that clients have, not those that they claim."""

    async def ask(client: aiohttp.ClientSession, number: int) -> int:
        claimed = {
            "X-Forwarded-For": f"203.0.113.{number}",
            "X-Real-IP": "203.0.113.1",
            "Forwarded": "for=203.0.113.1",
            "X-Request-ID": f"claim-{number}",
        }
        async with client.get("/v1/download/jobs", headers=claimed) as response:
            answer = await response.json()
            assert answer["code"] in ("unauthorized", "rate_limited")
            return response.status

    async with site.client(address="127.0.0.2") as client:
        # All at once: what the app allows does not hurt itself on nginx's limits.
        answers = Counter(await asyncio.gather(*(ask(client, it) for it in range(RATE + 5))))
    assert answers == {401: RATE, 429: 5}
    (line,) = await eventually(lambda: site.nginx.log("claim-1"))
    assert line["upstreamStatus"] in ("401", "429")
    for known in (line, *app_log(site, requestId="claim-1")):
        assert known["remote"] == "127.0.0.2"
    async with site.client(address="127.0.0.3") as client:
        assert await ask(client, 250) == 401
    assert app_log(site, requestId="claim-250", message="http.request")[0]["remote"] == "127.0.0.3"


async def test_bodies(site: Front) -> None:
    """As large as the app takes them, and no larger."""
    async with site.client("eve") as client:
        url = "/v1/download/initiate"
        json_type = {"Content-Type": "application/json"}
        largest = io.BytesIO(b" " * MAX_BODY_BYTES)
        async with client.post(url, data=largest, headers=json_type) as response:
            assert (await response.json())["code"] == "validation_error", "the app has read it"
        too_long = io.BytesIO(b" " * (MAX_BODY_BYTES + 1))
        async with client.post(url, data=too_long, headers=json_type) as response:
            await assert_error(response, 413, "payload_too_large")
            (line,) = await eventually(
                lambda rid=response.headers["X-Request-ID"]: site.nginx.log(rid)
            )
        assert line["upstream"] == ""


async def test_bodies_that_never_end(site: Front) -> None:
    """Who sends one is told at once what the app thinks of it, and fills no disk of nginx's."""
    head = (
        "POST /v1/download/initiate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {MAX_BODY_BYTES}\r\n\r\n"
    )
    begun = [
        await asyncio.open_connection("127.0.0.1", site.nginx.port, local_addr=("127.0.0.4", 0))
        for _ in range(20)
    ]
    try:
        for _, writer in begun:
            writer.write(head.encode() + b" " * (MAX_BODY_BYTES // 2))
        async with asyncio.timeout(PATIENCE):
            told = await asyncio.gather(*(reader.readline() for reader, _ in begun))
        assert set(told) == {b"HTTP/1.1 401 Unauthorized\r\n"}
        assert file_sizes(site.nginx.folder / "client_body") == {}
    finally:
        for _, writer in begun:
            writer.close()


async def test_large_answers_are_whole(site: Front) -> None:
    """What is larger than nginx's buffers arrives as the app sends it."""
    async with site.client() as client:
        async with client.get("/openapi.json") as response:
            through = await response.read()
        async with client.get(f"{site.service.url}/openapi.json") as response:
            assert await response.read() == through
    assert len(through) > 64 * 1024


# --- events ----------------------------------------------------------------------------


async def test_events_come_at_once_and_one_by_one(site: Front) -> None:
    """The first byte within 200 ms, and each event as soon as it is written.

    An event's id tells the millisecond in which it was.
    """
    async with Origin() as origin, site.client("ann") as client:
        body = {"source_urls": [origin.url(size=300_000, rate=100_000)]}
        job_id = (await initiate(client, body))["jobId"]
        follower = Follower(client, f"/v1/download/subscribe/{job_id}")
        following = asyncio.create_task(follower.run())
        firsts = []
        for form in ("download/subscribe/{}", "download/stream/{}", "export/{}/progress") * 2:
            began = time.monotonic()
            async with client.get(f"/v1/{form.format(job_id)}") as response:
                assert response.status == 200
                await response.content.readany()
                firsts.append(time.monotonic() - began)
        await following
    print("first bytes after", ", ".join(f"{1000 * it:.0f} ms" for it in firsts))
    assert min(firsts[:3]) < 0.2
    assert min(firsts[3:]) < 0.2
    late = [at - int(event.id.partition("-")[0]) / 1000 for at, event in follower.events[1:]]
    print("events later than written by", ", ".join(f"{1000 * it:.0f}" for it in late), "ms")
    assert len(late) >= 8
    assert sorted(late)[len(late) // 2] < 0.25
    times = [at for at, _ in follower.events]
    assert times[-1] - times[0] > 2, "they did not come together at the end"


async def test_websockets(site: Front) -> None:
    """Both kinds are upgraded, and carry messages both ways."""
    async with Origin() as origin, site.client("bob") as client:
        body = {"source_urls": [origin.url(size=150_000, rate=100_000)]}
        job = await initiate(client, body)
        types, states = [], []
        async with client.ws_connect(f"/v1/download/subscribe/{job['jobId']}") as one:
            await one.send_json({"type": "ping"})
            async with client.ws_connect("/ws") as many:
                await many.send_json({"type": "subscribe", "job_id": job["jobId"]})
                while not states or states[-1] != "completed":
                    states.append((await many.receive_json(timeout=PATIENCE))["status"])
            types = [message.json()["type"] async for message in one]
    assert "pong" in types
    assert types[-1] == "complete"
    assert len(states) >= 3
    wanted = {"/ws", f"/v1/download/subscribe/{job['jobId']}"}

    def switched() -> bool:
        return wanted <= {line["path"] for line in site.nginx.log() if line["status"] == 101}

    await eventually(switched, what="both are logged as upgraded")


# --- answers that are kept ---------------------------------------------------------------


async def cached(
    client: aiohttp.ClientSession, path: str, **headers: str
) -> tuple[int, str, dict[str, str]]:
    """Status, cache status and headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(path, headers=named) as response:
        await response.read()
        told = {name.lower(): value for name, value in response.headers.items()}
        return response.status, response.headers.get("X-Cache-Status", ""), told


async def test_finished_states_are_kept_for_their_callers(site: Front) -> None:
    """For whoever has the same credential and asks the same, and nobody else."""
    async with Origin() as origin, site.client("joe") as joe, site.client("eve") as eve:
        slow = await initiate(joe, {"source_urls": [origin.url(seed=9, delay=30)]})
        done = await initiate(joe, {"source_urls": [origin.url()]})
        job_id = done["jobId"]
        await ended(joe, job_id, seconds=PATIENCE)
        key = {"Authorization": f"Bearer {site.keys['joe']}"}
        forms = ("/v1/download/status/{}", "/v1/download/job/{}", "/v1/export/{}")
        for path in (form.format(job_id) for form in forms):
            # Polling may have left one.
            _, _, first = await cached(joe, path, Cache_Control="no-cache")
            mine = {"X_Request_ID": f"mine-{path.count('/')}-{len(path)}"}
            status, kept, second = await cached(joe, path, **mine, traceparent=TRACEPARENT)
            assert (status, kept) == (200, "HIT"), path
            assert second["etag"] == first["etag"]
            assert second["x-request-id"] == mine["X_Request_ID"]
            (line,) = await eventually(lambda it=second: site.nginx.log(it["x-request-id"]))
            assert (line["cache"], line["upstream"], line["traceId"]) == ("HIT", "", TRACE)
            async with joe.get(path, headers={"If-Match": '"another"'}) as response:
                await assert_error(response, 412, "precondition_failed")
            # Another's answer tells nothing of this caller's allowance.
            assert "x-ratelimit-remaining" in first
            assert [name for name in second if "ratelimit" in name or name == "x-trace-id"] == []
            assert "x-accel-expires" not in first | second
            assert second["cache-control"] == "private, no-cache"
            tag = second["etag"]
            assert (await cached(joe, path, If_None_Match=tag))[:2] == (304, "HIT")
            # Another caller, no caller, and the same with another credential or query.
            assert (await cached(eve, path))[:2] == (404, "MISS")
            async with site.client() as nobody:
                assert (await cached(nobody, path))[:2] == (401, "MISS")
                assert (await cached(nobody, path, **key))[:2] == (200, "MISS")
            assert (await cached(joe, f"{path}?case=snake"))[:2] == (200, "MISS")
            assert (await cached(joe, path, Cache_Control="no-cache"))[:2] == (200, "BYPASS")
            assert (await cached(joe, path))[:2] == (200, "HIT")
        status, kept, _ = await cached(eve, forms[0].format(job_id))
        assert (status, kept) == (404, "MISS"), "nor is it kept that there is none"
        # One that is under way is asked for each time, and so that 304 is the app's.
        path = forms[0].format(slow["jobId"])
        for _ in range(2):
            _, kept, told = await cached(joe, path)
            assert kept == "MISS"
        headers = {"If_None_Match": told["etag"], "X_Request_ID": "known-to-me"}
        assert (await cached(joe, path, **headers))[:2] == (304, "MISS")
        (line,) = await eventually(lambda: site.nginx.log("known-to-me"))
        assert line["upstreamStatus"] == "304"
        await joe.delete(f"/v1/download/{slow['jobId']}")
        assert (await cached(joe, f"/v1/download/result/{job_id}"))[1] == ""

        async def asked_anew() -> bool:
            return (await cached(joe, forms[0].format(job_id)))[1] == "EXPIRED"

        await eventually(asked_anew, seconds=10, what="after 5 s the app is asked")
    folder = site.nginx.folder / "cache"
    assert folder.stat().st_mode & 0o077 == 0, "signed links lie there"


async def test_signed_links_of_a_folder(site: Front) -> None:
    """Archives that the app serves itself: whole, in ranges, and not with a forged link."""
    async with Origin() as origin, site.client("eve") as client, site.client() as anybody:
        job = await initiate(client, {"source_urls": [origin.url(size=2_000_000)]})
        job = await ended(client, job["jobId"], seconds=PATIENCE)
        link = job["downloadUrl"]
        assert link.startswith(f"{site.nginx.url}/v1/files/")
        async with anybody.get(link) as response:
            data = await response.read()
            assert response.status == 200
        assert hashlib.sha256(data).hexdigest() == job["sha256"]
        async with anybody.get(link, headers={"Range": "bytes=-100"}) as response:
            assert (response.status, await response.read()) == (206, data[-100:])
        async with anybody.get(link.replace("signature=", "signature=x")) as response:
            assert (response.status, (await response.json())["code"]) == (403, "link_invalid")
    signature = link.rpartition("signature=")[2]

    def logged() -> bool:
        return sum(line["path"].startswith("/v1/files/") for line in site.nginx.log()) >= 3

    await eventually(logged)
    assert signature not in site.nginx.output.read_text()


# --- several processes ------------------------------------------------------------------


@pytest.mark.timeout(180)
async def test_three_processes_share_work_and_events(
    folder: Path, gateway: Gateway, tmp_path: Path
) -> None:
    """A job made at one is followed through all; a killed one loses nothing; links are MinIO's."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        valkey = stack.enter_context(valkey_server())
        storage = await stack.enter_async_context(s3_storage(gateway, "downloads"))
        ports = [free_port() for _ in range(3)]
        nginx = stack.enter_context(nginx_server(tmp_path / "nginx", ports, gateway.port))
        settings = {
            "jobs_lease": 2,
            "jobs_concurrency": 2,
            "fetch_per_host": 32,
            "server_trusted_proxies": "127.0.0.1",
            "storage_public_endpoint": nginx.url,
        }
        fleet = await stack.enter_async_context(Fleet(folder, valkey, storage, **settings))
        servers = await asyncio.gather(*(fleet.start(port) for port in ports))
        client = await stack.enter_async_context(session(nginx.url))

        bodies = [
            {"source_urls": [origin.url(seed=seed, size=200_000, rate=60_000)]} for seed in range(9)
        ]
        jobs = await asyncio.gather(*(initiate(client, body) for body in bodies))
        followers = [Follower(client, f"/v1/download/stream/{job['jobId']}") for job in jobs]
        # Each of the first three jobs is listened to at each of the servers.
        followers += [
            Follower(client, f"/v1/download/subscribe/{job['jobId']}")
            for job in jobs[:3]
            for _ in range(3)
        ]
        following = [asyncio.create_task(it.run()) for it in followers]
        await eventually(lambda: all(it.events for it in followers), what="all hear something")
        await eventually(lambda: all(started(it) for it in servers), what="all three work")
        victim = max(servers, key=lambda it: len(started(it)))
        await fleet.kill(victim)
        # Whoever asks meanwhile is answered by the others.
        asked = [client.get(f"/v1/download/status/{job['jobId']}") for job in jobs]
        answers = await asyncio.gather(*asked)
        assert [answer.status for answer in answers] == [200] * len(jobs)
        for answer in answers:
            answer.release()
        async with asyncio.timeout(60):
            await asyncio.gather(*following)
        finished = await asyncio.gather(
            *(ended(client, job["jobId"], seconds=PATIENCE) for job in jobs)
        )
        assert [job["status"] for job in finished] == ["completed"] * len(jobs)
        assert any(job["attempts"] > 1 for job in finished), "it was killed at work"
        with redis.Redis(unix_socket_path=str(valkey.socket), decode_responses=True) as known:
            for job, follower in zip(
                [*jobs, *(it for it in jobs[:3] for _ in range(3))], followers, strict=True
            ):
                entries = known.xrange(f"{{downloadd}}:job:{job['jobId']}:events")
                follower.assert_saw([event_id for event_id, _ in entries])
        assert sum(it.connections - 1 for it in followers) > 0, "somebody had to come back"
        listened = [line for line in nginx.log() if "/v1/download/s" in line["path"]]
        assert {line["upstream"] for line in listened} >= {f"127.0.0.1:{it}" for it in ports}
        await assert_links(client, nginx, finished)


def started(server: Any) -> set[str]:
    """Jobs that a server has begun."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return {line["jobId"] for line in lines if line["message"] == "job.started"}


async def assert_links(
    client: aiohttp.ClientSession, nginx: Nginx, jobs: list[dict[str, Any]]
) -> None:
    """Signed links go through nginx to the bucket; nothing else does, and no credential of ours."""
    # The storage would refuse a request that is signed twice.
    ours = {"Authorization": "Bearer x", "X-API-Key": "x", "Cookie": "a=b"}
    for job in jobs:
        assert job["downloadUrl"].startswith(f"{nginx.url}/downloads/")
        async with client.get(job["downloadUrl"], headers=ours) as response:
            data = await response.read()
            assert response.status == 200, data
            assert "attachment" in response.headers["Content-Disposition"]
        assert hashlib.sha256(data).hexdigest() == job["sha256"]
    link = job["downloadUrl"]
    async with client.get(link, headers={"Range": "bytes=10-19"}) as response:
        assert (response.status, await response.read()) == (206, data[10:20])
    async with client.get(link.partition("?")[0]) as response:
        assert response.status == 403
    async with client.put(link, data=b"x") as response:
        await assert_error(response, 405, "method_not_allowed")
    assert "X-Amz-Signature" not in nginx.output.read_text()


# --- what has been under way all the while ----------------------------------------------


def test_an_app_that_does_not_answer(long: dict[str, Future[Any]]) -> None:
    """After the longest that the app may take, an answer in its form."""
    seconds, status, body = long["mute_app"].result(90)
    assert (status, body["code"], body["headers"]["Retry-After"]) == (504, "gateway_timeout", "5")
    assert 34 < seconds < 60


def test_reconnecting(long: dict[str, Future[Any]]) -> None:
    """A reload cuts no stream off; a restart of the app loses no event."""
    told: Reconnections = long["reconnections"].result(110)
    assert told.job["status"] == "completed"
    assert told.connections_after_reload == 1
    assert told.patient.connections > 1
    assert told.returned.connections > 2
    for follower in (told.patient, told.returned):
        follower.assert_saw(told.all_ids)
    status, body = told.away
    assert (status, body["code"], body["headers"]["Retry-After"]) == (503, "unavailable", "5")
    assert told.away_stream == (200, "retry: 3000\n\n")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_stream_of_two_minutes(long: dict[str, Future[Any]]) -> None:
    """Over one connection, with something every 15 s, to the end and the link."""
    told: TwoMinutes = long["slow_jobs"].result(180)[0]
    assert told.took >= 120
    assert told.sse.connections == 1
    assert told.sse.events[-1][1].type == "complete"
    assert told.sse.events[-1][1].data["downloadUrl"] == told.job["downloadUrl"]
    times = [at for at, _ in told.sse.lines]
    assert times[-1] - times[0] >= 119
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    print(f"{told.took:.1f} s; longest silence {max(gaps):.1f} s")
    assert 10 < max(gaps) < 25, "heartbeats, and nothing else for a while"
    assert (told.messages[0], told.messages[-1]) == ("status", "complete")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_start_of_what_takes_longer_than_proxies_wait(long: dict[str, Future[Any]]) -> None:
    """202 with the job before anybody's patience ends, and the archive when it is there."""
    told: Start = long["slow_jobs"].result(180)[1]
    assert told.status == 202
    assert 24 < told.seconds < 32
    assert told.headers["Retry-After"]
    assert told.job["job_id"] == told.job_id
    assert told.job["processing_time_ms"] > 60_000
    assert told.again["status"] == "completed"
    assert told.again["downloadUrl"]
