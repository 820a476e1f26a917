"""The sweeper over a real Valkey and both storages: it removes leftovers, and nothing else."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from downloadd.errors import StateUnavailable, StorageUnavailable
from downloadd.jobs.sweeper import Sweeper
from downloadd.model import (
    Archive,
    FileEntry,
    Job,
    JobStatus,
    Link,
    Source,
    terminal_event,
)
from downloadd.ports import Claim, Deduplication, ObjectMeta, SystemClock
from downloadd.state.setup import State
from tests.e2e.service import eventually
from tests.integration.jobs.conftest import Rig, Worker
from tests.integration.objects.support import Body

MIB = 1 << 20
DAY = 86_400.0
META = ObjectMeta(file_name="a.zip")


class Later(SystemClock):
    """The machine's time, or a later one."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


class Site:
    """A sweeper, and what makes things for it to find."""

    def __init__(self, rig: Rig, worker: Worker) -> None:
        self.rig, self.state, self.worker = rig, worker.state, worker
        self.objects = rig.objects
        self.clock = Later()
        self.sweeper = sweeper_of(rig, worker, self.clock)

    async def namespace(self) -> str:
        return await self.state.ledger.namespace() if self.objects.shared else ""

    async def claim(self) -> Claim:
        """A job that is processing, in nobody's hands."""
        now = time.time()
        files = (FileEntry(index=0, source=Source(url="http://files.example/a")),)
        job = Job(id=str(uuid.uuid4()), files=files, total_files=1, created_at=now, updated_at=now)
        await self.state.jobs.create(job, Deduplication(), queue_limit=1000)
        (claim,) = await self.state.jobs.claim(1)
        return claim

    async def end(self, claim: Claim, status: JobStatus, key: str = "") -> Job:
        archive = Archive(key=key, size=4, sha256="", file_name="a.zip")
        job = claim.job.moved(
            status,
            progress=100,
            completed_at=time.time(),
            archive=archive if key else None,
            link=Link(url="x", expires_at=time.time() + 60) if key else None,
        )
        await self.state.jobs.finish(claim.lease, job, terminal_event(job))
        return job

    async def put(self, key: str) -> str:
        await self.objects.put(key, Body(b"data"), META)
        return key

    async def keys(self) -> set[str]:
        return {it.key async for it in self.objects.find_objects("")}

    async def uploads(self) -> set[str]:
        return {it.key async for it in self.objects.find_uploads("")}


def sweeper_of(rig: Rig, worker: Worker, clock: SystemClock) -> Sweeper:
    return Sweeper(
        ledger=worker.state.ledger,
        objects=rig.objects,  # type: ignore[arg-type]
        folders=worker.spool,
        clock=clock,
    )


@pytest.fixture
async def site(rig: Rig) -> AsyncIterator[Site]:
    """A process that works on nothing."""
    rig.retry_window = 3600
    async with rig.pool() as worker:
        await worker.pool.drain(0)
        yield Site(rig, worker)


async def fates(site: Site) -> dict[str, Claim]:
    """Jobs in every state, none with an archive."""
    jobs = {name: await site.claim() for name in ("processing", "failed", "given up", "cancelled")}
    failed = jobs["failed"]
    await site.state.jobs.save(failed.lease, failed.job, checkpoint="x")
    await site.end(failed, JobStatus.FAILED)
    await site.end(jobs["given up"], JobStatus.FAILED)
    await site.state.jobs.cancel(jobs["cancelled"].job.id, time.time())
    jobs["gone"] = await site.claim()
    await site.state.client.execute("DEL", site.state.keys.job(jobs["gone"].job.id))
    return jobs


ALIVE = ("processing", "failed")


# --- what is left over ------------------------------------------------------------


async def test_orphaned_uploads(site: Site) -> None:
    """Those of jobs that nobody goes on with are aborted, also beside a completed archive."""
    ns, jobs = await site.namespace(), await fates(site)
    done = await site.claim()
    await site.end(done, JobStatus.COMPLETED, await site.put(f"{ns}{done.job.id}.zip"))
    for claim in (*jobs.values(), done):
        await site.objects.begin(f"{ns}{claim.job.id}.zip", META)
        await site.objects.begin(f"{ns}{claim.job.id}-2.zip", META)
    assert await site.sweeper.sweep()
    left = {f"{ns}{jobs[name].job.id}{end}.zip" for name in ALIVE for end in ("", "-2")}
    assert await site.uploads() == left
    assert await site.keys() == {f"{ns}{done.job.id}.zip"}


async def test_orphaned_objects(site: Site) -> None:
    """What no job refers to is deleted; an archive and what belongs to a living job stay."""
    ns, jobs = await site.namespace(), await fates(site)
    for claim in jobs.values():
        await site.put(f"{ns}{claim.job.id}.zip")
    done, forgotten = await site.claim(), await site.claim()
    archives = {
        claim.job.id: await site.put(f"{ns}{claim.job.id}-3.zip") for claim in (done, forgotten)
    }
    for claim in (done, forgotten):
        await site.end(claim, JobStatus.COMPLETED, archives[claim.job.id])
        await site.put(f"{ns}{claim.job.id}.zip")  # a late worker's
    # Redis has forgotten this one, but not that its archive's time is still to come.
    await site.state.client.execute("DEL", site.state.keys.job(forgotten.job.id))
    assert await site.sweeper.sweep()
    left = {f"{ns}{jobs[name].job.id}.zip" for name in ALIVE}
    assert await site.keys() == left | set(archives.values())


async def test_what_is_not_ours_stays(site: Site) -> None:
    """Other names, other installations, other folders: nothing of theirs is removed."""
    ns, absent = await site.namespace(), uuid.uuid4()
    odd = [
        f"{ns}{absent}.txt",
        f"{ns}{absent}.zip.part",
        f"{ns}{absent}-x.zip",
        f"{ns}{absent}-.zip",
        f"{ns}{str(absent).upper()}.zip",
        f"{ns}{uuid.uuid1()}.zip",
        f"{ns}x{absent}.zip",
        f"{ns}order-4711.zip",
        f"{ns}sub/{absent}.zip",
    ]
    if site.objects.shared:  # a folder on this machine is nobody else's
        odd += [f"{absent}.zip", f"0123456789abcdef/{absent}.zip", f"{ns[:-1]}{absent}.zip"]
    for key in odd:
        await site.put(key)
        await site.objects.begin(key, META)
    folders = [site.worker.folder / name for name in ("notes", f"{absent}.bak", "x")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "0").touch()
    (site.worker.folder / str(absent)).touch()  # a file, no folder
    assert await site.sweeper.sweep()
    assert await site.keys() == set(odd)
    assert await site.uploads() == set(odd)
    assert all((folder / "0").exists() for folder in folders)
    assert (site.worker.folder / str(absent)).exists()


async def test_a_folder_of_another_installation(site: Site) -> None:
    """Who shares a folder of archives, but not the Redis that knows of them, removes nothing."""
    if site.objects.shared:
        return
    theirs = await site.put(f"{uuid.uuid4()}.zip")
    await site.objects.begin(theirs, META)
    (site.rig.folder / "archives" / ".owner").write_text("another/")
    assert await site.sweeper.sweep()
    assert await site.keys() == await site.uploads() == {theirs}


async def test_temporary_folders(site: Site) -> None:
    """Those of jobs that can still be gone on with stay, with what is in them."""
    jobs = await fates(site)
    for claim in jobs.values():
        path = site.worker.spool.path(claim.job.id, 0)
        site.worker.spool.make_folder_sync(path.parent)
        path.write_bytes(b"payload")
        async with site.worker.spool.keeping(claim.job.id):
            pass
    assert await site.sweeper.sweep()
    left = {path.name for path in site.worker.folder.iterdir()}
    assert left == {jobs[name].job.id for name in (*ALIVE, "given up")}
    assert all((site.worker.folder / name / "0").exists() for name in left)


async def test_a_folder_that_is_worked_in(rig: Rig) -> None:
    """A job whose end is written, and whose worker is not through, keeps its folder until then."""
    held, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        held.set()
        await go_on.wait()

    async with rig.pool() as worker:
        rig.objects.after["abort"] = hold
        sweeper = sweeper_of(rig, worker, SystemClock())
        urls = [rig.origin.url(seed=n, size=20 * MIB) for n in range(2)]
        job_id = await worker.make([*urls, rig.origin.url(seed=9, size=9 * MIB, rate=MIB)])
        await eventually(rig.storage.parts)
        await eventually(worker.spooled)
        await worker.state.jobs.cancel(job_id, time.time())
        await held.wait()
        folder = worker.folder / job_id
        folder.mkdir(exist_ok=True)
        (folder / "kept").touch()
        rig.objects.after.clear()
        assert await sweeper.sweep()
        assert (folder / "kept").exists()
        go_on.set()
        await worker.idle()
        assert worker.holds_nothing()


async def test_a_redis_of_others(site: Site) -> None:
    """Where Redis has become another installation's after listing, nothing is removed."""
    ns = await site.namespace()
    key = await site.put(f"{ns}{uuid.uuid4()}.zip")
    original = site.state.ledger.namespace

    async def then_another() -> str:
        name = await original()
        await site.state.client.execute("SET", site.state.keys.installation, "another")
        return name

    site.state.ledger.namespace = then_another  # type: ignore[method-assign]
    assert await site.sweeper.sweep()
    assert await site.keys() == {key}
    site.state.ledger.namespace = original  # type: ignore[method-assign]


async def test_one_failure_does_not_end_a_sweep(site: Site) -> None:
    """What cannot be removed is left for the next time; everything else goes."""
    ns = await site.namespace()
    for _ in range(3):
        await site.objects.begin(await site.put(f"{ns}{uuid.uuid4()}.zip"), META)
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageUnavailable("The answer was lost.")

    async def broken() -> int:
        raise StateUnavailable("Redis is away.")

    site.objects.after["abort"] = once
    prune = site.state.ledger.prune
    site.state.ledger.prune = broken  # type: ignore[method-assign]
    try:
        assert await site.sweeper.sweep()
    finally:
        site.state.ledger.prune = prune  # type: ignore[method-assign]
    assert calls == 3
    assert await site.uploads() == await site.keys() == set()


# --- archives whose time is over ----------------------------------------------------


async def test_an_archive_expires(site: Site) -> None:
    """Deleted when its time is over, not before; the job is expired then."""
    ns = await site.namespace()
    done = await site.claim()
    key = await site.put(f"{ns}{done.job.id}.zip")
    await site.end(done, JobStatus.COMPLETED, key)
    assert await site.sweeper.expire() == 60
    assert await site.keys() == {key}
    site.clock.ahead = DAY - 30
    assert 25 < await site.sweeper.expire() <= 30
    assert await site.keys() == {key}
    site.clock.ahead = DAY + 1
    assert await site.sweeper.expire() == 60
    assert await site.keys() == set()
    assert (await site.state.jobs.load(done.job.id)).status is JobStatus.EXPIRED


async def test_a_forgotten_job_s_archive_expires(site: Site) -> None:
    """Redis has lost the job: its archive goes when its time is over all the same."""
    ns = await site.namespace()
    done = await site.claim()
    await site.end(done, JobStatus.COMPLETED, await site.put(f"{ns}{done.job.id}.zip"))
    await site.state.client.execute("DEL", site.state.keys.job(done.job.id))
    site.clock.ahead = DAY + 1
    await site.sweeper.expire()
    assert await site.keys() == set()
    assert await site.state.ledger.due(site.clock.now()) == []


async def test_killed_between_storage_and_redis(site: Site) -> None:
    """The storage comes first: killed after it, the next process finds the job and goes on."""
    ns = await site.namespace()
    done = await site.claim()
    await site.end(done, JobStatus.COMPLETED, await site.put(f"{ns}{done.job.id}.zip"))
    site.clock.ahead = DAY + 1

    async def killed() -> None:
        raise asyncio.CancelledError

    site.objects.after["delete"] = killed
    with pytest.raises(asyncio.CancelledError):
        await site.sweeper.expire()
    assert await site.keys() == set()
    assert (await site.state.jobs.load(done.job.id)).status is JobStatus.COMPLETED
    assert len(await site.state.ledger.due(site.clock.now())) == 1

    site.objects.after.clear()
    await sweeper_of(site.rig, site.worker, site.clock).expire()
    assert (await site.state.jobs.load(done.job.id)).status is JobStatus.EXPIRED
    assert await site.state.ledger.due(site.clock.now()) == []


async def test_archives_that_cannot_be_deleted(site: Site) -> None:
    """They stay due, and hold up none of those behind them."""
    ns = await site.namespace()
    jobs = []
    for _ in range(130):  # more than a page
        done = await site.claim()
        jobs.append(await site.end(done, JobStatus.COMPLETED, f"{ns}{done.job.id}.zip"))
    stuck = {job.id for job in jobs[:110]}
    site.clock.ahead = DAY + 60
    delete = site.objects.delete

    async def refuses(key: str) -> None:
        if key.removeprefix(ns).removesuffix(".zip") in stuck:
            raise StorageUnavailable("Away.")
        await delete(key)

    site.objects.delete = refuses  # type: ignore[attr-defined]
    assert await site.sweeper.expire() == 60
    due = await site.state.ledger.due(site.clock.now(), limit=200)
    assert {it.job_id for it in due} == stuck


async def test_two_at_once(site: Site) -> None:
    """Two processes that sweep and expire at the same moment both end well."""
    ns = await site.namespace()
    for number in range(20):
        done = await site.claim()
        key = await site.put(f"{ns}{done.job.id}.zip")
        await site.end(done, JobStatus.COMPLETED, key)
        await site.objects.begin(f"{ns}{uuid.uuid4()}.zip", META)
        if number % 2:
            await site.put(f"{ns}{uuid.uuid4()}.zip")
    site.clock.ahead = DAY + 60
    async with site.rig.pool() as worker:
        await worker.pool.drain(0)
        other = sweeper_of(site.rig, worker, site.clock)
        await asyncio.gather(
            *(it for both in (site.sweeper, other) for it in (both.sweep(), both.expire()))
        )
    assert await site.keys() == await site.uploads() == set()


# --- by itself ------------------------------------------------------------------------


async def test_it_sweeps_by_itself(site: Site) -> None:
    """As soon as its context is entered, and it ends with it."""
    ns = await site.namespace()
    await site.objects.begin(await site.put(f"{ns}{uuid.uuid4()}.zip"), META)
    done = await site.claim()
    await site.end(done, JobStatus.COMPLETED, await site.put(f"{ns}{done.job.id}.zip"))
    site.clock.ahead = DAY + 1

    async def empty() -> bool:
        return not await site.keys() and not await site.uploads()

    async with site.sweeper:
        await eventually(empty)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("sweep")] == []


# --- beside jobs ------------------------------------------------------------------------


@asynccontextmanager
async def sweeping(sweeper: Sweeper) -> AsyncIterator[Callable[[], int]]:
    """Sweep without a pause; the value says how often."""
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            await sweeper.sweep()
            await sweeper.expire()
            rounds += 1

    task = asyncio.create_task(loop())
    try:
        yield lambda: rounds
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended_anyhow(state: State, job_id: str) -> Job:
    async with asyncio.timeout(120):
        while not (job := await state.jobs.load(job_id)).status.ended:
            await asyncio.sleep(0.05)
    return job


async def test_sweeping_beside_jobs(rig: Rig) -> None:
    """While jobs run, end, fail and are cancelled nothing living is touched, nothing is left."""
    chance, origin = random.Random(3), rig.origin
    async with rig.pool(concurrency=8) as worker:
        sweeper = sweeper_of(rig, worker, SystemClock())
        async with sweeping(sweeper) as rounds:
            good = [await worker.make([origin.url(seed=n, size=20_000)]) for n in range(60)]
            good += [
                await worker.make([origin.url(seed=n, size=9 * MIB) for n in (100, 101, 102)])
                for _ in range(3)
            ]
            bad = [
                await worker.make([origin.url(seed=n, size=5000), origin.url(status=404)])
                for n in range(20)
            ]
            bad.append(
                await worker.make(
                    [
                        *(origin.url(seed=n, size=9 * MIB) for n in (100, 101, 102)),
                        origin.url(status=404),
                    ]
                )
            )
            dropped = [
                await worker.make([origin.url(seed=n, size=MIB, rate=MIB // 32)]) for n in range(20)
            ]
            for job_id in chance.sample(dropped, len(dropped)):
                await worker.state.jobs.cancel(job_id, time.time())
                await asyncio.sleep(0.02)
            jobs = {it: await ended_anyhow(worker.state, it) for it in (*good, *bad, *dropped)}
            await worker.idle()
            assert rounds() > 3
        assert {jobs[it].status for it in good} == {JobStatus.COMPLETED}, [
            jobs[it].error for it in good if jobs[it].error
        ]
        assert {jobs[it].status for it in bad} == {JobStatus.FAILED}
        assert {jobs[it].error_code for it in bad} == {"source_refused"}
        assert {jobs[it].status for it in dropped} == {JobStatus.CANCELLED}
        assert {jobs[it].attempts for it in (*good, *bad)} == {1}
        await sweeper.sweep()
        archives = {it.archive for it in jobs.values() if it.archive}
        assert {it.key async for it in rig.objects.find_objects("")} == {it.key for it in archives}
        for archive in archives:
            data = b"".join([chunk async for chunk in rig.objects.read(archive.key)])
            assert len(data) == archive.size
        assert await rig.storage.parts() == {}
        assert worker.holds_nothing()
        await _nothing_is_left_in_redis(worker.state)


async def _nothing_is_left_in_redis(state: State) -> None:
    for name in (state.keys.queue, state.keys.active):
        assert await state.client.execute("ZCARD", name) == 0


async def test_stored_sources_stay(site: Site) -> None:
    """What was put into the storage for jobs to fetch is never removed, however it is named."""
    ns = await site.namespace()
    keys = {"70000.zip", "in/70001.zip", "order-70002-1.zip"}
    for key in keys:
        await site.put(key)
    orphan = await site.put(f"{ns}{uuid.uuid4()}.zip")
    site.clock.ahead = 400 * DAY
    assert await site.sweeper.sweep()
    await site.sweeper.expire()
    assert orphan not in await site.keys()
    assert keys <= await site.keys()
