"""A file on its way as it stands at one moment, and how its last request went."""

from __future__ import annotations

from dataclasses import dataclass

from downloadd.model import Record
from downloadd.ports import Clock, Transfer


@dataclass(frozen=True, kw_only=True, slots=True)
class Flight(Record):
    """What a fetch has done since it began. Times are on the monotonic clock."""

    #: Bytes that came, in all requests; those that an earlier run has left are not among them.
    arrived: int = 0
    #: Bytes that came with the request under way.
    came: int = 0
    #: When that request was made; None while the fetch waits for its turn, or to try again.
    asked: float | None = None
    #: When its first byte came.
    begun: float | None = None


class Stopwatch:
    """Takes a fetch's times."""

    def __init__(self, clock: Clock, host: str) -> None:
        self._clock = clock
        self._host = host
        self._arrived = self._came = 0
        self._asked: float | None = None
        self._begun: float | None = None

    @property
    def flight(self) -> Flight:
        return Flight(arrived=self._arrived, came=self._came, asked=self._asked, begun=self._begun)

    def ask(self) -> None:
        """A request is made."""
        self._came = 0
        self._asked, self._begun = self._clock.monotonic(), None

    def take(self, size: int) -> None:
        """Bytes have come."""
        if self._begun is None:
            self._begun = self._clock.monotonic()
        self._arrived += size
        self._came += size

    def rest(self) -> None:
        """The request is over."""
        self._asked = self._begun = None

    def transfer(self, size: int) -> Transfer:
        """How the request went that has just brought the last of a file of this size."""
        now = self._clock.monotonic()
        asked = now if self._asked is None else self._asked
        begun = now if self._begun is None else self._begun
        return Transfer(
            host=self._host,
            size=size,
            received=self._came,
            latency=begun - asked,
            seconds=now - begun,
        )
