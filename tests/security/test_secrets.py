"""Planted secrets: after jobs of every fate, they are nowhere that anything was written.

What may have one is named in SECURITY.md: Redis has the URLs of sources and
callbacks, for they are asked for again; and a signed link to an archive is in
the job resource, its events and its webhook.
"""

from __future__ import annotations

import base64
import json
import time
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from downloadd.access import api_keys
from tests.e2e.service import Service, eventually
from tests.origin import Origin
from tests.receiver import SECRET as WEBHOOK_SECRET
from tests.receiver import Receiver
from tests.security.minting import SECRET as JWT_SECRET
from tests.security.minting import mint
from tests.valkey import valkey_server

#: In a request's headers for a source: nowhere at all.
HEADER = "s3cr3t-in-a-header"
#: In URLs: where they are kept, and nowhere else.
PASSWORD, SIGNATURE = "s3cr3t-password", "s3cr3t-signature"
HOOK_PASSWORD, HOOK_TOKEN = "s3cr3t-hook-password", "s3cr3t-hook-token"
IN_URLS = (PASSWORD, SIGNATURE, HOOK_PASSWORD, HOOK_TOKEN)


@dataclass
class Papers:
    """Everything that the system wrote, by what it is called."""

    found: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.found[name] = self.found.get(name, b"") + raw

    def where(self, secret: str) -> set[str]:
        """Where it is, as it is or in one of the spellings that it may have been given."""
        forms = (
            secret.encode(),
            base64.b64encode(secret.encode()).rstrip(b"=")[:-2],
            secret.encode().hex().encode(),
            json.dumps(secret)[1:-1].encode(),
        )
        return {name for name, raw in self.found.items() if any(form in raw for form in forms)}


def secretive(url: str, password: str, token: str) -> str:
    """The URL with a user, a password and a signature."""
    join = "&" if "?" in url else "?"
    address = url.replace("://", f"://user:{password}@", 1)
    return f"{address}{join}X-Amz-Signature={token}&sig={token}&token={token}&x={token}#{token}"


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files below a folder but those that keep the server's own keys."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()


async def everything_asked(server: Service, job_id: str, papers: Papers) -> None:
    for call in (
        f"status/{job_id}?files=true",
        f"result/{job_id}",
        f"job/{job_id}",
        f"{job_id}/deliveries",
        "jobs?limit=100",
        f"stream/{job_id}",
        f"subscribe/{job_id}?lastEventId=0-0",
    ):
        async with server.client.get(f"/v1/download/{call}") as response:
            papers.add(f"answer {call.partition('/')[0]}", await response.read())
            papers.add("answer headers", str(dict(response.headers)))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.mark.timeout(120)
async def test_planted_secrets(tmp_path: Path, origin: Origin, receiver: Receiver) -> None:
    """Logs, metrics, answers, events, webhooks, archives, files: none of them has one."""
    papers, data = Papers(), tmp_path / "data"
    environ = {
        "DOWNLOADD_AUTH_MODE": "jwt",
        "DOWNLOADD_AUTH_JWT_KEY": JWT_SECRET,
        "DOWNLOADD_WEBHOOKS_SECRET": WEBHOOK_SECRET,
        "DOWNLOADD_TELEMETRY_LOG_LEVEL": "debug",
        "DOWNLOADD_FETCH_RETRIES": "1",
        "DOWNLOADD_FETCH_STALL_TIMEOUT": "1",
    }
    token = mint(JWT_SECRET, "HS256", iss=None, aud=None)
    async with Service(data, environ) as server:
        server.client.headers["Authorization"] = f"Bearer {token}"
        callback = secretive(receiver.url("500,200", "hook"), HOOK_PASSWORD, HOOK_TOKEN)
        # What goes well, and each way in which it does not.
        urls = [
            origin.url(size=2000),
            origin.url(size=2000, status=404),
            origin.url(size=2000, status=503),
            origin.url(size=2000, drop_after=100),
            origin.url(size=2000, stall_after=100),
            origin.url(size=2000, garbage=1),
            origin.url(size=2000, headerbomb=100_000),
            origin.url(size=2000, lie="shorter"),
            origin.url(size=10, to=secretive(origin.url(size=10, n=2), PASSWORD, SIGNATURE)),
            origin.url(size=10, to=secretive("http://10.0.0.1/x", PASSWORD, SIGNATURE)),
            origin.url(size=10, to=secretive("http://[::1/x", PASSWORD, SIGNATURE)),
            "http://127.0.0.1:1/closed",
            "http://no-such-name.invalid/",
        ]
        files = [
            {
                "url": secretive(url, PASSWORD, SIGNATURE),
                "headers": {"X-Secret": HEADER, "Cookie": f"session={HEADER}"},
            }
            for url in urls
        ]
        jobs = {}
        for name, chosen, on_error in (("all", files, "skip"), ("first bad", files[1:2], "fail")):
            jobs[name] = await server.initiate(
                {
                    "files": chosen,
                    "callback_url": callback,
                    "options": {"manifest": True, "onError": on_error},
                }
            )
        slow = {**files[0], "url": secretive(origin.url(size=9, delay=30), PASSWORD, SIGNATURE)}
        jobs["slow"] = await server.initiate({"files": [slow]})
        with server.valkey() as valkey:
            sealed = str(valkey.get(f"{{downloadd}}:job:{jobs['slow']}:headers"))
        assert sealed.startswith("1:")
        assert await server.cancel(jobs["slow"]) == 200
        ended = {name: await server.ended(job_id) for name, job_id in jobs.items()}
        statuses = [job["status"] for job in ended.values()]
        assert statuses == ["completed", "failed", "cancelled"], ended
        assert len({file.get("errorCode") for file in ended["all"]["files"]}) > 5
        # That they were used.
        assert any(HEADER in str(request.headers) for request in origin.requests)
        await receiver.called(2, "hook")
        for body in (
            {"files": files[:1], "unknown": HEADER},
            {"files": [{"url": files[9]["url"]}] * 2},
        ):
            async with server.client.post("/v1/download/check", json=body) as response:
                papers.add("answer check", await response.read())
        bad = secretive("http://10.0.0.1/x", PASSWORD, SIGNATURE)
        async with server.client.post(
            "/v1/download/initiate", json={"source_urls": [bad]}
        ) as refused:
            assert refused.status == 400
            papers.add("answer refused", await refused.read())
        for wrong in (token[:-3], f"{token}.x", "dk_" + HEADER):
            headers = {"Authorization": f"Bearer {wrong}"}
            async with server.client.get("/v1/download/jobs", headers=headers) as refused:
                assert refused.status == 401
                papers.add("answer unauthorized", await refused.read())
        for job_id in jobs.values():
            await everything_asked(server, job_id, papers)
        # Where browsers, which cannot send headers, like to put their tokens.
        async with server.client.ws_connect("/ws", protocols=("bearer", HEADER)):
            pass
        async with server.client.get("/metrics") as response:
            papers.add("metrics", await response.read())
        for call in receiver.calls():
            papers.add("webhook", call.body)
            papers.add("webhook headers", str({**call.headers, "authorization": ""}))
        archive = await server.archive(ended["all"], tmp_path)
        with zipfile.ZipFile(archive) as opened:
            papers.add("manifest", opened.read("manifest.json"))
            papers.add("names", "\n".join(opened.namelist()))
        papers.add("archive", archive.read_bytes())
        await eventually(lambda: not server.spool(), what="the temporary files are gone")
        for name, raw in written(data):
            kept = name.startswith(("appendonlydir", "valkey/")) or "aof" in name or "rdb" in name
            papers.add("redis" if kept else f"file {name}", raw)
        with server.valkey() as valkey:
            keys = {key for key in valkey.keys("*") if key.endswith(":headers")}
            assert keys == {f"{{downloadd}}:job:{jobs['first bad']}:headers"}
            # Kept as long as the job may be retried.
            assert 0 < valkey.ttl(keys.pop()) <= 3600
        await server.stop()
        papers.add("log", server.log.read_bytes())

    assert len(papers.found["log"]) > 5000
    assert papers.where("127.0.0.1") >= {"log", "manifest", "redis", "answer status"}
    assert papers.where(HEADER) == set()
    for secret in (token, token.rpartition(".")[2], JWT_SECRET, WEBHOOK_SECRET):
        assert papers.where(secret) == set(), secret
    for secret in IN_URLS:
        assert papers.where(secret) == {"redis"}, secret
    _check_links(papers, ended["all"])
    _check_event_tokens(papers, ended["all"])


def _check_links(papers: Papers, job: Mapping[str, Any]) -> None:
    signature = parse_qs(urlsplit(job["downloadUrl"]).query)["signature"][0]
    allowed = {"redis", "webhook"} | {
        f"answer {call}"
        for call in ("status", "result", "job", "jobs?limit=100", "stream", "subscribe")
    }
    assert papers.where(signature) <= allowed
    assert papers.where("signature=") <= allowed


def _check_event_tokens(papers: Papers, job: Mapping[str, Any]) -> None:
    token = job["subscribeUrl"].partition("?token=")[2]
    assert token
    # With a job whose events are told by token the rest of the answers are the caller's own.
    assert not papers.where(token) & {"log", "metrics", "webhook", "manifest", "redis", "archive"}


async def test_a_changed_key_fails_the_job_with_a_word(tmp_path: Path, origin: Origin) -> None:
    """What cannot be opened is not fetched without; the job says why, the others go on."""
    source = {"url": origin.url(size=10, delay=30), "headers": {"X-Secret": HEADER}}
    async with Service(tmp_path / "data", {}) as server:
        job_id = await server.initiate({"files": [source]})
        await server.kill()
        (tmp_path / "data" / "state.key").write_bytes(b"x" * 32)
        await server.start()
        job = await server.ended(job_id)
        assert (job["status"], job["errorCode"]) == ("failed", "job_unreadable")
        assert "state.secret_key" in job["error"]
        other = await server.initiate({"source_urls": [origin.url(size=10)]})
        assert (await server.ended(other))["status"] == "completed"
    assert len([it for it in origin.requests if "X-Secret" in it.headers]) <= 1


async def test_without_a_key_no_headers(tmp_path: Path, origin: Origin) -> None:
    """With a Redis of somebody else's they are refused, by name, until there is a key."""

    with valkey_server() as valkey:
        async with Service(tmp_path / "data", {"REDIS_URL": valkey.url}) as server:
            body = {
                "files": [
                    {"url": origin.url(size=1)},
                    {"url": origin.url(size=2), "headers": {"A": "b"}},
                ]
            }
            async with server.client.post("/v1/download/initiate", json=body) as response:
                answer = await response.json()
            assert (response.status, answer["code"]) == (400, "unsupported_option")
            assert list(answer["details"]) == ["files.1.headers"]
            assert "state.secret_key" in answer["message"]
            del body["files"][1]["headers"]
            await server.ended(await server.initiate(body))


def test_keys_are_not_written(tmp_path: Path) -> None:
    """Of an API key its hash is kept, which says nothing of it."""
    path = tmp_path / "keys.json"
    key = api_keys.add(path, user="ann", role="user", now=time.time())
    text = path.read_text()
    assert key.rpartition("_")[2] not in text
    assert key not in text
