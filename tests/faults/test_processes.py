"""Several processes on one Valkey and one bucket, some of them killed all the while."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.content import sha256
from tests.e2e.archives import MIB, digests
from tests.e2e.service import S3Storage, Service, eventually
from tests.faults.fleet import Fleet, Watcher, initiate
from tests.faults.observer import Observer
from tests.origin import Origin
from tests.receiver import SECRET, Receiver
from tests.valkey import Valkey

JOBS = 300
WATCHERS = 60
#: Seconds over which jobs come, which is much sooner than they can be done:
#: whoever watches one that waits sees processes come and go.
FEEDING = 6.0
#: Seconds to the first kill, and from each one's restart to the next.
FIRST, PAUSE = 2.0, (3.5, 5.0)
#: A job that is taken over shall be done before the next kill, or it could be
#: there when three processes die and be taken for what kills them.
LEASE = 2


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job that is asked for."""

    key: str
    #: Seed and size of each file.
    files: list[tuple[int, int]]
    #: How each is served.
    queries: list[str] = field(default_factory=list)

    def body(self, origin: str, callback_url: str) -> dict[str, Any]:
        return {
            "callback_url": callback_url,
            "files": [
                {"url": f"{origin}/file/{seed}/{size}/{self.key}?{query}", "name": str(number)}
                for number, ((seed, size), query) in enumerate(
                    zip(self.files, self.queries, strict=True)
                )
            ],
        }

    def digests(self) -> dict[str, str]:
        return {str(number): sha256(*file) for number, file in enumerate(self.files)}


def orders(chance: random.Random) -> Iterator[Order]:
    """One to six files: most small, each fifth job with a slow one, each twentieth large."""
    sizes = [chance.randrange(1, 200_000) for _ in range(40)]
    for number in range(JOBS):
        count = chance.randint(1, 6)
        files = [(chance.randrange(1, 5), chance.choice(sizes)) for _ in range(count)]
        queries = [f"n={n}&delay={chance.uniform(0.2, 0.7):.2f}" for n in range(count)]
        if number % 20 == 0:
            files = [(seed, 7 * MIB) for seed in (1, 2, 3)]
            queries = ["delay=0.1"] * 3
        elif number % 5 == 0:
            files[0], queries[0] = (5, 300_000), "rate=300000"
        yield Order(key=f"order-{number}", files=files, queries=queries)


class Trial:
    """Jobs are fed and watched while processes are killed."""

    def __init__(
        self,
        fleet: Fleet,
        observer: Observer,
        origin: str,
        receiver: Receiver,
        chance: random.Random,
    ) -> None:
        self.orders: dict[str, Order] = {}
        self.watchers: list[Watcher] = []
        self.kills = 0
        self._fleet = fleet
        self._observer = observer
        self._origin = origin
        self.receiver = receiver
        self._chance = chance
        self._watching: list[asyncio.Task[None]] = []

    async def feed(self) -> None:
        for order in orders(self._chance):
            body = order.body(self._origin, self.receiver.url())
            job_id = await initiate(self._fleet, self._chance.choice, order.key, body)
            self.orders[job_id] = order
            # The slow and the large: of a quick one, little is left to be interrupted.
            if len(self.orders) % (JOBS // WATCHERS) == 1:
                watcher = Watcher(job_id, self._fleet, self._chance.choice)
                self.watchers.append(watcher)
                self._watching.append(asyncio.create_task(watcher.watch()))
            await asyncio.sleep(FEEDING / JOBS)

    async def kill_for_ever(self) -> None:
        pause = FIRST
        while True:
            await asyncio.sleep(pause)
            pause = self._chance.uniform(*PAUSE)
            await self._fleet.kill(self._next_to_die())
            self.kills += 1
            await self._fleet.start()

    def _next_to_die(self) -> Service:
        """Any process; each second time the one that most are listening to."""
        any_one = self._chance.choice(self._fleet.living)
        if self.kills % 2 == 0:
            return any_one
        heard = Counter(watcher.server for watcher in self.watchers if watcher.server)
        return max(self._fleet.living, key=lambda it: (heard[it], it is any_one))

    async def run(self) -> None:
        """Until every job has ended and every watcher knows it."""
        killer = asyncio.create_task(self.kill_for_ever())
        try:
            async with asyncio.timeout(150):
                await self.feed()
                await eventually(self._over, seconds=120, what="every job has ended")
                await eventually(self._told, seconds=60, what="every job's end is told")
                await asyncio.gather(*self._watching)
        finally:
            for task in (killer, *self._watching):
                task.cancel()
            ended = await asyncio.gather(killer, *self._watching, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def _told(self) -> bool:
        return not self._observer.untold()

    def _over(self) -> bool:
        return not self._observer.queued() and not self._observer.active()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [2, 3])
async def test_jobs_outlive_processes(
    folder: Path, valkey: Valkey, bucket: S3Storage, distant_origin: str, processes: int
) -> None:
    """Three hundred jobs complete exactly once, and whoever watches sees every event once.

    Each is told of at its callback URL at least once, and under one id.
    """
    seed = int(os.environ.get("FAULTS_SEED") or secrets.randbits(32))
    print(f"\nFAULTS_SEED={seed}")
    settings = {
        "jobs_lease": LEASE,
        "fetch_per_host": 32,
        "jobs_concurrency": 9 // processes,
        "webhooks_secret": SECRET,
        "webhooks_timeout": 2,
        "webhooks_schedule": "0.5,1,2,4",
    }
    with Observer(valkey.url) as observer:
        async with Receiver() as receiver, Fleet(folder, valkey, bucket, **settings) as fleet:
            for _ in range(processes):
                await fleet.start()
            trial = Trial(fleet, observer, distant_origin, receiver, random.Random(seed))
            await trial.run()
            assert observer.jobs() == set(trial.orders)
            attempts = await assert_right(trial, fleet.living[0], observer, folder)
            assert_told(trial)
            for watcher in trial.watchers:
                watcher.assert_saw([event_id for event_id, _ in observer.events(watcher.job_id)])
            for server in fleet.living:
                await eventually(lambda it=server: it.spool() == {}, what="no temporary file")
            # What the dead could tell nobody of goes when the storage is looked through.
            await fleet.start()
            await eventually(lambda: _one_object_each(bucket, trial), what="one archive a job")
            assert await bucket.parts() == {}
    reconnected = sum(watcher.connections - 1 for watcher in trial.watchers)
    print(
        f"{processes} processes, {trial.kills} kills; claims a job: {dict(attempts)}; "
        f"{len(receiver.calls())} callbacks; "
        f"{reconnected} reconnections of {len(trial.watchers)} watchers"
    )
    assert trial.kills >= 3
    assert reconnected >= 5
    assert sum(count for tries, count in attempts.items() if tries > 1) > 0, "nothing was killed"


async def assert_right(
    trial: Trial, server: Service, observer: Observer, folder: Path
) -> Counter[int]:
    """Every job is completed, once, and its archive holds what was asked for; claims counted."""
    attempts: Counter[int] = Counter()
    for job_id, order in trial.orders.items():
        job = await server.status(job_id, files=False)
        assert job["status"] == "completed", job
        assert observer.ends(job_id) == ["complete"]
        attempts[job["attempts"]] += 1
        path = await server.archive(job, folder)
        assert await asyncio.to_thread(digests, path) == order.digests()
        path.unlink()
    return attempts


def assert_told(trial: Trial) -> None:
    """Each job's end has come, whoever sent it, and however often, as one message."""
    ids: dict[str, set[str]] = {job_id: set() for job_id in trial.orders}
    for call in trial.receiver.calls():
        assert call.message["type"] == "download.completed"
        ids[call.message["data"]["jobId"]].add(call.id)
    assert {len(found) for found in ids.values()} == {1}


async def _one_object_each(bucket: S3Storage, trial: Trial) -> bool:
    found = await bucket.objects()
    return len(found) == JOBS and all(
        sum(job_id in key for key in found) == 1 for job_id in trial.orders
    )


async def test_cancel_from_another_process(
    folder: Path, valkey: Valkey, bucket: S3Storage, origin: Origin
) -> None:
    """A server that does not work on the job cancels it: the one that does stops at once."""
    urls = [origin.url(seed, 10 * MIB, hangup=1) for seed in (1, 2)]
    urls.append(origin.url(3, 10 * MIB, stall_after=MIB))
    with Observer(valkey.url) as observer:
        async with Fleet(folder, valkey, bucket) as fleet:
            worker = await fleet.start()
            job_id = await worker.initiate({"source_urls": urls})
            await eventually(bucket.parts, what="the upload has begun")
            other = await fleet.start()
            assert await other.cancel(job_id) == 200
            await eventually(lambda: origin.open_connections == 0, seconds=5)
            await eventually(lambda: worker.spool() == {}, seconds=5)
            await eventually(lambda: _empty(bucket), seconds=5, what="the upload is gone")
            assert (await worker.status(job_id))["status"] == "cancelled"
            assert observer.ends(job_id) == ["cancelled"]
            assert observer.active() == []


async def _empty(bucket: S3Storage) -> bool:
    return not await bucket.parts() and not await bucket.objects()
