"""What operators see: every metric of SPEC §10 moves as it should, and no label without bounds."""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from downloadd import __version__
from downloadd.errors import DownloaddError
from downloadd.telemetry.metrics import UNMATCHED
from downloadd.web.routes import LOCAL_ROUTES, ROUTES
from tests.e2e.archives import MIB
from tests.e2e.service import Service, eventually, s3_storage
from tests.gateway import Gateway
from tests.integration.web.conftest import SECRET_KEY
from tests.origin import Origin
from tests.receiver import SECRET as WEBHOOK_SECRET
from tests.receiver import Receiver
from tests.tools import require_tool
from tests.valkey import valkey_server

JWT_KEY = "a key of these tests, of more than thirty-two bytes"
ROLES = {"user", "admin"}
INITIATE = "/v1/download/initiate"
STATUS = "/v1/download/status/{job_id}"
#: An admin may ask so often, everybody else as often as they like.
ADMIN_REQUESTS = 3
CONFIG = f"""
[limits]
requests_per_minute = 1000000
quotas = {{ admin = {{ requests_per_minute = {ADMIN_REQUESTS} }} }}
"""

Labels = frozenset[tuple[str, str]]


class Scrape:
    """What ``/metrics`` says at one time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.values.get((name, frozenset(labels.items())), 0.0)

    def labels(self, label: str) -> set[str]:
        """All values of a label, but for those of Python's own metrics."""
        return {
            dict(labels)[label]
            for name, labels in self.values
            if label in dict(labels) and not name.startswith("python_")
        }

    def since(self, earlier: Scrape, name: str, label: str) -> dict[str, float]:
        """By the value of a label: how much a metric has grown, where it has."""
        grown: Counter[str] = Counter()
        for (found, labels), value in self.values.items():
            if found == name:
                grown[dict(labels)[label]] += value - earlier.value(name, **dict(labels))  # type: ignore[assignment]
        return {key: value for key, value in grown.items() if value}


async def scrape(service: Service) -> Scrape:
    async with service.client.get("/metrics") as response:
        assert response.status == 200
        return Scrape(await response.text())


def bearer(role: str = "user") -> dict[str, str]:
    claims = {"sub": f"ann-{role}", "role": role, "exp": int(time.time()) + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, JWT_KEY, 'HS256')}"}


@asynccontextmanager
async def serving(folder: Path, **environ: str) -> AsyncIterator[Service]:
    """A server that takes tokens, and a client that has one."""
    (folder / "config.toml").write_text(CONFIG)
    service = Service(
        folder / "data",
        {
            "DOWNLOADD_AUTH_MODE": "jwt",
            "DOWNLOADD_AUTH_JWT_KEY": JWT_KEY,
            "DOWNLOADD_JOBS_CONCURRENCY": "2",
            "DOWNLOADD_WEBHOOKS_SECRET": WEBHOOK_SECRET,
            "DOWNLOADD_WEBHOOKS_SCHEDULE": "0.05,0.05",
            **environ,
        },
    )
    del service.environ["DOWNLOADD_LIMITS_REQUESTS_PER_MINUTE"]
    async with service:
        await service.client.close()
        service.client = aiohttp.ClientSession(service.url, headers=bearer())
        yield service


async def say(service: Service, data: bytes) -> int:
    """Send bytes over a connection of their own; the status that they are answered with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            line = await reader.readline()
        return int(line.split()[1])
    finally:
        writer.close()


def body(*urls: str, callback: str = "", **options: Any) -> dict[str, Any]:
    told = {"callback_url": callback} if callback else {}
    return {"source_urls": list(urls), "options": {"dedupe": False, **options}, **told}


class Scenario:
    """A day in the life of a server, each event a known number of times."""

    def __init__(self, service: Service, origin: Origin, receiver: Receiver) -> None:
        self.service = service
        self.origin = origin
        self.receiver = receiver
        self.stored = 0

    async def completed(self, *urls: str, callback: str = "") -> dict[str, Any]:
        job_id = await self.service.initiate(body(*urls, callback=callback))
        job = await self.service.ended(job_id)
        assert job["status"] == "completed", job
        self.stored += int(job["totalSize"])
        return job

    async def jobs_that_complete(self) -> None:
        """Three: of two files, of one that takes three tries, of one in two parts."""
        origin, receiver = self.origin, self.receiver
        await self.completed(
            origin.url(1, 1000), origin.url(2, 2000), callback=receiver.url("200", "well")
        )
        await self.completed(origin.url(3, 500, status=503, times=2))
        await self.completed(origin.url(4, 17 * MIB))
        await receiver.called(1, "well")

    async def jobs_that_fail(self) -> None:
        """Two, one of them twice; of their webhooks one comes to nothing, one is unwelcome."""
        receiver, service = self.receiver, self.service
        failing = self.origin.url(5, 10, status=404)
        job_id = await service.initiate(body(failing, callback=receiver.url("500", "down")))
        assert (await service.ended(job_id))["status"] == "failed"
        await receiver.called(3, "down")
        job_id = await service.initiate(body(failing, callback=receiver.url("410", "gone")))
        assert (await service.ended(job_id))["status"] == "failed"
        await receiver.called(1, "gone")
        async with service.client.post(f"/v1/download/{job_id}/retry") as response:
            assert response.status == 200, await response.text()
        assert (await service.ended(job_id))["status"] == "failed"
        await receiver.called(2, "gone")

    async def a_stored_file_that_is_missing(self) -> None:
        job_id = await self.service.initiate({"file_ids": [70000]})
        assert (await self.service.ended(job_id))["status"] == "failed"

    async def jobs_that_are_cancelled(self) -> None:
        """Three: two that both workers are busy with, and one that waits for them."""
        service = self.service
        slow = [self.origin.url(seed, 4 * MIB, stall_after=MIB) for seed in (6, 7, 8)]
        running = [await service.initiate(body(url)) for url in slow[:2]]
        await eventually(lambda: self.spooled(8 * MIB), what="both have begun")
        waiting = await service.initiate(body(slow[2]))
        path = f"/v1/download/subscribe/{running[0]}"
        async with service.client.get(path) as stream, service.client.ws_connect(path) as ws:
            await stream.content.readline()
            await ws.receive_json()
            now = await scrape(service)
            assert now.value("downloads_active") == now.value("download_active_workers") == 2
            assert now.value("download_queue_depth") == 1
            assert now.value("active_sse_connections") == 1
            assert now.value("active_websocket_connections") == 1
            for job_id in (waiting, *running):
                assert await service.cancel(job_id) == 200

    async def spooled(self, size: int) -> bool:
        return (await scrape(self.service)).value("download_spool_bytes") >= size

    async def requests_that_are_refused(self) -> None:
        """Two for their number, three that never become requests."""
        for number in range(ADMIN_REQUESTS + 2):
            async with self.service.client.get(
                "/v1/download/jobs", headers=bearer("admin")
            ) as response:
                assert response.status == (200 if number < ADMIN_REQUESTS else 429)
        assert await say(self.service, b"\x16\x03\x01 this is no HTTP\r\n\r\n") == 400
        assert await say(self.service, b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n") == 400
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\n\r\n"
        assert await say(self.service, head) == 417

    async def run(self) -> None:
        await self.jobs_that_complete()
        await self.jobs_that_fail()
        await self.a_stored_file_that_is_missing()
        await self.jobs_that_are_cancelled()
        await self.requests_that_are_refused()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def test_every_metric_moves(
    folder: Path, gateway: Gateway, origin: Origin, receiver: Receiver
) -> None:
    """Over real Redis, S3, sources and receivers each metric counts what has happened."""
    with valkey_server() as valkey:
        async with (
            s3_storage(gateway, "metrics") as storage,
            serving(
                folder,
                REDIS_URL=valkey.url,
                DOWNLOADD_STATE_SECRET_KEY=SECRET_KEY,
                **storage.environ,
            ) as service,
        ):
            scenario = Scenario(service, origin, receiver)
            before = await scrape(service)
            await scenario.run()
            after = await eventually(lambda: at_rest(service), what="nothing is under way")
            check_requests(before, after)
            check_jobs(before, after, scenario.stored)
            check_webhooks_and_retries(before, after)
            check_storage(before, after)
            check_site(after)
            check_form(after.text)
            valkey.pause()
            try:
                await check_without_redis(service)
            finally:
                valkey.resume()
            await eventually(lambda: is_up(service, "redis", 1))


async def at_rest(service: Service) -> Scrape | None:
    """What is told when all that was begun has ended."""
    now = await scrape(service)
    gauges = ("downloads_active", "active_sse_connections", "active_websocket_connections")
    busy = any(now.value(name) for name in gauges)
    told = now.value("webhook_deliveries_total", status="gone") == 2
    return now if told and not busy else None


def check_requests(before: Scrape, after: Scrape) -> None:
    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    made = {"method": "POST", "path": INITIATE}
    assert grown("http_requests_total", **made, status="200") == 9
    assert grown("http_request_duration_seconds_count", **made) == 9
    assert grown("http_request_duration_seconds_sum", **made) > 0
    unmatched = {"path": "unmatched"}
    assert grown("http_requests_total", method="OTHER", **unmatched, status="400") == 2
    assert grown("http_requests_total", method="POST", **unmatched, status="417") == 1
    listed = {"method": "GET", "path": "/v1/download/jobs"}
    assert grown("http_requests_total", **listed, status="200") == ADMIN_REQUESTS
    assert grown("http_requests_total", **listed, status="429") == 2
    assert grown("rate_limited_total") == 2


def check_jobs(before: Scrape, after: Scrape, stored: int) -> None:
    since = after.since
    assert since(before, "downloads_initiated_total", "user_type") == {"user": 9}
    ends = {"completed": 3, "failed": 4, "cancelled": 3}
    assert since(before, "downloads_total", "status") == ends
    # One was never begun.
    begun = {**ends, "cancelled": 2}
    assert since(before, "download_processing_seconds_count", "status") == begun
    # All were new but the one that was retried and the one that never began.
    assert after.value("download_queue_wait_seconds_count") == 8
    codes = since(before, "download_file_failures_total", "code")
    assert codes == {"source_refused": 3, "source_missing": 1}
    moved = since(before, "download_bytes_total", "direction")
    assert moved["in"] >= 1000 + 2000 + 500 + 17 * MIB
    assert moved["out"] == stored
    for gauge in ("downloads_active", "download_active_workers", "download_queue_depth"):
        assert after.value(gauge) == 0


def check_webhooks_and_retries(before: Scrape, after: Scrape) -> None:
    deliveries = after.since(before, "webhook_deliveries_total", "status")
    assert deliveries == {"delivered": 1, "failed": 2, "exhausted": 1, "gone": 2}
    retries = after.since(before, "download_retries_total", "stage")
    assert retries == {"fetch": 2, "caller": 1, "webhook": 2}


def check_storage(before: Scrape, after: Scrape) -> None:
    def grown(operation: str, status: str = "ok") -> float:
        labels = {"operation": operation, "status": status}
        return after.value("s3_operations_total", **labels) - before.value(
            "s3_operations_total", **labels
        )

    for operation, count in {
        "PutObject": 2,
        "CreateMultipartUpload": 1,
        "UploadPart": 2,
        "ListParts": 1,
        "CompleteMultipartUpload": 1,
    }.items():
        assert grown(operation) == count, operation
    assert grown("HeadObject") >= 3
    assert grown("GetObject", "object_missing") == 1
    # At the start, and whenever somebody asks whether the storage is there.
    assert before.value("s3_operations_total", operation="HeadBucket", status="ok") >= 1
    assert before.value("s3_operations_total", operation="CreateBucket", status="ok") == 1
    totals = after.since(Scrape(""), "s3_operations_total", "operation")
    assert after.since(Scrape(""), "s3_operation_duration_seconds_count", "operation") == totals


def check_site(after: Scrape) -> None:
    """The process, and what it stands on."""
    for dependency in ("redis", "storage"):
        assert after.value("download_dependency_up", dependency=dependency) == 1
    assert after.value("download_info", version=__version__) == 1
    assert after.value("download_workers") == 2
    assert after.value("download_queue_limit") == 10_000
    assert after.value("download_spool_limit_bytes") == 10 << 30
    assert 0 < after.value("download_disk_free_bytes") <= after.value("download_disk_size_bytes")
    # Beyond the sources' answers the machine's own caches decide.
    for name in ("disk_written_bytes_total", "cpu_seconds_total", "resident_memory_bytes"):
        assert f"process_{name}" in after.text
    assert after.value("process_open_fds") > 0


def check_form(text: str) -> None:
    """Prometheus's own tool finds nothing to object to."""
    promtool = require_tool("promtool")
    check = [promtool, "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def check_without_redis(service: Service) -> None:
    """With a Redis that does not answer, the rest is told soon, and that it does not."""
    began = time.monotonic()
    now = await scrape(service)
    assert time.monotonic() - began < 3
    assert math.isnan(now.value("download_queue_depth"))
    await eventually(lambda: is_up(service, "redis", 0))
    assert await is_up(service, "storage", 1)


async def is_up(service: Service, dependency: str, value: int) -> bool:
    now = await scrape(service)
    return now.value("download_dependency_up", dependency=dependency) == value


# --- labels -----------------------------------------------------------------------------


def known_codes() -> set[str]:
    """The codes of all errors there are."""

    def below(kind: type[DownloaddError]) -> Iterator[type[DownloaddError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return {kind.code for kind in below(DownloaddError)}


def known_paths() -> set[str]:
    app = aiohttp.web.Application()
    app.add_routes([*ROUTES, *LOCAL_ROUTES])
    return {UNMATCHED, *(resource.canonical for resource in app.router.resources())}


class Fuzz:
    """Requests that nobody would make, the same ones each time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._random = random.Random(10)
        self.statuses: Counter[int] = Counter()

    def word(self) -> str:
        letters = "abcdefgXYZ0123456789-_.~%20é/"
        return "".join(self._random.choices(letters, k=self._random.randint(1, 30)))

    def path(self) -> str:
        """Something, behind the beginning of something known."""
        known = self._random.choice(sorted(known_paths() - {UNMATCHED}))
        stem = known.partition("{")[0] if self._random.random() < 0.7 else "/"
        return f"{stem}{self.word()}"

    async def request(self) -> None:
        usual = ("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
        odd = "".join(self._random.choices("ABCDEFGHIJ", k=6))
        method = self._random.choice([*usual, odd])
        headers = bearer(self._random.choice([*ROLES, self.word(), self.word()]))
        path = self.path()
        if self._random.random() < 0.2:
            method, path = "POST", INITIATE
        async with self._service.client.request(
            method,
            f"{self._service.url}{path}",
            headers=headers,
            json={"source_urls": [self.word()]},
        ) as response:
            await response.read()
            self.statuses[response.status] += 1

    async def raw(self) -> None:
        noise = self._random.randbytes(self._random.randint(1, 60)).replace(b"\n", b"")
        start = self._random.choice([noise, b"GET /\x00 HTTP/1.1", b"GET / HTTP/7.3", b"A B C"])
        self.statuses[await say(self._service, start + b"\r\n\r\n")] += 1


async def test_labels_stay_bounded(folder: Path, origin: Origin) -> None:
    """Whatever is asked for and however sources answer, there are no more series for it."""
    async with serving(folder, DOWNLOADD_FETCH_RETRIES="0") as service:
        fuzz = Fuzz(service)
        for _ in range(20):
            await asyncio.gather(*(fuzz.request() for _ in range(20)))
        for _ in range(30):
            await fuzz.raw()
        assert set(fuzz.statuses) >= {400, 403, 404, 405}
        statuses = [code for code in range(205, 600, 4) if code != 304]
        urls = [origin.url(code, 10, status=code) for code in statuses]
        job_id = await service.initiate(body(*urls, onError="skip"))
        assert (await service.ended(job_id))["status"] == "failed"
        now = await scrape(service)

    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER"}
    assert now.labels("method") == methods
    assert now.labels("path") <= known_paths()
    assert now.labels("user_type") == ROLES | {"anonymous"}
    failed = sum(now.since(Scrape(""), "download_file_failures_total", "code").values())
    assert failed == len(urls)
    assert now.labels("code") <= known_codes()
    words = {"completed", "failed", "cancelled", *("delivered", "gone", "exhausted")}
    numbers = {str(status.value) for status in HTTPStatus} | {"499"}
    assert now.labels("status") <= words | {"undeliverable"} | numbers
    assert json.dumps(sorted(now.labels("stage"))) == json.dumps(
        ["caller", "fetch", "job", "storage", "upload", "webhook"]
    )
