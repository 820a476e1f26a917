"""How long work has taken so far, and where that is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from downloadd.model import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer(Record):
    """How one request brought a file to its end."""

    #: Host and port of the address that was asked for.
    host: str
    #: Bytes of the whole file.
    size: int
    #: Bytes that this request brought: fewer, where it went on from others.
    received: int
    #: Seconds from the request to the first byte, and from there to the verified file.
    latency: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums(Record):
    """Transfers added up, those of long ago counting for less. Bytes and seconds."""

    files: float = 0.0
    size: float = 0.0
    received: float = 0.0
    seconds: float = 0.0
    latency: float = 0.0

    @classmethod
    def of(cls, transfer: Transfer) -> Self:
        return cls(
            files=1.0,
            size=float(transfer.size),
            received=float(transfer.received),
            seconds=transfer.seconds,
            latency=transfer.latency,
        )

    def plus(self, other: Sums) -> Sums:
        return Sums(
            files=self.files + other.files,
            size=self.size + other.size,
            received=self.received + other.received,
            seconds=self.seconds + other.seconds,
            latency=self.latency + other.latency,
        )

    def times(self, factor: float) -> Sums:
        return Sums(
            files=self.files * factor,
            size=self.size * factor,
            received=self.received * factor,
            seconds=self.seconds * factor,
            latency=self.latency * factor,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stint(Record):
    """How long a worker was busy with one job."""

    seconds: float
    #: Seconds from its last file to its end; None where it was not completed.
    tail: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class History(Record):
    """What was measured so far, in all processes, and how busy they are."""

    #: All transfers, and those of each host that was asked about; None: never one.
    overall: Sums | None = None
    hosts: Mapping[str, Sums] = field(default_factory=dict)
    #: Mean seconds of work on one job, and from its last file to its end.
    job_seconds: float | None = None
    tail: float | None = None
    #: Jobs that all processes can work on at once; 0: nobody has said.
    slots: int = 0
    #: Jobs that are being worked on, and that wait.
    active: int = 0
    waiting: int = 0
    #: When something was measured last, seconds since the epoch.
    at: float = 0.0


class PaceStore(Protocol):
    """Measurements that survive the process, and that all processes share."""

    async def record(
        self,
        transfers: Mapping[str, Sums],
        stints: Sequence[Stint],
        *,
        slots: int,
        now: float,
    ) -> None:
        """Add what was measured since the last call, the transfers by host, in one step.

        ``slots`` is how many jobs this process works on at once; 0 when it
        goes away. Raises ``StateUnavailable``: nothing was added.
        """
        ...

    async def read(self, hosts: Collection[str]) -> History:
        """What is known of these hosts, and overall. ``StateUnavailable``."""
        ...
