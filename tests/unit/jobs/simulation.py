"""Jobs as they would go against hosts of known, unsteady pace: a model with a clock of its own.

Deliberately another machine than the one that estimates: it moves in small
steps, and knows nothing of sums, lanes in advance, or windows.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from downloadd.model import FileEntry, FileStatus, Source
from downloadd.pipeline import Flight
from downloadd.ports import History, Sums, Transfer

STEP = 0.5
PER_JOB, PER_HOST = 8, 6
DECAY = 0.98


@dataclass
class Host:
    name: str
    rate: float
    latency: float
    size: float


@dataclass
class File:
    """One file of a simulated job: what it is, and how far it has come."""

    index: int
    host: Host
    size: int
    told: bool
    rate: float
    latency: float
    asked: float | None = None
    begun: float | None = None
    arrived: float = 0.0
    done: bool = False

    def entry(self) -> FileEntry:
        status = FileStatus.COMPLETED if self.done else FileStatus.PENDING
        if self.asked is not None and not self.done:
            status = FileStatus.FETCHING
        return FileEntry(
            index=self.index,
            source=Source(
                url=f"https://{self.host.name}/{self.index}",
                size=self.size if self.told else None,
            ),
            status=status,
            size=self.size if self.done or self.begun is not None else None,
            bytes_fetched=int(self.arrived),
        )


@dataclass
class Moment:
    """What the server could see of the job at one moment."""

    now: float
    files: Sequence[File]
    lanes: Sequence[File]
    transfers: Sequence[Transfer] = ()
    #: Nothing is left to do.
    ended: bool = False

    def entries(self) -> list[FileEntry]:
        return [file.entry() for file in self.files]

    def flights(self) -> dict[int, Flight]:
        return {file.index: _flight(file) for file in self.lanes}

    def share(self) -> float:
        """Which share of the job's bytes is there."""
        return sum(file.arrived for file in self.files) / sum(file.size for file in self.files)


@dataclass
class World:
    """Hosts, jobs that use them, and what an attentive server remembers of them."""

    seed: int
    hosts: int = 8
    random: random.Random = field(init=False)
    known: dict[str, Sums] = field(default_factory=dict)
    overall: Sums = field(default_factory=Sums)
    jobs: int = 0
    tail: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._hosts = [
            Host(
                name=f"h{number}.example",
                rate=self._around(2e6, 0.9),
                latency=self._around(0.2, 0.6),
                size=self._around(6e6, 0.6),
            )
            for number in range(self.hosts)
        ]

    def _around(self, median: float, sigma: float) -> float:
        return median * math.exp(self.random.gauss(0, sigma))

    def history(self) -> History:
        hosts = {f"{name}:443": sums for name, sums in self.known.items()}
        return History(overall=self.overall, hosts=hosts, tail=self.tail, slots=8)

    def files(self) -> list[File]:
        """A new job: some files of some hosts, their sizes told beforehand or not."""
        used = self.random.sample(self._hosts, self.random.randint(1, 4))
        told = self.random.random() < 0.5
        files = []
        for index in range(self.random.randint(10, 80)):
            host = self.random.choice(used)
            files.append(
                File(
                    index=index,
                    host=host,
                    size=int(self._around(host.size, 0.8)),
                    told=told,
                    rate=self._around(host.rate, 0.4),
                    latency=self._around(host.latency, 0.4),
                )
            )
        return files

    def run(self, files: Sequence[File]) -> Iterator[Moment]:
        """Work on a job step by step; the last moment is its end."""
        now = 0.0
        pending, lanes = deque(files), list[File]()
        while True:
            while pending and len(lanes) < PER_JOB:
                lanes.append(pending.popleft())
            for file in lanes:
                busy = sum(it.asked is not None for it in lanes if it.host is file.host)
                if file.asked is None and busy < PER_HOST:
                    file.asked = now
            now += STEP
            transfers = [it for file in lanes if (it := self._move(file, now)) is not None]
            lanes = [file for file in lanes if not file.done]
            yield Moment(now=now, files=files, lanes=lanes, transfers=transfers)
            for transfer in transfers:
                self._remember(transfer)
            if not pending and not lanes:
                break
        tail = self._around(0.6, 0.3)
        self.tail = (self.tail * self.jobs + tail) / (self.jobs + 1)
        self.jobs += 1
        yield Moment(now=now + tail, files=files, lanes=(), ended=True)

    def _move(self, file: File, now: float) -> Transfer | None:
        if file.asked is None or now - file.asked < file.latency:
            return None
        if file.begun is None:
            file.begun = file.asked + file.latency
        # A connection is never steady.
        pace = file.rate * self._around(1.0, 0.5)
        since = min(STEP, now - file.begun)
        file.arrived = min(file.size, file.arrived + pace * since)
        if file.arrived < file.size:
            return None
        file.done = True
        return Transfer(
            host=f"{file.host.name}:443",
            size=file.size,
            received=file.size,
            latency=file.latency,
            seconds=now - file.begun,
        )

    def _remember(self, transfer: Transfer) -> None:
        name = transfer.host.removesuffix(":443")
        sums = Sums.of(transfer)
        self.known[name] = self.known.get(name, Sums()).times(DECAY).plus(sums)
        self.overall = self.overall.times(DECAY).plus(sums)


def _flight(file: File) -> Flight:
    arrived = int(file.arrived)
    return Flight(arrived=arrived, came=arrived, asked=file.asked, begun=file.begun)
