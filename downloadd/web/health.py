"""Is what this server depends on there?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from downloadd.errors import DownloaddError
from downloadd.ports import Clock

#: A dependency that takes longer than this, in seconds, is not there.
CHECK_TIMEOUT_SECONDS = 3.0
#: Answers are this old at most: many probes make one check.
CACHE_SECONDS = 1.0

Check = Callable[[], Awaitable[object]]

_log = structlog.get_logger(__name__)


class Health:
    """Runs checks, each returning when all is well and raising when not."""

    def __init__(self, checks: Mapping[str, Check], clock: Clock) -> None:
        self._checks = checks
        self._clock = clock
        self._lock = asyncio.Lock()
        self._results: Mapping[str, bool] = {}
        self._checked_at = float("-inf")

    async def results(self) -> Mapping[str, bool]:
        """Say of each dependency whether it is well; never raises."""
        async with self._lock:
            if self._clock.monotonic() - self._checked_at >= CACHE_SECONDS:
                answers = await asyncio.gather(
                    *(self._run(name, check) for name, check in self._checks.items()),
                )
                self._results = dict(zip(self._checks, answers, strict=True))
                self._checked_at = self._clock.monotonic()
            return self._results

    async def _run(self, name: str, check: Check) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await check()
        except TimeoutError:
            _log.warning("health.timed_out", check=name)
            return False
        except DownloaddError as exc:
            _log.warning("health.failed", check=name, reason=exc.message)
            return False
        except Exception:
            # A fault of ours is an answer too: balancers must get one.
            _log.exception("health.crashed", check=name)
            return False
        return True
