"""Is what this server depends on there? One answer for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from downloadd.errors import DownloaddError
from downloadd.ports import Clock

#: A dependency that takes longer than this, in seconds, is not there.
CHECK_TIMEOUT_SECONDS = 3.0
#: Answers are this old at most: many who ask make one check.
CACHE_SECONDS = 1.0

Check = Callable[[], Awaitable[object]]

_log = structlog.get_logger(__name__)


class Probe:
    """Runs one check, which returns when all is well and raises when not; never raises itself."""

    def __init__(self, name: str, check: Check, clock: Clock) -> None:
        self._name = name
        self._check = check
        self._clock = clock
        self._well = True
        self._checked_at = float("-inf")
        self._running: asyncio.Task[None] | None = None

    async def result(self) -> bool:
        """Say whether it is well, by a check not older than ``CACHE_SECONDS``."""
        if self._outdated():
            await asyncio.shield(self._ask())
        return self._well

    async def within(self, seconds: float) -> bool:
        """The same, but wait no longer than this: then go by what was known last."""
        if self._outdated():
            await asyncio.wait({self._ask()}, timeout=seconds)
        return self._well

    async def recent(self, seconds: float, age: float) -> bool | None:
        """As ``within``; None where what was known last is more than ``age`` seconds old."""
        well = await self.within(seconds)
        return well if self._clock.monotonic() - self._checked_at <= age else None

    def known(self) -> bool:
        """What was known last; where that was no good, ask again for the next time."""
        if not self._well and self._outdated():
            self._ask()
        return self._well

    def doubt(self) -> None:
        """Ask at once: somebody has found that it is not well."""
        self._ask()

    async def close(self) -> None:
        """Ask no more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _outdated(self) -> bool:
        return self._clock.monotonic() - self._checked_at >= CACHE_SECONDS

    def _ask(self) -> asyncio.Task[None]:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name=f"probe-{self._name}")
        return self._running

    async def _run(self) -> None:
        self._well = await self._succeeds()
        self._checked_at = self._clock.monotonic()

    async def _succeeds(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await self._check()
        except TimeoutError:
            _log.warning("health.timed_out", check=self._name)
            return False
        except DownloaddError as exc:
            _log.warning("health.failed", check=self._name, reason=exc.message)
            return False
        except Exception:
            # A fault of ours is an answer too: balancers must get one.
            _log.exception("health.crashed", check=self._name)
            return False
        return True
