"""The pool as the application puts it together, over a real Valkey and a real storage."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from downloadd.jobs.estimate import Lanes
from downloadd.jobs.pace import PaceBook
from downloadd.jobs.pool import Pool
from downloadd.model import FileEntry, Job, JobStatus, Options, Source
from downloadd.network.fetch import HttpSource
from downloadd.network.guard import AddressGuard
from downloadd.objects.local import open_local_store
from downloadd.objects.sources import Sources, StoredSource
from downloadd.pipeline import (
    DiskBudget,
    FetchPolicy,
    FetchServices,
    FetchSlots,
    JobRun,
    MemoryBudget,
    RunServices,
    Spool,
)
from downloadd.ports import Claim, Deduplication, ObjectStore, SystemClock
from downloadd.state.setup import State, open_state
from downloadd.telemetry.metrics import Metrics
from tests.e2e.service import LocalStorage, Storage, s3_storage
from tests.folders import file_sizes
from tests.gateway import Gateway, run_gateway
from tests.integration.objects.conftest import s3_store_at
from tests.origin import Origin
from tests.valkey import Valkey, valkey_server

GIB = 1 << 30


class Hooked:
    """An object store that calls a test when one of its methods has done its work.

    At that moment the storage has changed, and nobody has been told yet.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.after: dict[str, Callable[[], Awaitable[object]]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in self.after:
            return method

        async def hooked(*args: Any, **kwargs: Any) -> Any:
            result = await method(*args, **kwargs)
            await self.after[name]()
            return result

        return hooked


@dataclass
class Rig:
    """What processes share: state, storage, an origin; and ``pool``, a process's own."""

    valkey: Valkey
    origin: Origin
    objects: Hooked
    #: The same storage from outside.
    storage: Storage
    folder: Path
    prefix: str = field(default_factory=lambda: f"{{{uuid.uuid4().hex}}}:")
    lease: float = 30.0
    #: Seconds for which a failed job keeps what it made.
    retry_window: float = 0.0
    #: Bytes of temporary disk that a process may use.
    disk: int = GIB
    #: Seconds until a job is tried again after trouble, in turn.
    pauses: Sequence[float] = ()

    @asynccontextmanager
    async def pool(
        self, *, concurrency: int = 4, timeout: float = 60.0, **options: Any
    ) -> AsyncIterator[Worker]:
        """``options`` go to the ``Pool``."""
        clock, metrics = SystemClock(), Metrics()
        folder = self.folder / uuid.uuid4().hex
        async with AsyncExitStack() as stack:
            state = await stack.enter_async_context(self.state())
            reader = await stack.enter_async_context(
                HttpSource.open_session(
                    AddressGuard(allow=["127.0.0.1"]), connect_timeout=5, stall_timeout=30
                )
            )
            executor = stack.enter_context(ThreadPoolExecutor(4))
            spool = Spool(folder, executor, DiskBudget(self.disk), MemoryBudget(32 << 20))
            policy = FetchPolicy(retries=3, backoff=0.05, max_file_bytes=GIB, format_check="warn")
            services = RunServices(
                fetch=FetchServices(
                    reader=Sources(reader, StoredSource(self.objects)),  # type: ignore[arg-type]
                    clock=clock,
                    spool=spool,
                    slots=FetchSlots(32, 32),
                    policy=policy,
                    metrics=metrics,
                ),
                objects=self.objects,
                per_job=8,
                max_job_bytes=GIB,
            )

            def make_run(claim: Claim) -> JobRun:
                return JobRun(services, claim.job, claim.checkpoint, namespace=claim.namespace)

            lanes = Lanes(per_job=services.per_job, per_host=32)
            book = await stack.enter_async_context(
                PaceBook(state.pace, clock, lanes=lanes, concurrency=concurrency)
            )
            pool = Pool(
                store=state.jobs,
                clock=clock,
                metrics=metrics,
                book=book,
                make_run=make_run,
                concurrency=concurrency,
                lease=self.lease,
                timeout=timeout,
                keep_failed=self.retry_window > 0,
                pauses=self.pauses,
                clear=spool.clear_kept,
                **options,
            )
            state.feed.on_control(wake=pool.wake, cancel=pool.cancel)
            await stack.enter_async_context(pool)
            yield Worker(pool, state, spool, folder, metrics)
        shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def state(self) -> AsyncIterator[State]:
        async with open_state(
            self.valkey.url,
            prefix=self.prefix,
            lease=self.lease,
            retry_window=self.retry_window,
            secret=b"s" * 32,
        ) as state:
            yield state


@dataclass
class Worker:
    """A process: its pool, its connection to the state, its temporary folder."""

    pool: Pool
    state: State
    spool: Spool
    folder: Path
    metrics: Metrics

    async def make(self, urls: list[str], *, user: str = "anonymous", **options: Any) -> str:
        """Queue a job; it is wanted at once."""
        now = time.time()
        sources = [Source(url=url) for url in urls]
        job = Job(
            id=str(uuid.uuid4()),
            user=user,
            files=tuple(FileEntry(index=i, source=source) for i, source in enumerate(sources)),
            total_files=len(sources),
            options=Options(**options),
            created_at=now,
            updated_at=now,
        )
        await self.state.jobs.create(job, Deduplication(), queue_limit=1000)
        return job.id

    async def ended(self, job_id: str) -> Job:
        async with asyncio.timeout(20):
            while not (job := await self.state.jobs.load(job_id, files=True)).status.ended:
                await asyncio.sleep(0.02)
        return job

    async def idle(self) -> None:
        """Wait until no job is worked on."""
        async with asyncio.timeout(20):
            while self.pool.active:
                await asyncio.sleep(0.01)

    def spooled(self) -> dict[Path, int]:
        return file_sizes(self.folder)

    def holds_nothing(self) -> bool:
        """Whether no temporary file, no disk and no memory is held."""
        if not self.spool.memory.take(32 << 20):
            return False
        self.spool.memory.give_back(32 << 20)
        return not self.spooled() and not self.spool.disk.used


async def archive(rig: Rig, job: Job, folder: Path) -> Path:
    """A completed job's archive as the storage has it, compared with the job's SHA-256."""
    assert job.status is JobStatus.COMPLETED, job.error
    assert job.archive is not None
    path = folder / "archive.zip"
    with path.open("wb") as file:
        async for chunk in rig.objects.read(job.archive.key):
            file.write(chunk)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.archive.sha256
    assert path.stat().st_size == job.archive.size
    return path


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@asynccontextmanager
async def local_rig(valkey: Valkey, origin: Origin, folder: Path) -> AsyncIterator[Rig]:
    async with open_local_store(
        folder / "archives", base_url="http://127.0.0.1:3000", secret=b"s" * 32
    ) as store:
        yield Rig(valkey, origin, Hooked(store), LocalStorage(folder), folder)


@pytest.fixture
async def local(valkey: Valkey, origin: Origin, tmp_path: Path) -> AsyncIterator[Rig]:
    async with local_rig(valkey, origin, tmp_path) as rig:
        yield rig


@pytest.fixture(params=["local", "s3"])
async def rig(
    request: pytest.FixtureRequest, valkey: Valkey, origin: Origin, tmp_path: Path
) -> AsyncIterator[Rig]:
    """Each storage in turn."""
    if request.param == "local":
        async with local_rig(valkey, origin, tmp_path) as made:
            yield made
        return
    gateway, bucket = request.getfixturevalue("gateway"), f"bucket-{secrets.token_hex(8)}"
    async with s3_store_at(gateway, bucket) as store, s3_storage(gateway, bucket) as storage:
        yield Rig(valkey, origin, Hooked(store), storage, tmp_path)
