"""``ports.Limiter`` over Redis with the ``limits`` library; in memory while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from limits.aio.storage import MemoryStorage, RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from downloadd.ports import Allowance
from downloadd.state.keys import Keys

log = structlog.get_logger(__name__)

#: Seconds that Redis may take to count, and for which it is not asked when it did not.
PATIENCE, PAUSE = 1.0, 5.0
#: Connections for counting.
CONNECTIONS = 8

_T = TypeVar("_T")
_Storage = RedisStorage | MemoryStorage


class Limits:
    """See ``ports.Limiter``. Make it with ``open_limits``."""

    def __init__(self, shared: RedisStorage, *, alone: bool = False) -> None:
        """``alone``: no other process counts, so that what is over in a minute need not be kept."""
        self._shared = shared
        self._alone = alone
        self._own = MemoryStorage()
        self._away_until = 0.0
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def pace(self, name: str, who: str, *, limit: int, seconds: int) -> Allowance:
        key = f"{name}/{who}"

        async def count(storage: _Storage) -> Allowance:
            granted = await storage.acquire_entry(key, limit, seconds)
            oldest, had = await storage.get_moving_window(key, limit, seconds)
            return _allowance(limit, had, oldest + seconds, granted=granted)

        # A Redis that is ours alone writes each count to the disk before it answers.
        return await (count(self._own) if self._alone else self._count(count))

    async def spend(
        self, name: str, who: str, amount: int, *, limit: int, seconds: int
    ) -> Allowance:
        key = f"{name}/{who}"

        async def count(storage: _Storage) -> Allowance:
            had = await (storage.incr(key, seconds, amount) if amount else storage.get(key))
            granted = had <= limit if amount else had < limit
            # Who is refused asks when there is more; nobody else does.
            until = 0.0 if granted else await storage.get_expiry(key)
            return _allowance(limit, had, until, granted=granted)

        return await self._count(count)

    async def _count(self, count: Callable[[_Storage], Awaitable[_T]]) -> _T:
        # Time counts from when there is a connection: many at once are no Redis that is away.
        async with self._connections:
            if time.monotonic() >= self._away_until:
                try:
                    async with asyncio.timeout(PATIENCE):
                        return await count(self._shared)
                except (RedisError, OSError, TimeoutError) as exc:
                    self._leave(exc)
        return await count(self._own)

    def _leave(self, error: Exception) -> None:
        """Ask Redis no more for a while."""
        if time.monotonic() >= self._away_until:
            log.warning("limits.in_memory", seconds=PAUSE, reason=type(error).__name__)
        self._away_until = time.monotonic() + PAUSE


def _allowance(limit: int, had: int, until: float, *, granted: bool) -> Allowance:
    return Allowance(
        limit=limit,
        remaining=max(0, limit - had),
        reset=max(0.0, until - time.time()),
        granted=granted,
    )


@asynccontextmanager
async def open_limits(url: str, keys: Keys, *, alone: bool = False) -> AsyncIterator[Limits]:
    """Count at ``url``, for the length of the context; ``alone`` as in ``Limits``.

    Nothing is dialled before it is needed.
    """
    pool = BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=PATIENCE)
    try:
        yield Limits(
            RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix=keys.limits,
                connection_pool=pool,  # type: ignore[arg-type]
            ),
            alone=alone,
        )
    finally:
        await pool.disconnect()
