"""What all jobs of a process share: connections, temporary disk, memory.

Everything here belongs to one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

#: Seconds between two looks at whether anything moves; if not, a waiter may go over the cap.
_STANDSTILL = 0.1
#: Looks at that pace, at each of which everybody was through who was busy at the one
#: before, that make a standstill: whoever is busy when the last mover ends may take
#: in what that brought only in his next turn.
_LOOKS = 3
#: Seconds without anything set free after which it may although something moves.
_PATIENCE = 30.0


class FetchSlots:
    """Bounds the requests that are open at once: in all, and to one host."""

    def __init__(self, total: int, per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_host = per_host
        self._hosts: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def hold(self, host: str) -> AsyncIterator[None]:
        """Wait for a place, first with the host, then in all."""
        semaphore, users = self._hosts.get(host) or (asyncio.Semaphore(self._per_host), 0)
        self._hosts[host] = (semaphore, users + 1)
        try:
            async with semaphore, self._total:
                yield
        finally:
            semaphore, users = self._hosts[host]
            if users == 1:
                del self._hosts[host]
            else:
                self._hosts[host] = (semaphore, users - 1)


class MemoryBudget:
    """Bytes of small files that may wait in memory instead of on disk."""

    def __init__(self, cap: int) -> None:
        self._free = cap

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if they are free."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def give_back(self, size: int) -> None:
        self._free += size


@dataclass(order=True)
class _Waiter:
    #: Those who grow come before those who begin; among them, who began first.
    rank: tuple[int, int]
    size: int = field(compare=False)
    ready: asyncio.Future[None] = field(compare=False)


class DiskBudget:
    """Bounds the temporary files of all jobs together; holds fetching back.

    A file reserves its size before its bytes are written. One whose size is
    not known reserves a little at a time, one above the cap begins with half of
    the cap. When the cap is reached, the next waits until uploaded parts have
    set files free.

    Waiting must end even where nothing will be set free: a single file above
    the cap, or files of unknown size that all came to their reservation's end.
    So when nothing moves (no fetch with its reservation, no upload) and those
    who were busy meanwhile set nothing moving (a run that writes down what has
    come, a removal), or what moves sets nothing free for long (a source that
    trickles), the first in line may go over the cap from then on, alone; one
    that grows comes before one that begins, the oldest first, so that at most
    one moving file is over the cap.

    Whoever reserves or grows does so inside ``moving()``.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._used = 0
        self._movers = 0
        self._sequence = 0
        self._waiters: list[_Waiter] = []
        self._standstill: asyncio.TimerHandle | None = None
        #: Called when somebody has to wait: what is merely kept may go.
        self.on_shortage: Callable[[], None] = _nothing
        #: So many looks have found nothing moving.
        self._still = 0
        #: Who is busy now, and who of them was at the last of these looks.
        self._turns: set[object] = set()
        self._awaited: set[object] = set()
        #: Which reservation may go over the cap.
        self._favoured = 0
        #: When something was set free, or somebody began to wait, last.
        self._hopeful_at = 0.0
        #: Bytes over the cap that no waiter was let have: they lay there already.
        self._excused = 0
        #: How many give back what may be counted again.
        self._withheld = 0

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return self._used

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Mark work that ends by itself and sets disk free sooner or later."""
        self._still = 0
        self._movers += 1
        try:
            yield
        finally:
            self._movers -= 1
            self._watch_standstill()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark work after which something may move: its end is awaited first.

        Unlike ``moving``, having been there is no sign of movement: it may come
        again and again without any.
        """
        turn = object()
        self._turns.add(turn)
        try:
            yield
        finally:
            self._turns.remove(turn)
            self._watch_standstill()

    async def reserve(self, size: int) -> Reservation:
        """Wait for ``size`` bytes, or for half of the cap where they are more than it."""
        reservation = self._new_reservation()
        size = self.at_first(size)
        await self._acquire((1, self._sequence), size)
        reservation.size = size
        return reservation

    def adopt(self, size: int) -> Reservation:
        """Reserve bytes that lie there already, whether or not there is room for them."""
        reservation = self._new_reservation()
        reservation.size = size
        self._used += size
        self._excused = max(self._excused, self._used - self._cap)
        return reservation

    @contextmanager
    def withheld(self) -> Iterator[None]:
        """Let those who wait go on waiting: what is given back inside may be counted again."""
        self._withheld += 1
        with self.busy():
            try:
                yield
            finally:
                self._withheld -= 1
                self._grant()

    def _new_reservation(self) -> Reservation:
        self._sequence += 1
        return Reservation(self, self._sequence)

    def at_first(self, size: int) -> int:
        """What a file of ``size`` bytes reserves before any of them comes."""
        return size if size <= self._cap else self._cap // 2

    def keep(self, size: int) -> None:
        """Count bytes that lie there already, whether or not there is room for them."""
        self._used += size

    def give_up(self, size: int) -> None:
        """Count bytes no more that were kept; whoever waits for room looks for it again."""
        self._release(size)

    async def _acquire(self, rank: tuple[int, int], size: int) -> None:
        if rank[1] == self._favoured:
            self._used += size
            return
        waiter = _Waiter(rank, size, asyncio.get_running_loop().create_future())
        if not self._waiters:
            self._hope()
        heapq.heappush(self._waiters, waiter)
        self._grant()
        self._movers -= 1  # whoever waits here does not move
        self._watch_standstill()
        try:
            await waiter.ready
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                heapq.heapify(self._waiters)
                self._grant()
            elif waiter.ready.done() and not waiter.ready.cancelled():
                self._release(size)
            raise
        finally:
            self._movers += 1

    def _release(self, size: int) -> None:
        self._used -= size
        self._excused = max(0, min(self._excused, self._used - self._cap))
        self._hope()
        self._grant()

    def _hope(self) -> None:
        self._hopeful_at = asyncio.get_running_loop().time()

    def _grant(self) -> None:
        if self._withheld:
            return
        while self._waiters and self._has_room(self._waiters[0]):
            waiter = heapq.heappop(self._waiters)
            if not waiter.ready.cancelled():
                self._used += waiter.size
                waiter.ready.set_result(None)
        if self._waiters:
            self.on_shortage()

    def _has_room(self, waiter: _Waiter) -> bool:
        return self._used + waiter.size <= self._cap or waiter.rank[1] == self._favoured

    def _favour_first(self) -> None:
        """Let the first in line over the cap, now and whenever it grows."""
        self._favoured = self._waiters[0].rank[1]
        self._hope()
        self._grant()

    def _watch_standstill(self) -> None:
        if self._waiters and self._standstill is None:
            loop = asyncio.get_running_loop()
            # A moment's grace: between a file's end and its part's upload, or
            # between a grant and its use, nothing moves either.
            self._standstill = loop.call_later(_STANDSTILL, self._break_standstill)

    def _break_standstill(self) -> None:
        self._standstill = None
        if not self._waiters:
            return
        # Not at the first look: a loop that was held up fires late timers first,
        # and whoever was about to move gets a turn.
        if self._movers:
            self._still = 0
        elif not self._still or not self._awaited & self._turns:
            self._still, self._awaited = self._still + 1, set(self._turns)
        if self._still >= _LOOKS or self._hopeless:
            self._still = 0
            self._favour_first()
        self._watch_standstill()

    @property
    def _hopeless(self) -> bool:
        """Whether what moves has set nothing free for long, and nobody was let over the cap yet."""
        waited = asyncio.get_running_loop().time() - self._hopeful_at
        return waited >= _PATIENCE and self._used - self._excused <= self._cap


class Reservation:
    """Disk that one file holds."""

    def __init__(self, budget: DiskBudget, sequence: int) -> None:
        self._budget = budget
        self._sequence = sequence
        self.size = 0

    async def grow(self, size: int) -> None:
        """Wait until the reservation is ``size`` bytes."""
        if (more := size - self.size) > 0:
            await self._budget._acquire((0, self._sequence), more)  # noqa: SLF001
            self.size += more

    def shrink(self, size: int) -> None:
        """Give back what is above ``size`` bytes."""
        if (less := self.size - size) > 0:
            self.size = size
            self._budget._release(less)  # noqa: SLF001

    def release(self) -> None:
        """Give everything back; a second time does nothing."""
        self.shrink(0)


def _nothing() -> None:
    """Nothing is kept that could go."""
