"""The recent events of one job, shared by all who watch it in this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from downloadd.model import Event

#: Events kept for watchers; who falls further behind reads the stream.
RING = 64

#: Position in a stream: milliseconds and number, as Redis orders its ids.
Place = tuple[int, int]

START: Place = (0, 0)


def place_of(event_id: str | None) -> Place:
    """The place of a stream id; what is none counts as before the first event."""
    ms, _, number = (event_id or "").partition("-")
    if ms.isascii() and ms.isdigit() and number.isascii() and number.isdigit():
        return int(ms), int(number)
    return START


class Topic:
    """One job's ring of events. Watchers read it by place and wait for more."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        #: How many watchers there are.
        self.watchers = 0
        #: The stream does not exist.
        self.missing = False
        #: Every event after this place is in the ring; None: not known yet.
        self.floor: Place | None = None
        self._ring: deque[tuple[Place, Event]] = deque(maxlen=RING)
        #: Published while the ring was being filled from the stream.
        self._early: list[Event] = []
        self._waiters: set[asyncio.Future[None]] = set()

    def disconnected(self) -> None:
        """From now on events may be missed, until ``fill``."""
        self.floor = None
        self._early.clear()

    def fill(self, newest_first: Sequence[Event]) -> None:
        """Begin anew with the end of the stream (``RING`` events, or all there are)."""
        self.missing = not newest_first
        self._ring.clear()
        for event in reversed(newest_first):
            self._ring.append((place_of(event.id), event))
        whole = len(newest_first) < RING
        self.floor = START if whole or not self._ring else self._ring[0][0]
        early, self._early = self._early, []
        for event in early:
            self.publish(event)
        self._wake()

    def publish(self, event: Event) -> None:
        """Add an event that has just been published."""
        if self.floor is None:
            self._early.append(event)
            return
        place = place_of(event.id)
        if self._ring and place <= self._ring[-1][0]:
            return
        if len(self._ring) == RING:
            self.floor = self._ring[0][0]
        self._ring.append((place, event))
        self.missing = False
        self._wake()

    def after(self, place: Place) -> list[Event]:
        """The ring's events after a place, oldest first."""
        events = []
        for here, event in reversed(self._ring):
            if here <= place:
                break
            events.append(event)
        events.reverse()
        return events

    @property
    def ended(self) -> bool:
        """Whether nothing is to come: the last event is a terminal one."""
        return bool(self._ring) and self._ring[-1][1].type.terminal

    async def changed(self) -> None:
        """Wait for the next event, or for the ring to be filled."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
