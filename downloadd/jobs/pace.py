"""What this process measures, on its way to the store, and what is known of all measurements.

A measurement is kept for a second and written with the others of that second;
what was read counts for as long. Jobs cost next to nothing by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from downloadd.errors import StateError
from downloadd.jobs.estimate import Lanes, Outlook, Plan, plan, turn
from downloadd.model import Job, Source
from downloadd.ports import Clock, History, PaceStore, Stint, Sums, Transfer
from downloadd.urls import host_of

log = structlog.get_logger(__name__)

#: Seconds for which measurements are gathered, and for which what was read counts.
_GATHER, _FRESH = 1.0, 2.0
#: Seconds between two signs of life of a process that measures nothing.
_SIGN = 20.0
#: Hosts whose measurements are held here.
_HELD = 2000
#: Seconds that the last measurements may hold up a stop.
_LAST = 2.0


class PaceBook:
    """Measurements of one process. An async context manager: leaving it writes the last ones."""

    def __init__(self, store: PaceStore, clock: Clock, *, lanes: Lanes, concurrency: int) -> None:
        """``concurrency`` is how many jobs this process works on at once."""
        self._store = store
        self._clock = clock
        self._concurrency = concurrency
        self.lanes = lanes
        self._transfers: dict[str, Sums] = {}
        self._stints: list[Stint] = []
        self._measured = asyncio.Event()
        self._known = False  # to the others, as a process that works on jobs
        self._writer: asyncio.Task[None] | None = None
        self._history = History()
        self._read_at: float | None = None
        self._hosts: dict[str, tuple[float, Sums | None]] = {}

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write_forever(), name="pace-writer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._known or self._measured.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST):
                    await self._write(slots=0)

    # --- measuring ---

    def fetched(self, transfers: Iterable[Transfer]) -> None:
        """Hear of files that have come."""
        for transfer in transfers:
            earlier = self._transfers.get(transfer.host)
            sums = Sums.of(transfer)
            self._transfers[transfer.host] = sums if earlier is None else earlier.plus(sums)
            self._measured.set()

    def worked(self, stint: Stint) -> None:
        """Hear of a job that has been worked on."""
        self._stints.append(stint)
        self._measured.set()

    async def _write_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SIGN if self._known else None):
                    await self._measured.wait()
            await asyncio.sleep(_GATHER)
            await self._write(slots=self._concurrency)

    async def _write(self, *, slots: int) -> None:
        transfers, self._transfers = self._transfers, {}
        stints, self._stints = self._stints, []
        self._measured.clear()
        try:
            await self._store.record(transfers, stints, slots=slots, now=self._clock.now())
            self._known = True
        except StateError as exc:
            # They are lost, and others will come.
            log.info("pace.not_written", error=exc.message)
        except Exception:
            log.exception("pace.write_failed")

    # --- knowing ---

    async def history(self, hosts: Collection[str]) -> History:
        """What is known of these hosts, and overall, some seconds old at the most.

        Raises ``StateUnavailable``.
        """
        now = self._clock.monotonic()
        missing = {host for host in hosts if not self._is_fresh(host, now)}
        found = {host: self._hosts[host][1] for host in hosts if host not in missing}
        if missing or self._read_at is None or now - self._read_at > _FRESH:
            self._history = await self._store.read(missing)
            self._read_at = now
            found |= {host: self._history.hosts.get(host) for host in missing}
            if len(self._hosts) + len(missing) > _HELD:
                self._hosts.clear()
            self._hosts |= {host: (now, found[host]) for host in missing}
        return self._history.evolve(
            hosts={host: sums for host, sums in found.items() if sums is not None}
        )

    def _is_fresh(self, host: str, now: float) -> bool:
        return host in self._hosts and now - self._hosts[host][0] <= _FRESH

    async def plan(self, sources: Sequence[Source]) -> Plan:
        """What a job of these files would take. ``StateUnavailable``."""
        history = await self.history({host_of(source.url) for source in sources})
        return plan(history, sources, self.lanes, slots=self._concurrency)

    async def forecast(self, sources: Sequence[Source]) -> int | None:
        """Whole seconds until a job of these files would have ended, were it made now."""
        planned = await self.plan(sources)
        return planned.total(self._history.waiting + 1)

    async def wait(self, place: int, work: float) -> tuple[float, float]:
        """Seconds until the job at this place in the queue is begun, and as of when.

        ``work`` is what the job itself takes. ``StateUnavailable``.
        """
        history = await self.history(())
        return turn(history, work, slots=self._concurrency).wait(place), history.at

    async def outlook(self, job: Job) -> Outlook:
        """An outlook on a job that is being worked on; where Redis is away, without history."""
        hosts = {host_of(entry.source.url) for entry in job.files}
        try:
            history = await self.history(hosts)
        except StateError as exc:
            log.info("pace.not_read", error=exc.message)
            history = History()
        return Outlook(history, job.files, self.lanes)
