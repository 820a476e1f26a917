"""``kill -9`` at random moments of a job: it ends right, and little is fetched twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import secrets
import statistics
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.content import sha256
from tests.e2e.archives import MIB, assert_unzip_agrees, digests
from tests.e2e.service import (
    LocalStorage,
    S3Storage,
    Service,
    Storage,
    s3_storage,
)
from tests.faults.leftovers import assert_nothing_left
from tests.faults.observer import Observer, Served, covered, served
from tests.gateway import Gateway
from tests.valkey import Valkey

KILLS = 50
#: Servers that work, and are killed, side by side.
LANES = 6
#: So many tries a kill has to find its job unfinished.
TRIES = 6
#: What the moment is multiplied by for each of them that was too late.
SOONER = 0.95
LARGE = 200 * MIB
PATIENCE = 90.0


@dataclass(frozen=True, kw_only=True)
class File:
    seed: int
    size: int
    kind: str = "random"
    #: How the origin serves it.
    query: str

    def url(self, origin: str, tag: str) -> str:
        return f"{origin}{self.path(tag)}?kind={self.kind}&{self.query}"

    def path(self, tag: str) -> str:
        return f"/file/{self.seed}/{self.size}/{tag}"


def forty_files() -> list[File]:
    """One large, text that is deflated, random bytes that are stored, and tiny ones.

    The large one is there after two thirds of the time; the others come one
    after the other all the while.
    """
    files = [File(seed=1, size=LARGE, query=f"rate={100 * MIB}")]
    for seed in range(2, 15):
        files += [
            File(seed=seed, size=MIB + 7_777 * seed, kind="text", query="delay=0.15"),
            File(seed=seed, size=MIB + 77_777 * seed, query="delay=0.25"),
            File(seed=seed, size=seed, query="delay=0.1"),
        ]
    return files


FILES = forty_files()
NAMES = [f"{number:02}-{file.kind}" for number, file in enumerate(FILES)]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One kill and what came of it."""

    kind: str
    #: The kill's place in the job's usual length.
    moment: float
    #: What the job had last said that it was at.
    stage: str
    #: Files that were not to be fetched again; bytes that were, and that might have been.
    covered: int
    refetched: int
    in_flight: int
    #: Seconds from the new process's being healthy to the job's end.
    seconds: float


class Lane:
    """A server on its own data, killed again and again."""

    def __init__(
        self, name: str, server: Service, storage: Storage, observer: Observer, origin: str
    ) -> None:
        self.name = name
        self._server = server
        self._storage = storage
        self._observer = observer
        self._origin = origin
        #: Kills after which the storage had to be looked through.
        self.swept = 0
        self._jobs = 0
        self._folder = server.data_dir.parent
        #: Where archives lie, unless in S3.
        self._local = server.data_dir / "archives" if isinstance(storage, LocalStorage) else None

    async def _begin(self) -> tuple[str, str]:
        """A new job, and what its addresses end with."""
        self._jobs += 1
        tag = f"{self.name}-{self._jobs}"
        body = {
            "files": [
                {"url": file.url(self._origin, tag), "name": name}
                for file, name in zip(FILES, NAMES, strict=True)
            ],
            "options": {"manifest": True},
        }
        return await self._server.initiate(body), tag

    async def undisturbed(self) -> float:
        """Seconds that a job takes."""
        begun = time.monotonic()
        job_id, tag = await self._begin()
        await self._server.ended(job_id, seconds=PATIENCE)
        seconds = time.monotonic() - begun
        await self._assert_right(job_id)
        fetched = await served(self._origin, tag)
        assert [fetched[file.path(tag)].requests for file in FILES] == [1] * len(FILES)
        return seconds

    async def killed(self, moment: float, length: float) -> Round:
        """Kill the server at this fraction of the length of a job, and look what comes of it."""
        for _ in range(TRIES):
            job_id, tag = await self._begin()
            await asyncio.sleep(moment * length)
            await self._server.kill()
            if not self._observer.ends(job_id):
                return await self._restarted(job_id, tag, moment)
            # It was quicker than those before: a kill after the end is no matter either.
            # How long one takes varies by more than the last moments: the next is sooner.
            moment *= SOONER
            await self._server.start()
            length = min(length, await self._took(job_id))
            await self._assert_right(job_id)
        raise AssertionError(f"the job always ends before {moment:.0%} of its time")

    async def _took(self, job_id: str) -> float:
        """Seconds from a job's being made to its end."""
        job = await self._server.status(job_id)
        made, ended = (datetime.fromisoformat(job[name]) for name in ("createdAt", "completedAt"))
        return (ended - made).total_seconds()

    async def _restarted(self, job_id: str, tag: str, moment: float) -> Round:
        before = await served(self._origin, tag)
        stored = covered(self._observer.checkpoint(job_id))
        stage = self._observer.stage(job_id)
        await self._server.start()
        begun = time.monotonic()
        await self._server.ended(job_id, seconds=PATIENCE)
        seconds = time.monotonic() - begun
        await self._assert_right(job_id)
        after = await served(self._origin, tag)
        again = {number for number in stored if self._requests(after, before, tag, number)}
        assert not again, f"fetched again although stored: {sorted(again)}"
        in_flight = [number for number in range(len(FILES)) if number not in stored]
        refetched = sum(_twice(FILES[number], after, tag) for number in range(len(FILES)))
        most = sum(FILES[number].size for number in in_flight if FILES[number].path(tag) in before)
        assert refetched <= most
        return Round(
            kind="local" if self._local else "s3",
            moment=moment,
            stage=stage,
            covered=len(stored),
            refetched=refetched,
            in_flight=most,
            seconds=seconds,
        )

    def _requests(
        self, after: Mapping[str, Served], before: Mapping[str, Served], tag: str, number: int
    ) -> int:
        path = FILES[number].path(tag)
        return after[path].requests - before[path].requests

    async def _assert_right(self, job_id: str) -> None:
        """The archive is what was asked for, and nothing is left of its making; it is removed."""
        job = await self._server.ended(job_id)
        assert (job["status"], job["filesFailed"]) == ("completed", 0), job
        assert self._observer.ends(job_id) == ["complete"]
        assert self._observer.active() == []
        assert self._observer.queued() == []
        self.swept += await assert_nothing_left(self._server, self._storage)
        path = await self._fetched(job)
        await asyncio.to_thread(_assert_holds_all, path, unzip=self._jobs % 8 == 1)
        await self._empty()
        path.unlink(missing_ok=True)

    async def _fetched(self, job: Mapping[str, Any]) -> Path:
        if self._local is None:
            return await self._server.archive(job, self._folder)
        # Where it lies: twice as fast, and there is much to be looked at.
        (key,) = await self._storage.objects()
        path = self._local / key
        with path.open("rb") as file:
            found = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
        assert (found.hexdigest(), path.stat().st_size) == (job["sha256"], job["totalSize"])
        return path

    async def _empty(self) -> None:
        """Make room, and let the next job's archive be the only one again."""
        for key in await self._storage.objects():
            await self._storage.remove(key)


def _assert_holds_all(path: Path, *, unzip: bool) -> None:
    found = digests(path)
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    del found["manifest.json"]
    truth = [sha256(file.seed, file.size, file.kind) for file in FILES]
    # In the order asked for, whatever order they came in.
    assert list(found.items()) == list(zip(NAMES, truth, strict=True))
    assert [file["sha256"] for file in manifest["files"]] == truth
    if unzip:
        assert_unzip_agrees(path)


def _twice(file: File, after: Mapping[str, Served], tag: str) -> int:
    """Bytes of a file that the origin sent more than once."""
    return max(0, after[file.path(tag)].sent - file.size)


@asynccontextmanager
async def lanes(
    folder: Path, gateway: Gateway, valkey: Valkey, origin: str
) -> AsyncIterator[list[Lane]]:
    """Half of them with S3, half with a folder; all on one Valkey under different prefixes."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(LANES):
            name = f"lane{number}"
            place = folder / name
            place.mkdir()
            storage: LocalStorage | S3Storage = LocalStorage(place / "data")
            if number % 2:
                bucket = f"kills-{secrets.token_hex(8)}"
                storage = await stack.enter_async_context(s3_storage(gateway, bucket))
            environ = {
                **storage.environ,
                "REDIS_URL": valkey.url,
                "DOWNLOADD_STATE_PREFIX": f"{{{name}}}:",
                "DOWNLOADD_JOBS_LEASE": "2",
                "DOWNLOADD_FETCH_PER_JOB": "5",
            }
            server = await stack.enter_async_context(Service(place / "data", environ))
            observer = stack.enter_context(Observer(valkey.url, f"{{{name}}}:"))
            made.append(Lane(name, server, storage, observer, origin))
        yield made


def moments(kills: int, chance: random.Random) -> list[float]:
    """Fractions of a job's time: one in each of so many equal stretches, in any order."""
    found = [(number + chance.random()) / kills for number in range(kills)]
    chance.shuffle(found)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_at_any_moment(
    folder: Path, gateway: Gateway, valkey: Valkey, distant_origin: str
) -> None:
    """Fifty kills, spread over a job's length: each time the next process completes it."""
    seed = int(os.environ.get("FAULTS_SEED") or secrets.randbits(32))
    kills = int(os.environ.get("FAULTS_KILLS") or KILLS)
    print(f"\nFAULTS_SEED={seed}")
    due = moments(kills, random.Random(seed))
    rounds: list[Round] = []
    async with lanes(folder, gateway, valkey, distant_origin) as servers:
        lengths = await asyncio.gather(*(lane.undisturbed() for lane in servers))
        length = min(lengths)

        async def work(lane: Lane) -> None:
            while due:
                rounds.append(await lane.killed(due.pop(), length))

        async with asyncio.TaskGroup() as group:
            for lane in servers:
                group.create_task(work(lane))
        swept = sum(lane.swept for lane in servers)
    print(table(rounds, length))
    print(f"Something of a killed process's had to be found in the storage: {swept} times")
    assert len(rounds) == kills


def table(rounds: list[Round], length: float) -> str:
    """The figures, as ``docs/reliability.md`` has them."""
    total = sum(file.size for file in FILES)
    lines = [
        f"A job of {len(FILES)} files, {total / MIB:.0f} MiB, takes {length:.1f} s undisturbed.",
        "",
        "| storage | kills | refetched MiB, min / median / max | might have been, max "
        "| files kept, median | s to the end, median |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("local", "s3"):
        found = [it for it in rounds if it.kind == kind]
        if not found:
            continue
        refetched = [it.refetched / MIB for it in found]
        lines.append(
            f"| {kind} | {len(found)} "
            f"| {min(refetched):.1f} / {statistics.median(refetched):.1f} / {max(refetched):.1f} "
            f"| {max(it.in_flight for it in found) / MIB:.1f} "
            f"| {statistics.median(it.covered for it in found):g} "
            f"| {statistics.median(it.seconds for it in found):.1f} |"
        )
    stages = Counter(it.stage for it in rounds)
    lines += ["", "Killed while " + ", ".join(f"{name}: {stages[name]}" for name in sorted(stages))]
    return "\n".join(lines)
