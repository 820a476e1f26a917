"""How long jobs take: arithmetic over what was measured. Pure: no I/O, no clock.

A file costs a fixed time until its first byte, then its bytes at the pace of
its host. Files go side by side in lanes, as the pipeline fetches them. What
was measured in other jobs counts until the job has measurements of its own,
which soon outweigh it. Times are seconds, sizes are bytes; None is "not known".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from downloadd.model import (
    LONGEST_ESTIMATE,
    FileEntry,
    FileStatus,
    Record,
    Source,
    whole_seconds,
)
from downloadd.pipeline import Flight
from downloadd.ports import History, Sums, Transfer, Turn
from downloadd.urls import host_of

#: What a transfer can have been: bytes a second.
_SLOWEST, _FASTEST = 1.0, 1e11
#: How much other jobs' transfers may weigh beside a job's own: so many files of its host.
_PRIOR_FILES = 2.0
#: The same for files of other hosts, where nothing is known of this one.
_STRANGER_FILES = 1.0
#: What each transfer of a job leaves of the weight of those before it.
_DECAY = 0.9
#: Seconds over which the pace of a transfer under way is taken.
_WINDOW = 10.0
#: What others of its host weigh beside a transfer's own pace: seconds.
_TRUST = 1.0
#: Seconds of transfers that say something where nothing else is known.
_ENOUGH = 0.5
#: A file of unknown size that is larger than others of its host has this share still to come.
_REST = 0.25
#: Seconds between two looks at a running job: sorting 1,000 files into lanes costs a millisecond.
_PAUSE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lanes(Record):
    """How many files are fetched at once."""

    per_job: int
    per_host: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan(Record):
    """What a job that is made now will take."""

    #: Seconds of work on it.
    work: float | None = None
    turn: Turn = field(default_factory=Turn)

    def total(self, place: int) -> int | None:
        """Whole seconds until the job at this place in the queue has ended."""
        return None if self.work is None else whole_seconds(self.turn.wait(place) + self.work)


def plan(history: History, sources: Sequence[Source], lanes: Lanes, *, slots: int) -> Plan:
    """Plan a job of these files. ``slots``: jobs that this process works on at once."""
    paces = _Paces(history)
    files = ((host_of(source.url), source.size) for source in sources)
    work = makespan(((host, paces.whole_file(host, size)) for host, size in files), lanes)
    if work is not None:
        work += history.tail or 0.0
        work = None if work > LONGEST_ESTIMATE else round(work, 3)
    return Plan(work=work, turn=turn(history, work, slots=slots))


def turn(history: History, work: float | None, *, slots: int) -> Turn:
    """How the queue moves; ``work`` is what one job takes where none was measured."""
    slots = history.slots or slots
    mean = history.job_seconds if history.job_seconds is not None else work
    return Turn(
        free=max(0, slots - history.active),
        per_place=0.0 if mean is None else mean / slots,
    )


def makespan(files: Iterable[tuple[str, float | None]], lanes: Lanes) -> float | None:
    """Seconds until the last of these files is there, each given by its host and seconds.

    They are begun in this order: one that waits for its host keeps its lane.
    """
    free = [0.0] * lanes.per_job
    hosts: dict[str, list[float]] = {}
    last = 0.0
    for host, seconds in files:
        if seconds is None:
            return None
        slots = hosts.setdefault(host, [0.0] * lanes.per_host)
        end = max(heappop(free), heappop(slots)) + seconds
        heappush(free, end)
        heappush(slots, end)
        last = max(last, end)
    return last


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pace(Record):
    """What a transfer from one host is expected to be."""

    #: Bytes a second.
    rate: float | None
    #: Seconds to the first byte; 0 where nothing is known.
    latency: float
    #: Bytes of one file.
    size: float | None


class _Paces:
    """What transfers are expected to take: by history, and by what a job has seen itself."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen: dict[str, Sums] = {}
        self._seen_overall = Sums()
        self._known: dict[str, Sums] = {}
        self._paces: dict[str, _Pace] = {}

    def add(self, transfer: Transfer) -> None:
        sums = Sums.of(transfer)
        earlier = self._seen.get(transfer.host, Sums())
        self._seen[transfer.host] = earlier.times(_DECAY).plus(sums)
        self._seen_overall = self._seen_overall.times(_DECAY).plus(sums)

    def look(self, flying: Mapping[str, Sums]) -> None:
        """Take into account what is under way now, by host."""
        overall = self._seen_overall
        for sums in flying.values():
            overall = overall.plus(sums)
        overall = _weighing(self._history.overall, _PRIOR_FILES).plus(overall)
        self._known, self._paces = {"": overall}, {}
        for host in self._seen.keys() | flying.keys() | self._history.hosts.keys():
            own = self._seen.get(host, Sums()).plus(flying.get(host, Sums()))
            prior = self._history.hosts.get(host)
            if prior is not None:
                known = _weighing(prior, _PRIOR_FILES)
            else:
                known = _weighing(self._history.overall, _STRANGER_FILES)
            self._known[host] = known.plus(own)

    def of(self, host: str) -> _Pace:
        if not self._known:
            self.look({})
        if (pace := self._paces.get(host)) is None:
            sums, overall = self._known.get(host, self._known[""]), self._known[""]
            pace = self._paces[host] = _Pace(
                rate=_first(_rate(sums), _rate(overall)),
                latency=_first(_mean(sums, sums.latency), _mean(overall, overall.latency)) or 0.0,
                size=_first(_mean(sums, sums.size), _mean(overall, overall.size)),
            )
        return pace

    def whole_file(self, host: str, size: float | None) -> float | None:
        """Seconds of a file that has not been asked for yet."""
        pace = self.of(host)
        if size is None:
            size = pace.size
        if size is None or pace.rate is None:
            return None
        return pace.latency + size / pace.rate


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one


def _rate(sums: Sums) -> float | None:
    if sums.received <= 0 or sums.seconds <= 0:
        return None
    return min(max(sums.received / sums.seconds, _SLOWEST), _FASTEST)


def _mean(sums: Sums, value: float) -> float | None:
    return value / sums.files if sums.files > 0 else None


def _weighing(sums: Sums | None, files: float) -> Sums:
    """The same measurements, counting for at most so many files."""
    if sums is None or sums.files <= 0:
        return Sums()
    return sums if sums.files <= files else sums.times(files / sums.files)


@dataclass(kw_only=True, slots=True)
class _Watched:
    """A transfer under way, as it was in the last seconds."""

    arrived: int
    at: float
    #: Bytes and seconds since its first byte, those of long ago counting for less.
    received: float
    seconds: float


class Outlook:
    """How long a running job will take from now on.

    Only what this run fetches counts as pace: bytes that an earlier one has
    left are done, and say nothing.
    """

    def __init__(self, history: History, files: Sequence[FileEntry], lanes: Lanes) -> None:
        self._paces = _Paces(history)
        self._lanes = lanes
        self._tail = history.tail or 0.0
        self._hosts = [host_of(entry.source.url) for entry in files]
        self._watched: dict[int, _Watched] = {}
        self._holding: float | None = None
        self._settled: float | None = None
        self._looked: float | None = None
        self._said: float | None = None

    def fetched(self, transfer: Transfer) -> None:
        """Hear of a file that the job has fetched."""
        self._paces.add(transfer)

    def remaining(
        self, files: Sequence[FileEntry], flights: Mapping[int, Flight], now: float
    ) -> int | None:
        """Whole seconds to the job's end. ``flights``: the fetches under way, by index.

        ``now`` never goes back; the answer is a new one once a second.
        """
        if self._looked is None or now - self._looked >= _PAUSE or not flights:
            self._said = self._look(files, flights, now)
            self._looked = now
        return whole_seconds(self._said)

    def _look(
        self, files: Sequence[FileEntry], flights: Mapping[int, Flight], now: float
    ) -> float | None:
        self._paces.look(self._watch(flights, now))
        work = [(self._hosts[i], self._rest(files[i], it, now)) for i, it in flights.items()]
        for entry in files:
            if entry.status is FileStatus.PENDING and entry.index not in flights:
                host = self._hosts[entry.index]
                work.append((host, self._paces.whole_file(host, entry.source.size)))
        if not work:
            return self._ending(now)
        self._settled = None
        fetching = makespan(work, self._lanes_now(flights, now))
        return None if fetching is None else fetching + self._tail

    def _ending(self, now: float) -> float:
        """All files are there: what is left is what other jobs needed from here on."""
        if self._settled is None:
            self._settled = now
        return max(0.0, self._tail - (now - self._settled))

    def _watch(self, flights: Mapping[int, Flight], now: float) -> dict[str, Sums]:
        """Take the pace of what is under way; returns it by host."""
        self._watched = {
            index: self._watched_now(index, flight, now)
            for index, flight in flights.items()
            if flight.begun is not None
        }
        if sum(it.seconds for it in self._watched.values()) < _ENOUGH:
            return {}
        flying: dict[str, Sums] = {}
        for index, it in self._watched.items():
            host = self._hosts[index]
            sums = Sums(received=it.received, seconds=it.seconds)
            flying[host] = flying.get(host, Sums()).plus(sums)
        return flying

    def _watched_now(self, index: int, flight: Flight, now: float) -> _Watched:
        begun = now if flight.begun is None else flight.begun
        earlier = self._watched.get(index)
        if earlier is None or earlier.at < begun:
            earlier = _Watched(
                arrived=flight.arrived - flight.came, at=begun, received=0.0, seconds=0.0
            )
        passed = max(0.0, now - earlier.at)
        kept = math.exp(-passed / _WINDOW)
        return _Watched(
            arrived=flight.arrived,
            at=now,
            received=earlier.received * kept + max(0, flight.arrived - earlier.arrived),
            seconds=earlier.seconds * kept + passed,
        )

    def _rest(self, entry: FileEntry, flight: Flight, now: float) -> float | None:
        """Seconds until a file under way is there."""
        host = self._hosts[entry.index]
        pace = self._paces.of(host)
        left = _bytes_left(entry, pace)
        if left is None or (rate := pace.rate) is None:
            return None
        if flight.begun is None:
            latency = pace.latency
            if flight.asked is not None:
                waited = now - flight.asked
                latency = max(latency - waited, waited / 2)
            return latency + left / rate
        own = self._watched[entry.index]
        rate = (own.received + rate * _TRUST) / (own.seconds + _TRUST)
        return left / max(rate, _SLOWEST)

    def _lanes_now(self, flights: Mapping[int, Flight], now: float) -> Lanes:
        """The lanes that the job has: fewer where others take them."""
        holding = sum(flight.asked is not None for flight in flights.values())
        if holding == len(flights):
            self._holding = None
            return self._lanes
        passed = 0.0 if self._looked is None else now - self._looked
        kept = 0.0 if self._holding is None else math.exp(-passed / _WINDOW)
        self._holding = holding * (1 - kept) + (self._holding or 0.0) * kept
        lanes = min(self._lanes.per_job, max(1, round(self._holding)))
        return self._lanes.evolve(per_job=lanes)


def _bytes_left(entry: FileEntry, pace: _Pace) -> float | None:
    size = entry.size if entry.size is not None else entry.source.size
    if size is not None:
        return float(max(0, size - entry.bytes_fetched))
    if pace.size is None:
        return None
    return max(pace.size - entry.bytes_fetched, entry.bytes_fetched * _REST)
