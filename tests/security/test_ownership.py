"""Who may do what with whose job: every call × owner, another, admin, nobody (SPEC §7)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from downloadd.access import api_keys
from downloadd.access.event_tokens import EventTokens
from downloadd.app.site import SECRET
from downloadd.sealing import derived
from downloadd.web.routes import LOCAL_ROUTES, ROUTES
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin

USERS = {"owner": ("ann", "user"), "other": ("bob", "user"), "admin": ("root", "admin")}


@dataclass(frozen=True)
class House:
    """A server that asks who calls, and what each of its callers sends."""

    server: Server
    headers: dict[str, dict[str, str]]
    keys_file: Path

    async def ask(
        self, who: str, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        sent = {**self.headers[who], **headers}
        async with self.server.client.request(
            method, path, json=body, headers=sent, allow_redirects=False
        ) as response:
            raw = await response.read()
        json_sent = response.content_type == "application/json"
        return response.status, json.loads(raw) if json_sent else raw.decode()

    async def make(self, who: str, url: str, **more: Any) -> dict[str, Any]:
        body = {"source_urls": [url], **more}
        status, job = await self.ask(who, "POST", "/v1/download/initiate", body)
        assert status == 200, job
        return dict(job)

    async def ended(self, who: str, job_id: str) -> dict[str, Any]:
        for _ in range(400):
            _, job = await self.ask(who, "GET", f"/v1/download/status/{job_id}")
            if job["status"] in ("completed", "failed", "cancelled"):
                return dict(job)
            await asyncio.sleep(0.05)
        raise AssertionError("the job did not end")


@pytest.fixture
async def house(start: Start, tmp_path: Path) -> AsyncIterator[House]:
    path = tmp_path / "keys.json"
    headers: dict[str, dict[str, str]] = {"anonymous": {}}
    for who, (user, role) in USERS.items():
        key = api_keys.add(path, user=user, role=role, now=time.time())
        headers[who] = {"Authorization": f"Bearer {key}"}
    async with start(auth__mode="api-keys", auth__api_keys_file=str(path)) as server:
        yield House(server, headers, path)


#: Every call that names a job: how it is asked, and what its owner is answered
#: when the job is completed.
CALLS = {
    ("GET", "/v1/download/status/{job_id}"): 200,
    ("GET", "/v1/download/subscribe/{job_id}"): 200,
    ("GET", "/v1/download/stream/{job_id}"): 200,
    ("GET", "/v1/download/result/{job_id}"): 200,
    ("GET", "/v1/export/{job_id}"): 200,
    ("GET", "/v1/export/{job_id}/progress"): 200,
    ("GET", "/v1/export/{job_id}/download"): 200,
    ("GET", "/v1/download/job/{job_id}"): 200,
    ("POST", "/v1/download/job/{job_id}/retry"): 409,
    ("GET", "/v1/download/job/{job_id}/download-url"): 200,
    ("DELETE", "/v1/download/cancel/{job_id}"): 409,
    ("GET", "/v1/download/{job_id}"): 302,
    ("DELETE", "/v1/download/{job_id}"): 409,
    ("GET", "/v1/download/{job_id}/deliveries"): 200,
    ("POST", "/v1/download/{job_id}/deliveries/replay"): 409,
    ("POST", "/v1/download/{job_id}/retry"): 409,
}
#: Calls that name none, and what who may call is answered to nothing at all.
OTHERS = {
    ("POST", "/v1/download/initiate"): 400,
    ("POST", "/v1/download/start"): 400,
    ("POST", "/v1/download/check"): 400,
    ("POST", "/v1/export"): 400,
    ("GET", "/v1/download/jobs"): 200,
}
#: What is everybody's, and what says itself who may have it.
OPEN = {
    ("GET", "/"): 200,
    ("GET", "/openapi.json"): 200,
    ("GET", "/docs"): 200,
    ("GET", "/docs/{asset}"): 404,
    ("GET", "/health"): 200,
    ("GET", "/health/live"): 200,
    ("GET", "/health/ready"): 200,
    ("GET", "/metrics"): 200,
    ("GET", "/ws"): 400,
    ("GET", "/v1/files/{key}"): 403,
}


def test_every_route_is_in_the_matrix() -> None:
    """A call that is added has to say whose it is."""
    routes = set()
    for route in (*ROUTES, *LOCAL_ROUTES):
        path = re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", route.path)
        routes.add((route.method, path))
    assert routes == {*CALLS, *OTHERS, *OPEN}


async def test_whose_jobs_are_whose(house: House, origin: Origin) -> None:
    """Owner and admin are answered, others learn nothing (404), nobody is asked who he is (401)."""
    job = await house.make("owner", origin.url(size=10))
    await house.ended("owner", job["jobId"])
    unknown = "00000000-0000-4000-8000-000000000000"
    for (method, template), status in CALLS.items():
        path = template.format(job_id=job["jobId"])
        for who, expected in (("owner", status), ("admin", status), ("other", 404)):
            got, answer = await house.ask(who, method, path)
            assert got == expected, (method, path, who, answer)
        _, hidden = await house.ask("other", method, path)
        _, missing = await house.ask("other", method, template.format(job_id=unknown))
        # Not even by its words does it differ from a job that never was.
        assert hidden["message"].replace(job["jobId"], unknown) == missing["message"]
        assert hidden["code"] == missing["code"] == "job_not_found"
        got, answer = await house.ask("anonymous", method, path)
        assert (got, answer["code"]) == (401, "unauthorized"), (method, path)


async def test_calls_without_a_job(house: House) -> None:
    """All who are known may make and list jobs; nobody else."""
    for (method, path), status in OTHERS.items():
        body = {} if method == "POST" else None
        for who in USERS:
            assert (await house.ask(who, method, path, body))[0] == status, (method, path, who)
        got, answer = await house.ask("anonymous", method, path, body)
        assert (got, answer["code"]) == (401, "unauthorized"), (method, path)
    for (method, template), status in OPEN.items():
        path = template.format(asset="x", key="x")
        for who in ("anonymous", "other"):
            assert (await house.ask(who, method, path))[0] == status, (method, path, who)
        # What is everybody's does not look at what else is sent.
        wrong = {"Authorization": "Basic YTpi"}
        async with house.server.client.request(method, path, headers=wrong) as response:
            assert response.status == (401 if path == "/ws" else status)


async def test_acting_on_a_job_that_goes_on(house: House, origin: Origin) -> None:
    """Another neither cancels nor retries it; its owner, and an admin, do."""
    slow = origin.url(size=1000, stall_after=10)
    job = (await house.make("owner", slow))["jobId"]
    for method, path in (
        ("DELETE", f"/v1/download/{job}"),
        ("DELETE", f"/v1/download/cancel/{job}"),
        ("POST", f"/v1/download/{job}/retry"),
    ):
        assert (await house.ask("other", method, path))[0] == 404
    assert (await house.ask("owner", "GET", f"/v1/download/status/{job}"))[1]["status"] in (
        "queued",
        "processing",
    )
    assert (await house.ask("admin", "DELETE", f"/v1/download/{job}"))[0] == 200
    assert (await house.ask("owner", "POST", f"/v1/download/{job}/retry"))[0] == 200
    assert (await house.ask("owner", "DELETE", f"/v1/download/{job}"))[0] == 200


async def test_lists(house: House, origin: Origin) -> None:
    """Each has their own; an admin everybody's, or somebody's."""
    made = {}
    for who in USERS:
        made[who] = (await house.make(who, origin.url(size=10, n=who)))["jobId"]

    async def listed(who: str, query: str = "") -> list[str]:
        status, answer = await house.ask(who, "GET", f"/v1/download/jobs{query}")
        assert status == 200, answer
        assert answer["total"] == len(answer["jobs"])
        return [job["jobId"] for job in answer["jobs"]]

    assert await listed("owner") == [made["owner"]]
    assert await listed("other") == [made["other"]]
    assert await listed("admin") == [made["admin"], made["other"], made["owner"]]
    assert await listed("admin", "?user=ann") == [made["owner"]]
    assert await listed("admin", "?user=nobody") == []
    assert await listed("admin", "?user=") == await listed("admin")
    assert await listed("owner", "?user=ann") == [made["owner"]]
    for query in ("?user=bob", "?user=", "?user=ann&user=bob"):
        status, answer = await house.ask("owner", "GET", f"/v1/download/jobs{query}")
        if query.startswith("?user=ann&"):
            assert [job["jobId"] for job in answer["jobs"]] == [made["owner"]]
        else:
            assert (status, answer["code"]) == (403, "forbidden"), query


async def test_the_same_body_of_two_users_is_two_jobs(house: House, origin: Origin) -> None:
    """Neither by its body nor by an Idempotency-Key does anybody get another's job."""
    body = {"source_urls": [origin.url(size=10)]}
    path = "/v1/download/initiate"
    ids = {who: (await house.ask(who, "POST", path, body))[1]["jobId"] for who in USERS}
    assert len(set(ids.values())) == 3
    named = {"Idempotency-Key": "k"}
    ids = {who: (await house.ask(who, "POST", path, body, **named))[1]["jobId"] for who in USERS}
    assert len(set(ids.values())) == 3


# --- tokens for events ----------------------------------------------------------------


async def test_an_event_token_is_good_for_events_alone(house: House, origin: Origin) -> None:
    """It opens the streams of its job without a header, and nothing else, nor another job's."""
    job = await house.make("owner", origin.url(size=10))
    mine = job["jobId"]
    path, _, token = job["subscribeUrl"].partition("?token=")
    assert path == f"/v1/download/subscribe/{mine}"
    await house.ended("owner", mine)
    other = (await house.make("other", origin.url(size=10, n=2)))["jobId"]
    for (method, template), status in CALLS.items():
        got, answer = await house.ask(
            "anonymous", method, f"{template.format(job_id=mine)}?token={token}"
        )
        events = "subscribe" in template or "stream" in template or "progress" in template
        assert got == (status if events else 401), (method, template, answer)
        got, _ = await house.ask(
            "anonymous", method, f"{template.format(job_id=other)}?token={token}"
        )
        assert got == 401, (method, template)
    for method, path in OTHERS:
        assert (await house.ask("anonymous", method, f"{path}?token={token}"))[0] == 401
    # Nor is it a key.
    for headers in ({"Authorization": f"Bearer {token}"}, {"X-API-Key": token}):
        got, _ = await house.ask("anonymous", "GET", f"/v1/download/status/{mine}", **headers)
        assert got == 401
    # And one does not make up for a credential that is wrong.
    got, _ = await house.ask("anonymous", "GET", job["subscribeUrl"], **{"X-API-Key": "dk_x"})
    assert got == 401


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "",
        lambda token: "x",
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.replace(".", ","),
        lambda token: "9" + token,
        lambda token: "9999999999" + token[10:],
        lambda token: token.partition(".")[0] + "." + "A" * 43,
        lambda token: "٩" * 10 + token[10:],
        lambda token: "\0" + token,
    ],
)
async def test_a_spoilt_event_token(house: House, origin: Origin, spoil: Any) -> None:
    """Longer life, another signature: nothing that was not given is good."""
    job = await house.make("owner", origin.url(size=10))
    path, _, token = job["subscribeUrl"].partition("?token=")
    async with house.server.client.get(path, params={"token": spoil(token)}) as response:
        assert response.status == 401
        assert (await response.json())["code"] == "unauthorized"


async def test_event_tokens_expire(house: House, origin: Origin) -> None:
    """The same token for some minutes, so that an ETag lasts; none after its time."""
    job = await house.make("owner", origin.url(size=10))
    path, _, token = job["subscribeUrl"].partition("?token=")
    expiry = int(token.partition(".")[0])
    assert 3600 <= expiry - time.time() <= 3600 + 300
    secret = house.server.app[SECRET]
    assert secret is not None
    early = EventTokens(derived(secret, "events"), ttl=3600, now=lambda: time.time() - 4000)
    old = early.make(job["jobId"])
    async with house.server.client.get(path, params={"token": old}) as response:
        assert response.status == 401
        assert "expired" in (await response.json())["message"]
    stranger = EventTokens(derived(b"x" * 32, "events"), ttl=3600).make(job["jobId"])
    async with house.server.client.get(path, params={"token": stranger}) as response:
        assert response.status == 401


async def test_every_form_of_a_job_carries_its_token(house: House, origin: Origin) -> None:
    """Made, polled, listed, exported, told of in its first event: one can go on from each."""
    job = await house.make("owner", origin.url(size=10))
    _, polled = await house.ask("owner", "GET", f"/v1/download/status/{job['jobId']}")
    _, snake = await house.ask("owner", "GET", f"/v1/download/status/{job['jobId']}?case=snake")
    _, page = await house.ask("owner", "GET", "/v1/download/jobs")
    _, export = await house.ask("owner", "POST", "/v1/export", {"source_urls": [origin.url(n=1)]})
    urls = [
        job["subscribeUrl"],
        polled["subscribeUrl"],
        snake["subscribe_url"],
        page["jobs"][0]["subscribeUrl"],
    ]
    bare = f"/v1/download/subscribe/{job['jobId']}"
    assert f'"subscribeUrl":"{job["subscribeUrl"]}"' in await first_event(house, "owner", bare)
    # A token is not renewed by itself.
    told = await first_event(house, "anonymous", job["subscribeUrl"])
    assert f'"subscribeUrl":"{bare}"' in told
    for url in (*urls, export["subscribeUrl"]):
        async with house.server.client.get(url) as response:
            assert response.status == 200


async def first_event(house: House, who: str, path: str) -> str:
    async with house.server.client.get(path, headers=house.headers[who]) as response:
        assert await response.content.readuntil(b"\r\n\r\n") == b"retry: 3000\r\n\r\n"
        return (await response.content.readuntil(b"\r\n\r\n")).decode()


async def test_websockets(house: House, origin: Origin) -> None:
    """A browser's cannot send headers either: by token on a job's, and for each job on /ws."""
    job = await house.make("owner", origin.url(size=10))
    mine, token = job["jobId"], job["subscribeUrl"].partition("?token=")[2]
    await house.ended("owner", mine)
    client = house.server.client
    async with client.ws_connect(job["subscribeUrl"]) as ws:
        assert (await ws.receive_json())["type"] == "status"
    for path in (f"/v1/download/subscribe/{mine}", f"/v1/download/stream/{mine}"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.ws_connect(path)
        assert caught.value.status == 401
    async with client.ws_connect("/ws") as ws:

        async def told(**more: Any) -> dict[str, Any]:
            await ws.send_json({"type": "subscribe", "job_id": mine, **more})
            answer: dict[str, Any] = await ws.receive_json(timeout=10)
            return answer

        assert (await told())["code"] == "unauthorized"
        assert (await told(token="x"))["code"] == "unauthorized"
        assert (await told(token=7))["code"] == "unauthorized"
        # Half of a surrogate pair, as an escape: no id, and told in one that can be sent.
        await ws.send_str(r'{"type": "subscribe", "job_id": "\ud800"}')
        answer = await ws.receive_json(timeout=10)
        assert (answer["job_id"], answer["code"]) == (r"\ud800", "validation_error")
        answer = await told(token=token)
        assert answer["status"] == "completed"
        assert "token" not in answer["subscribe_url"]
    # Who is somebody else gets no token of their own by it.
    async with client.ws_connect("/ws", headers=house.headers["other"]) as ws:
        await ws.send_json({"type": "subscribe", "job_id": mine, "token": token})
        answer = await ws.receive_json(timeout=10)
        assert answer["status"] == "completed"
        assert "token" not in answer["subscribe_url"]
    for who, key in (("owner", None), ("admin", None), ("other", "job_not_found")):
        async with client.ws_connect("/ws", headers=house.headers[who]) as ws:
            await ws.send_json({"type": "subscribe", "job_id": mine})
            assert (await ws.receive_json(timeout=10)).get("code") == key


# --- keys -----------------------------------------------------------------------------


async def test_keys_come_and_go(house: House) -> None:
    """One that is added counts within a second, one that is revoked no more.

    A file that is spoilt counts as it was.
    """

    async def status(key: str, header: str = "X-API-Key") -> int:
        return (await house.ask("anonymous", "GET", "/v1/download/jobs", **{header: key}))[0]

    key = api_keys.add(house.keys_file, user="new", role="user", now=time.time())
    await asyncio.sleep(1.1)
    assert await status(key) == 200
    api_keys.revoke(house.keys_file, key.split("_")[1])
    short = api_keys.add(
        house.keys_file, user="new", role="user", now=time.time(), expires_at=time.time() + 2
    )
    await asyncio.sleep(1.1)
    assert (await status(key), await status(short)) == (401, 200)
    house.keys_file.write_text("{")
    await asyncio.sleep(1.1)
    assert (await status(key), await status(short)) == (401, 401)
    assert (await house.ask("owner", "GET", "/v1/download/jobs"))[0] == 200


async def test_wrong_keys(house: House) -> None:
    """Another's secret under a known id, cut, longer, twice, empty: nobody's."""
    good = house.headers["owner"]["Authorization"].partition(" ")[2]
    other = house.headers["other"]["Authorization"].partition(" ")[2]
    mark, key_id, _ = good.split("_", 2)
    for wrong in (
        f"{mark}_{key_id}_{other.split('_', 2)[2]}",
        good[:-1],
        good + "x",
        good.upper(),
        f"{mark}_{key_id}_",
        f"{mark}_{key_id}",
        api_keys.digest(good),
        "x" * 5000,
        "dk_" + "0" * 12 + "_" + "A" * 43,
        "",
        " ",
        good.encode().hex(),
    ):
        got, answer = await house.ask(
            "anonymous", "GET", "/v1/download/jobs", **{"X-API-Key": wrong}
        )
        assert (got, answer["code"]) == (401, "unauthorized"), wrong[:60]
        assert not wrong.strip() or wrong not in json.dumps(answer)
    both = {"X-API-Key": good, "Authorization": f"Bearer {good}"}
    assert (await house.ask("anonymous", "GET", "/v1/download/jobs", **both))[0] == 401
    kept = house.keys_file.read_text()
    assert good.split("_", 2)[2] not in kept
    assert house.keys_file.stat().st_mode & 0o077 == 0
