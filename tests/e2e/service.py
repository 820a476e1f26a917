"""The installed program with its storage, and a client that watches both.

``Service`` is ``downloadd serve`` as a subprocess that can be stopped, killed
and started again on the same data; ``Storage`` looks at what it stores without
asking it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import redis
from aiobotocore.session import get_session

from tests.e2e.archives import MIB, PATIENCE
from tests.folders import file_sizes
from tests.gateway import Gateway
from tests.integration.web.conftest import ENDED, Sent, read_events
from tests.ports import free_port


async def eventually(
    condition: Callable[[], Any], *, seconds: float = PATIENCE, what: str = ""
) -> Any:
    """Wait until a condition (a coroutine function may be one) is true; return what it said."""
    deadline = time.monotonic() + seconds
    while True:
        said = condition()
        value = await said if isinstance(said, Awaitable) else said
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition} (is {value!r})")
        await asyncio.sleep(0.02)


# --- storage ------------------------------------------------------------------


class Storage(Protocol):
    """Where a service puts archives, seen from outside."""

    #: What makes a service use it.
    environ: Mapping[str, str]

    async def objects(self) -> list[str]:
        """Names of finished archives: their keys' last segments."""
        ...

    async def parts(self) -> dict[str, list[int]]:
        """The uploads that are open, each with the numbers of its stored parts."""
        ...

    async def remove(self, key: str) -> None:
        """Remove an object."""
        ...


class LocalStorage:
    def __init__(self, data_dir: Path) -> None:
        self.environ: Mapping[str, str] = {}
        self._root = data_dir / "archives"

    async def objects(self) -> list[str]:
        keys = {path.name for path in self._root.glob("*.zip")}
        # Notes about an archive that is not there would be litter.
        notes = {path.name for path in self._root.glob(".meta/*")}
        return sorted(keys | {note for note in notes if note.removesuffix(".json") not in keys})

    async def parts(self) -> dict[str, list[int]]:
        uploads = self._root / ".uploads"
        return {path.name: _journalled(path / "parts") for path in uploads.glob("*")}

    async def remove(self, key: str) -> None:
        for path in (self._root / key, self._root / ".meta" / f"{key}.json"):
            path.unlink(missing_ok=True)


def _journalled(path: Path) -> list[int]:
    try:
        lines = path.read_text().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted({json.loads(line)[0] for line in lines if line.endswith("]")})


class S3Storage:
    def __init__(self, client: Any, gateway: Gateway, bucket: str) -> None:
        self.environ: Mapping[str, str] = {
            "S3_ENDPOINT": gateway.endpoint,
            "S3_BUCKET_NAME": bucket,
            "S3_REGION": gateway.region,
            "S3_ACCESS_KEY_ID": gateway.access_key_id,
            "S3_SECRET_ACCESS_KEY": gateway.secret_access_key,
            "S3_FORCE_PATH_STYLE": "true",
        }
        self._client = client
        self._bucket = bucket

    async def objects(self) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in await self._keys())

    async def _keys(self) -> list[str]:
        answer = await self._client.list_objects_v2(Bucket=self._bucket)
        return [found["Key"] for found in answer.get("Contents", ())]

    async def parts(self) -> dict[str, list[int]]:
        answer = await self._client.list_multipart_uploads(Bucket=self._bucket)
        found = {}
        for upload in answer.get("Uploads", ()):
            try:
                listed = await self._client.list_parts(
                    Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            except self._client.exceptions.NoSuchUpload:
                continue  # it has ended meanwhile
            found[upload["UploadId"]] = [part["PartNumber"] for part in listed.get("Parts", ())]
        return found

    async def remove(self, key: str) -> None:
        for whole in await self._keys():
            if whole.rpartition("/")[2] == key:
                await self._client.delete_object(Bucket=self._bucket, Key=whole)


@asynccontextmanager
async def s3_storage(gateway: Gateway, bucket: str) -> AsyncIterator[S3Storage]:
    """A bucket on the gateway, which the service makes."""
    async with get_session().create_client(
        "s3",
        endpoint_url=gateway.endpoint,
        region_name=gateway.region,
        aws_access_key_id=gateway.access_key_id,
        aws_secret_access_key=gateway.secret_access_key,
    ) as client:
        yield S3Storage(client, gateway, bucket)


# --- the service ----------------------------------------------------------------


class Service:
    """A server process and a client of it; an async context manager."""

    def __init__(self, data_dir: Path, environ: Mapping[str, str], port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir.parent / "server.log"
        #: What runs the program.
        self.command = [sys.executable, "-m", "downloadd"]
        self.environ = {
            "DOWNLOADD_NETWORK_ALLOW": "127.0.0.1",
            "DOWNLOADD_FETCH_BACKOFF": "0.05",
            # Tests of many requests are not about how many there may be.
            "DOWNLOADD_LIMITS_REQUESTS_PER_MINUTE": "1000000",
            "DOWNLOADD_LIMITS_JOBS_PER_MINUTE": "1000000",
            "DOWNLOADD_LIMITS_STREAMS_PER_CLIENT": "1000000",
            **environ,
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self.client = aiohttp.ClientSession(self.url)
        try:
            await self.start()
        except BaseException:
            if self._process is not None:
                await self.kill()  # it may not hear signals yet
            await self.client.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        if self._process is not None and self._process.poll() is None:
            await self.stop(times=2)

    # --- the process ---

    async def start(self, **environ: str) -> None:
        """Start the server, again on the same data and port, and wait until it is healthy."""
        self.environ |= environ
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(*self.command, "serve"),
                    *("--port", str(self.port), "--data-dir", str(self.data_dir)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environ},
                cwd=self.data_dir.parent,
                start_new_session=True,
            )
        await eventually(self._healthy, what="the server is healthy")

    async def _healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            async with self.client.get("/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    async def stop(self, *, times: int = 1) -> int:
        """Send SIGTERM, a second time for an end at once, and return the exit status."""
        for attempt in range(times):
            if attempt:
                await eventually(
                    lambda: (
                        self.process.poll() is not None
                        or "server.stopping" in self.log_since_start()
                    ),
                    what="the server is stopping",
                )
            self.process.send_signal(signal.SIGTERM)
        return await self.exited()

    async def exited(self) -> int:
        try:
            return await asyncio.to_thread(self.process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait, PATIENCE)
            raise AssertionError(f"it did not end:\n{self.log.read_text()[-3000:]}") from None

    async def kill(self) -> None:
        """As kill -9."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait, PATIENCE)

    def log_since_start(self) -> str:
        return self.log.read_text().rpartition("server.listening")[2]

    def peak_memory(self) -> int:
        """Bytes of memory that the process had at most (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    # --- what it keeps ---

    def spool(self) -> dict[Path, int]:
        """Temporary files and their sizes."""
        sizes = file_sizes(self.data_dir / "spool")
        return {path: size for path, size in sizes.items() if path.name != ".lock"}

    def valkey(self) -> redis.Redis:
        """A client of the embedded Valkey; to be closed."""
        return redis.Redis(
            unix_socket_path=str(self.data_dir / "valkey.sock"), decode_responses=True
        )

    def keys(self) -> set[str]:
        """All of them, but those that count requests."""
        with self.valkey() as valkey:
            return {key for key in valkey.keys("*") if ":limits:" not in key}

    def event_ids(self, job_id: str) -> list[str]:
        """The ids of all events of a job, as Valkey has them."""
        with self.valkey() as valkey:
            return [event for event, _ in valkey.xrange(f"{{downloadd}}:job:{job_id}:events")]

    def events_of(self, job_id: str) -> list[tuple[str, str]]:
        """Id and type of all events of a job, as Valkey has them."""
        with self.valkey() as valkey:
            entries = valkey.xrange(f"{{downloadd}}:job:{job_id}:events")
        return [(event, fields["t"]) for event, fields in entries]

    # --- the client ---

    async def initiate(self, body: Mapping[str, Any]) -> str:
        """Make a job and return its id."""
        async with self.client.post("/v1/download/initiate", json=body) as response:
            assert response.status == 200, await response.text()
            return str((await response.json())["jobId"])

    async def status(self, job_id: str, *, files: bool = True) -> dict[str, Any]:
        """The job, with its files."""
        path = f"/v1/download/status/{job_id}"
        async with self.client.get(path, params={"files": "true"} if files else {}) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def ended(self, job_id: str, *, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for a job's end."""
        async with asyncio.timeout(seconds):
            while (job := await self.status(job_id, files=False))["status"] not in ENDED:
                await asyncio.sleep(0.05)
        return job

    async def cancel(self, job_id: str) -> int:
        """Cancel a job and return the HTTP status."""
        async with self.client.delete(f"/v1/download/{job_id}") as response:
            await response.read()
            return response.status

    async def events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Sent]:
        """The job's events until the stream ends, from ``Last-Event-ID`` on where one is given."""
        headers = {} if after is None else {"Last-Event-ID": after}
        path = f"/v1/download/subscribe/{job_id}"
        async with self.client.get(path, headers=headers) as response:
            assert response.status == 200, await response.text()
            async for event in read_events(response):
                yield event

    async def archive(self, job: Mapping[str, Any], folder: Path) -> Path:
        """Download a completed job's archive by its link, and compare size and SHA-256."""
        assert job["status"] == "completed", job
        path, digest = folder / f"{job['jobId']}.zip", hashlib.sha256()
        async with self.client.get(job["downloadUrl"]) as response:
            assert response.status == 200, await response.text()
            with path.open("wb") as file:
                async for chunk in response.content.iter_chunked(MIB):
                    digest.update(chunk)
                    file.write(chunk)
        assert path.stat().st_size == job["totalSize"]
        assert digest.hexdigest() == job["sha256"]
        return path


# --- an origin that is no part of this process ------------------------------------


@contextmanager
def origin_process() -> Iterator[str]:
    """``tests.origin`` as a process of its own, so that its work is not this one's; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.origin"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(PATIENCE)
