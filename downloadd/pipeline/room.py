"""The share of the temporary disk that one file has while it comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from downloadd.pipeline.budget import DiskBudget, Reservation
from downloadd.ports import Clock

#: What a file of unknown size reserves at a time.
STEP = 16 << 20
#: Seconds for which a reservation of the announced size holds; then the file
#: reserves as it comes, like one of unknown size.
_PATIENCE = 30.0


class Room:
    """A reservation that follows a file; nothing is held until ``take``.

    A small file, however slow, takes no part in that.
    """

    def __init__(
        self, disk: DiskBudget, clock: Clock, reservation: Reservation | None = None
    ) -> None:
        """``reservation``: of the bytes that lie there already."""
        self._disk = disk
        self._clock = clock
        self._moving = ExitStack()
        self._reservation = reservation
        self._reserved_at: float | None = None

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Be known as moving while bytes come, if disk is held, or from when it is.

        What comes to disk will leave it again.
        """
        with ExitStack() as self._moving:
            if self._reservation is not None:
                self._moving.enter_context(self._disk.moving())
            yield

    async def take(self, size: int) -> None:
        """Reserve ``size`` bytes in all, inside ``moving``; later calls change nothing."""
        if self._reservation is None:
            self._moving.enter_context(self._disk.moving())
            self._reservation = await self._disk.reserve(size)
        elif self._reserved_at is None:
            await self._reservation.grow(self._disk.at_first(size))
        else:
            return
        self._reserved_at = self._clock.monotonic()

    async def grow(self, received: int) -> None:
        """Make sure of room for ``received`` bytes."""
        if self._reservation is not None and received > self._reservation.size:
            await self._reservation.grow(received + STEP)

    def settle(self, received: int) -> None:
        """Give back what was reserved on the word of a source that takes its time.

        Else one that announces much and sends little would keep others waiting.
        """
        reservation = self._reservation
        if reservation is None or reservation.size <= received + STEP:
            return
        if self._clock.monotonic() - (self._reserved_at or 0.0) > _PATIENCE:
            reservation.shrink(received + STEP)

    def hand_over(self, size: int) -> Reservation:
        """Let go of the reservation, which is ``size`` bytes from now on."""
        reservation, self._reservation, self._reserved_at = self._reservation, None, None
        if reservation is None:
            raise AssertionError("no bytes went to disk")
        reservation.shrink(size)
        return reservation

    def release(self) -> None:
        """Give everything back; a second time does nothing."""
        reservation, self._reservation, self._reserved_at = self._reservation, None, None
        if reservation is not None:
            reservation.release()
