"""Whether the process still wants work."""

from __future__ import annotations

import asyncio


class Lifecycle:
    """The one thing that a stop tells every handler."""

    def __init__(self) -> None:
        self._ending = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether the process is going away: balancers send new work elsewhere."""
        return self._ending.is_set()

    def begin_drain(self) -> None:
        """Say so; a second time changes nothing."""
        self._ending.set()

    async def drained(self) -> None:
        """Wait until the process is going away."""
        await self._ending.wait()
