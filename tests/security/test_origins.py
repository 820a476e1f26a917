"""Hostile origins: whatever one does, its file ends with the right word, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from downloadd.app import GUARD
from tests.e2e.service import Service, eventually
from tests.origin import Origin
from tests.security.hostile_origins import BEHAVIOURS, CAP, COMPLETED, LARGE, Talk

#: Seconds that a job may take, and that the slowest behaviours do.
JOB_SECONDS = 20
#: Bytes by which the server's memory may grow: what arrives is on disk, or refused.
MEMORY = 128 << 20

MESSAGE_CHARS = 300


class HostileOrigin:
    """Serves ``/<name>`` as the behaviour of that name does."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._serve(reader, writer):
                    pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        name = head[0].split(" ")[1].lstrip("/").partition("?")[0]
        headers = {
            line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:]
        }
        behaviour = BEHAVIOURS[name]
        talk = Talk(writer, reader, headers, self.asked[name], self.port)
        self.asked[name] += 1
        doing = asyncio.ensure_future(behaviour.do(talk))
        # Whoever hangs up meanwhile need not be told the rest.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
        finally:
            for task in (doing, gone):
                task.cancel()
            await asyncio.gather(doing, gone, return_exceptions=True)
        if behaviour.stays and not writer.is_closing():
            await asyncio.sleep(0.2)
        return False


@pytest.fixture
async def hostile() -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin() as origin:
        yield origin


def test_there_are_as_many_as_asked_for(tried: Callable[[str, int], None]) -> None:
    tried("origins' behaviours", len(BEHAVIOURS))
    assert len(BEHAVIOURS) >= 60


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def finished(server: Service, job_id: str) -> dict[str, Any]:
    await server.ended(job_id, seconds=JOB_SECONDS * 8)
    return await server.status(job_id)


@pytest.mark.timeout(300)
async def test_every_behaviour(tmp_path: Path, hostile: HostileOrigin, origin: Origin) -> None:
    """Contained, with the right code; no 500, no file, no key, no connection is left behind."""
    environ = {
        "DOWNLOADD_NETWORK_ALLOW": f"127.0.0.1:{hostile.port},127.0.0.1:{origin.port}",
        "DOWNLOADD_FETCH_RETRIES": "1",
        "DOWNLOADD_FETCH_CONNECT_TIMEOUT": "5",
        "DOWNLOADD_FETCH_STALL_TIMEOUT": "1",
        "DOWNLOADD_FETCH_PER_HOST": "32",
        "DOWNLOADD_JOBS_MAX_FILE_BYTES": str(CAP),
        "DOWNLOADD_JOBS_TIMEOUT": str(JOB_SECONDS),
        "DOWNLOADD_JOBS_CONCURRENCY": "32",
        "DOWNLOADD_JOBS_RETRY_WINDOW": "0",
    }
    async with Service(tmp_path / "data", environ) as server:
        warm = await server.initiate({"source_urls": [origin.url(size=10)]})
        await server.ended(warm)
        before = resident(server.process.pid)
        jobs = {
            name: await server.initiate(
                {"source_urls": [f"http://127.0.0.1:{hostile.port}/{name}"]}
            )
            for name in BEHAVIOURS
        }
        ended = {name: await finished(server, job_id) for name, job_id in jobs.items()}
        grown = server.peak_memory() - before

        wrong = {
            name: (
                job.get("errorCode") or job["status"],
                job.get("error"),
                sorted(BEHAVIOURS[name].ends),
            )
            for name, job in ended.items()
            if (job.get("errorCode") or job["status"]) not in BEHAVIOURS[name].ends
        }
        assert not wrong, json.dumps(wrong, indent=1)
        assert grown < MEMORY, f"{grown >> 20} MiB"
        for name, job in ended.items():
            _check_words(name, job)
            if job["status"] == COMPLETED:
                body = BEHAVIOURS[name].body
                with zipfile.ZipFile(await server.archive(job, tmp_path)) as opened:
                    (entry,) = opened.namelist()
                    assert opened.read(entry) == body, name
                    assert "/" not in entry
        # Each was asked twice at the most, but for those that sent it elsewhere.
        assert max(hostile.asked.values()) <= 20

        # Nothing is left, and nothing is the worse for it.
        await eventually(lambda: not server.spool(), what="the temporary files are gone")
        await eventually(lambda: hostile.open == 0, what="the connections are closed")
        left = server.keys()
        assert not [key for key in left if key.endswith((":checkpoint", ":headers"))]
        assert not left & {"{downloadd}:active", "{downloadd}:queue"}
        for _ in range(3):
            well = await server.initiate(
                {"source_urls": [origin.url(size=5000)], "options": {"dedupe": False}}
            )
            assert (await server.ended(well))["status"] == COMPLETED
        log = server.log.read_text()
        for word in ("http.failed", "internal_error", "Traceback", "crashed", "never awaited"):
            assert word not in log, log[log.index(word) - 2000 : log.index(word) + 2000]
        async with server.client.get("/metrics") as response:
            assert 'status="500"' not in await response.text()


def _check_words(name: str, job: dict[str, Any]) -> None:
    """What people read is a sentence of ours, of no length, and repeats nothing that was sent."""
    for said in (job.get("error"), *(file.get("error") for file in job["files"])):
        if said is None:
            continue
        assert said.isprintable(), name
        assert len(said) < MESSAGE_CHARS, (name, said)
        for word in ("Traceback", "aiohttp", "asyncio", "Errno", "object at", "169.254", "passwd"):
            assert word not in said, (name, said)


async def test_answers_are_not_mixed_up(tmp_path: Path, hostile: HostileOrigin) -> None:
    """A forged second answer is not taken for that of the next request on the connection."""
    url = f"http://127.0.0.1:{hostile.port}/second-answer"
    environ = {
        "DOWNLOADD_NETWORK_ALLOW": f"127.0.0.1:{hostile.port}",
        "DOWNLOADD_FETCH_PER_HOST": "1",
    }
    async with Service(tmp_path / "data", environ) as server:
        files = [{"url": f"{url}?{number}"} for number in range(20)]
        job = await server.ended(await server.initiate({"files": files}))
        with zipfile.ZipFile(await server.archive(job, tmp_path)) as opened:
            assert {opened.read(entry) for entry in opened.namelist()} == {b"hello"}


async def test_the_cap_of_a_whole_job(tmp_path: Path, hostile: HostileOrigin) -> None:
    """Files that each are small enough end the job together when they are too much."""
    environ = {
        "DOWNLOADD_NETWORK_ALLOW": f"127.0.0.1:{hostile.port}",
        "DOWNLOADD_JOBS_MAX_FILE_BYTES": str(4 * CAP),
        "DOWNLOADD_JOBS_MAX_JOB_BYTES": str(CAP),
        "DOWNLOADD_JOBS_RETRY_WINDOW": "0",
    }
    async with Service(tmp_path / "data", environ) as server:
        url = f"http://127.0.0.1:{hostile.port}/endless-to-close"
        files = [{"url": f"{url}?{number}"} for number in range(4)]
        for on_error in ("fail", "skip"):
            body = {"files": files, "options": {"onError": on_error}}
            job = await server.ended(await server.initiate(body))
            assert (job["status"], job["errorCode"] in ("job_too_large", LARGE)) == ("failed", True)
        await eventually(lambda: not server.spool(), what="the temporary files are gone")


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
async def test_a_preflight_of_each(start: Any, hostile: HostileOrigin, name: str) -> None:
    """Looking without fetching is no way around: an answer in time, and no 500."""
    async with start(
        network__allow=[f"127.0.0.1:{hostile.port}"],
        fetch__connect_timeout=0.5,
        fetch__stall_timeout=0.5,
        server__request_timeout=5,
    ) as server:
        assert server.app[GUARD]
        body = {"source_urls": [f"http://127.0.0.1:{hostile.port}/{name}"]}
        timeout = aiohttp.ClientTimeout(total=20)
        async with server.client.post("/v1/download/check", json=body, timeout=timeout) as response:
            answer = await response.json()
        assert response.status == 200, answer
        assert answer["files"][0]["reachable"] in (True, False, None)
