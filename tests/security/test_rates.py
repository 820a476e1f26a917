"""Rates and quotas: how often, how many, how much, and who it is that is counted (SPEC §7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from downloadd.access import api_keys
from downloadd.state.keys import Keys
from downloadd.state.limits import Limits, open_limits
from downloadd.web.clients import client_address
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server

JOBS = "/v1/download/jobs"
INITIATE = "/v1/download/initiate"


async def ask(server: Server, path: str = JOBS, **headers: str) -> aiohttp.ClientResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with server.client.get(path, headers=named) as response:
        await response.read()
        return response


async def make(server: Server, url: str = "", **options: Any) -> aiohttp.ClientResponse:
    headers = options.pop("headers", {})
    sources = {"source_urls": [url]} if url else {}
    async with server.client.post(
        INITIATE, json={**sources, **options}, headers=headers
    ) as response:
        await response.read()
        return response


async def code(response: aiohttp.ClientResponse) -> str:
    return str((await response.json())["code"])


# --- requests --------------------------------------------------------------------------


async def test_what_is_left_is_told(start: Start) -> None:
    """Every answer counts down in both families of headers; then 429 says when to come again."""
    async with start(limits__requests_per_minute=4, limits__window=30) as server:
        for left in (3, 2, 1, 0):
            headers = (await ask(server)).headers
            for prefix in ("X-RateLimit", "RateLimit"):
                assert headers[f"{prefix}-Limit"] == "4"
                assert headers[f"{prefix}-Remaining"] == str(left)
            assert 0 < int(headers["RateLimit-Reset"]) <= 30
            assert 0 <= int(headers["X-RateLimit-Reset"]) - time.time() <= 31
        refused = await ask(server)
        assert (refused.status, await code(refused)) == (429, "rate_limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert refused.headers["RateLimit-Remaining"] == "0"
        # Wrong ones count as well, and what is everybody's is counted for nobody.
        assert (await ask(server, "/v1/download/status/x")).status == 429
        for path in ("/health", "/health/live", "/metrics", "/openapi.json", "/"):
            answer = await ask(server, path)
            assert answer.status == 200
            assert "RateLimit-Limit" not in answer.headers
        async with server.client.get("/metrics") as response:
            assert "rate_limited_total 2.0" in await response.text()


async def test_the_window_moves(start: Start) -> None:
    """What is older than the window counts no more."""
    async with start(limits__requests_per_minute=2, limits__window=1) as server:
        assert [(await ask(server)).status for _ in range(3)] == [200, 200, 429]
        await asyncio.sleep(1.1)
        assert [(await ask(server)).status for _ in range(3)] == [200, 200, 429]


async def test_processes_count_together(start: Start, tmp_path: Path) -> None:
    """Two servers on one Redis let as many pass as one would."""
    given = {"limits__requests_per_minute": 6, "state__prefix": "{shared-rates}:"}
    async with (
        start(**given) as one,
        start(**given, state__data_dir=str(tmp_path / "other")) as two,
    ):
        found = [(await ask(server)).status for server in (one, two) * 5]
        assert found == [200] * 6 + [429] * 4


async def test_events_tell_too(start: Start, origin: Origin) -> None:
    """A stream's head has the headers as well."""
    async with start(limits__requests_per_minute=50) as server:
        job = await server.initiate({"source_urls": [origin.url(size=10)]})
        async with server.client.get(job["subscribeUrl"]) as response:
            assert response.headers["RateLimit-Limit"] == "50"


async def test_by_address_through_proxies(start: Start) -> None:
    """Behind a trusted proxy each client has its own rate; nobody gets another by a header."""
    given = {"limits__requests_per_minute": 2}
    async with start(**given, server__trusted_proxies=["127.0.0.0/8"]) as server:
        for client in ("203.0.113.1", "203.0.113.2", "2001:db8:1::1"):
            found = [(await ask(server, X_Forwarded_For=client)).status for _ in range(3)]
            assert found == [200, 200, 429], client
        # What the client itself wrote stands to the left of what the proxy saw.
        assert (await ask(server, X_Forwarded_For="9.9.9.9, 203.0.113.1")).status == 429
        # A site has more addresses of IPv6 than anybody could count.
        assert (await ask(server, X_Forwarded_For="2001:db8:1::ffff:2")).status == 429
        assert (await ask(server, X_Forwarded_For="2001:db8:1:1::1")).status == 200
    async with start(**given) as server:
        found = [(await ask(server, X_Forwarded_For=f"203.0.113.{it}")).status for it in range(3)]
        assert found == [200, 200, 429]


TRUSTED = tuple(ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "192.0.2.7"))


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        # Not trusted: what it says is not heard.
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        # From the right, over as many proxies as are trusted.
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9", "10.0.0.2, 192.0.2.7"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # What makes no sense ends it: the last that was known is taken.
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, "], "10.0.0.1"),
        ("10.0.0.1", [","], "10.0.0.1"),
        ("10.0.0.1", ["_hidden"], "10.0.0.1"),
        ("10.0.0.1", ["0x7f.1"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9\t"], "203.0.113.9"),
        # Ports, brackets, zones, and IPv4 seen by a socket of both families.
        ("10.0.0.1", ["203.0.113.9:1234"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:1234"], "2001:db8::1"),
        ("10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("fe80::1%eth0", ["203.0.113.9"], "fe80::1"),
        ("", ["203.0.113.9"], ""),
        (None, ["203.0.113.9"], None),
    ],
)
def test_who_asks(remote: str | None, forwarded: list[str], client: str | None) -> None:
    """The client is the first from the right that no trusted proxy is."""
    assert client_address(remote, forwarded, TRUSTED) == client


async def test_by_user_and_role(start: Start, tmp_path: Path) -> None:
    """A user has one rate from anywhere, and the one of the role; strangers count by address."""
    path = tmp_path / "keys.json"
    ann = api_keys.add(path, user="ann", role="user", now=0)
    again = api_keys.add(path, user="ann", role="user", now=0)
    root = api_keys.add(path, user="root", role="admin", now=0)
    async with start(
        auth__mode="api-keys",
        auth__api_keys_file=str(path),
        limits__requests_per_minute=3,
        limits__quotas={"admin": {"requests_per_minute": 5}},
    ) as server:
        keys = (ann, again, ann, again)
        assert [(await ask(server, X_API_Key=key)).status for key in keys] == [200, 200, 200, 429]
        assert [(await ask(server, X_API_Key=root)).status for _ in range(6)] == [200] * 5 + [429]
        # Guessing keys is no way around it.
        assert [(await ask(server, X_API_Key=f"dk_{it}")).status for it in range(4)] == [
            401,
            401,
            401,
            429,
        ]
        assert (await ask(server)).status == 429
        # Nor is asking for what cannot be a job.
        assert (await ask(server, "/v1/download/stream/x?token=a")).status == 429


# --- jobs and bytes --------------------------------------------------------------------


async def test_new_jobs(start: Start, origin: Origin) -> None:
    """So many in a minute; the same job again is none, nor is one that was refused."""
    async with start(limits__jobs_per_minute=2) as server:
        assert (await make(server, origin.url(size=1, n=1))).status == 200
        for _ in range(5):
            assert (await make(server, origin.url(size=1, n=1))).status == 200
            assert (await make(server, "http://10.0.0.1/")).status == 400
        key = {"Idempotency-Key": "k"}
        assert (await make(server, origin.url(size=1, n=2), headers=key)).status == 200
        assert (await make(server, origin.url(size=1, n=2), headers=key)).status == 200
        # What is made already is had at the limit, too, and a conflict is told.
        assert (await make(server, origin.url(size=1, n=1))).status == 200
        assert (await make(server, origin.url(size=1, n=3), headers=key)).status == 422
        refused = await make(server, origin.url(size=1, n=4))
        assert (refused.status, await code(refused)) == (429, "rate_limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        # It has no less than before for looking at what there is.
        assert (await ask(server)).status == 200


async def test_a_job_that_is_not_made_is_given_back(start: Start, origin: Origin) -> None:
    """A full queue and a conflict cost nothing."""
    async with start(limits__jobs_per_minute=3, jobs__queue_limit=1, jobs__concurrency=1) as server:
        slow = origin.url(size=1000, stall_after=1)
        await server.initiate({"source_urls": [slow]}, Idempotency_Key="k")
        for _ in range(200):
            async with server.client.get(JOBS, params={"status": "processing"}) as response:
                if (await response.json())["total"]:
                    break
            await asyncio.sleep(0.05)
        assert (await make(server, f"{slow}&n=1")).status == 200
        for number in range(4):
            assert (await make(server, f"{slow}&n=x{number}")).status == 503
            conflict = await make(server, f"{slow}&y", headers={"Idempotency-Key": "k"})
            assert conflict.status == 422


async def test_checks_of_a_list(start: Start, origin: Origin) -> None:
    """They ask as many sources as jobs do, so there are as few; a look at one id is no such."""
    async with start(limits__jobs_per_minute=2) as server:

        async def check(body: dict[str, Any]) -> int:
            async with server.client.post("/v1/download/check", json=body) as response:
                return response.status

        body = {"source_urls": [origin.url(size=1)]}
        assert [await check(body) for _ in range(3)] == [200, 200, 429]
        assert [await check({"file_id": 70000}) for _ in range(3)] == [200, 200, 200]
        assert (await make(server, origin.url(size=1))).status == 200


async def test_many_at_once(start: Start, origin: Origin) -> None:
    """Requests that come together are counted one by one."""
    async with start(limits__jobs_per_minute=5) as server:
        urls = [origin.url(size=1, n=number) for number in range(30)]
        answers = await asyncio.gather(*(make(server, url) for url in urls))
        found = [answer.status for answer in answers]
        assert (found.count(200), found.count(429)) == (5, 25)


async def test_quotas_of_a_day(start: Start, origin: Origin, tmp_path: Path) -> None:
    """Jobs and bytes by role: one user's are not another's, an admin's are unlimited here."""
    path = tmp_path / "keys.json"
    key = {
        name: {"X-API-Key": api_keys.add(path, user=name, role=role, now=0)}
        for name, role in (("ann", "user"), ("bob", "user"), ("cy", "user"), ("root", "admin"))
    }
    quotas = {"user": {"jobs_per_day": 2, "bytes_per_day": "1 MiB"}}
    async with start(
        auth__mode="api-keys", auth__api_keys_file=str(path), limits__quotas=quotas
    ) as server:

        async def status(who: str, *, md5: str | None = None, **query: Any) -> tuple[int, str]:
            nonlocal made
            file = {"url": origin.url(**query), **({"md5": md5} if md5 else {})}
            answer = await make(server, files=[file], headers=key[who])
            body = await answer.json()
            if answer.status != 200:
                assert int(answer.headers["Retry-After"]) > 3600
                return answer.status, body["code"]
            for _ in range(400):
                path = f"/v1/download/status/{body['jobId']}"
                async with server.client.get(path, headers=key[who]) as response:
                    made = await response.json()
                if made["status"] in ("completed", "failed"):
                    break
                await asyncio.sleep(0.02)
            # It is charged when its worker is done, a moment after it has ended.
            await asyncio.sleep(0.2)
            return 200, ""

        async def retried(who: str) -> tuple[int, str]:
            path = f"/v1/download/{made['jobId']}/retry"
            async with server.client.post(path, headers=key[who]) as response:
                return response.status, (await response.json()).get("code", "")

        made: dict[str, Any] = {}
        for number in range(2):
            assert await status("ann", size=10, n=number) == (200, "")
        assert await status("ann", size=10, n=9) == (429, "quota_exceeded")
        # What failed was fetched, and what is tried again is fetched again.
        assert await status("bob", size=2 << 20, md5="0" * 32) == (200, "")
        assert made["status"] == "failed"
        assert await status("bob", size=10, n=7) == (429, "quota_exceeded")
        assert await retried("bob") == (429, "quota_exceeded")
        assert await status("cy", size=10, status=404) == (200, "")
        assert await retried("cy") == (200, "")
        assert await status("cy", size=10, n=8) == (429, "quota_exceeded")
        for number in range(3):
            assert await status("root", size=2 << 20, n=number) == (200, "")


# --- streams ---------------------------------------------------------------------------


async def test_streams_at_once(start: Start, origin: Origin) -> None:
    """So many of one client, as events or WebSockets; what ends makes room."""
    async with start(limits__streams_per_client=2) as server, AsyncExitStack() as stack:
        slow = await server.initiate({"source_urls": [origin.url(size=100, stall_after=1)]})
        path = slow["subscribeUrl"]
        await stack.enter_async_context(server.client.get(path))
        ws = await stack.enter_async_context(server.client.ws_connect(path))
        for other in (path, f"/v1/download/stream/{slow['jobId']}"):
            async with server.client.get(other) as response:
                assert (response.status, await code(response)) == (429, "too_many_streams")
                assert int(response.headers["Retry-After"]) >= 1
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await server.client.ws_connect("/ws")
        assert caught.value.status == 429
        await ws.close()
        for _ in range(100):
            async with server.client.get(path) as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.05)
        assert response.status == 200


async def test_streams_in_all(start: Start, origin: Origin) -> None:
    """When no more fit, whoever comes is told to poll: 503."""
    async with start(limits__streams=1) as server:
        slow = await server.initiate({"source_urls": [origin.url(size=100, stall_after=1)]})
        async with (
            server.client.get(slow["subscribeUrl"]),
            server.client.get(slow["subscribeUrl"]) as second,
        ):
            assert (second.status, await code(second)) == (503, "streams_full")
            assert int(second.headers["Retry-After"]) >= 1


# --- where it is counted ---------------------------------------------------------------


@pytest.fixture
async def limits(valkey: Valkey) -> AsyncIterator[Limits]:
    async with open_limits(valkey.url, Keys(f"{{{time.time_ns()}}}:")) as opened:
        yield opened


async def test_spending(limits: Limits) -> None:
    """Amounts add up, are given back, and looked at without being counted."""

    async def spend(amount: int) -> tuple[int, bool]:
        left = await limits.spend("bytes", "ann", amount, limit=10, seconds=100)
        assert left.granted or 0 < left.reset <= 100
        return left.remaining, left.granted

    assert await spend(0) == (10, True)
    assert await spend(4) == (6, True)
    assert await spend(0) == (6, True)
    assert await spend(6) == (0, True)
    assert await spend(0) == (0, False)
    assert await spend(1) == (0, False)
    assert await spend(-3) == (2, True)
    big = await limits.spend("bytes", "bob", 1 << 50, limit=1 << 51, seconds=100)
    assert big.remaining == 1 << 50


async def test_who_is_alone_keeps_no_minutes(valkey: Valkey) -> None:
    """Without other processes requests are counted in memory; what lasts a day is in Redis."""
    keys = Keys(f"{{{time.time_ns()}}}:")
    async with open_limits(valkey.url, keys, alone=True) as limits:
        paced = [await limits.pace("r", "x", limit=2, seconds=60) for _ in range(3)]
        assert [it.granted for it in paced] == [True, True, False]
        await limits.spend("b", "x", 3, limit=5, seconds=60)
    async with open_limits(valkey.url, keys, alone=True) as again:
        assert (await again.spend("b", "x", 0, limit=5, seconds=60)).remaining == 2


async def test_names_are_no_wildcards(limits: Limits) -> None:
    """Users may be called anything; each is counted alone."""
    for who in ("a", "a/b", "*", "a b", "{x}", "%s", "é", "a:b"):
        left = await limits.pace("requests", f"user {who}", limit=5, seconds=60)
        assert left.remaining == 4, who


@pytest.mark.parametrize("trouble", ["kill", "pause"])
async def test_in_memory_while_redis_is_away(trouble: str) -> None:
    """Nobody waits long, nobody is let through uncounted, and all is as before afterwards."""
    with valkey_server(durable=True) as server:
        async with open_limits(server.url, Keys()) as limits:
            assert (await limits.pace("r", "x", limit=3, seconds=60)).remaining == 2
            getattr(server, trouble)()
            began = time.monotonic()
            found = [await limits.pace("r", "x", limit=3, seconds=60) for _ in range(4)]
            assert [it.granted for it in found] == [True, True, True, False]
            spent = await limits.spend("b", "x", 7, limit=10, seconds=60)
            assert (spent.remaining, spent.granted) == (3, True)
            assert time.monotonic() - began < 30
            getattr(server, {"kill": "start", "pause": "resume"}[trouble])()
            limits._away_until = 0.0
            left = await limits.pace("r", "x", limit=3, seconds=60)
            # What was sent to a Redis that was frozen is done when it thaws.
            assert left.remaining in {"kill": (1,), "pause": (0, 1)}[trouble]


@pytest.mark.parametrize(
    "burst",
    [
        pytest.param(lambda limits: limits.pace("r", "x", limit=50, seconds=60), id="pace"),
        pytest.param(lambda limits: limits.spend("b", "x", 1, limit=50, seconds=60), id="spend"),
    ],
)
async def test_a_burst_is_counted_in_redis(limits: Limits, burst: Callable[[Limits], Any]) -> None:
    """A thousand at once wait for the few connections there are, and none goes by uncounted."""
    found = await asyncio.gather(*(burst(limits) for _ in range(1000)))
    assert sum(it.granted for it in found) == 50
    assert limits._away_until == 0.0
